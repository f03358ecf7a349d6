"""Whether a job log is as doc/joblog.rst says: reads the whole directory, a file at a
time, and changes nothing. Works beside a running dispatcher; then the files in
``active`` change while they are read, and how they end is not judged."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from .checkfile import FileCheck
from .layout import (
    ACTIVE,
    CORRUPT,
    DONE,
    FORMAT_FILE,
    LAYOUT,
    LOCK,
    NEW,
    begin_of_hour,
    file_name,
    hour_of,
    is_new,
    job_of,
)

MAX_LINE = 64 * 1024 * 1024
"""Bytes of the longest line that is read; values may have 16 MiB unless configured
otherwise."""

_NO_FILE = "is no regular file"
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


class Fault(NamedTuple):
    """Something that isn't as it should be.

    :ivar offset: bytes into the file; None: the file as such
    """

    path: str
    offset: int | None
    text: str


class LogCheck:
    """A look at a directory.

    :ivar jobs: files of jobs that were looked at
    :ivar holder: process id of the dispatcher that is at work there, None if none is
    :param most: bytes of the longest line that is read
    :raises OSError: if it is no directory that can be read
    """

    def __init__(self, directory: str, most: int = MAX_LINE) -> None:
        self._directory = directory
        self._most = most
        self._owner = os.stat(directory).st_uid
        self.jobs = 0
        self.holder = _holder(os.path.join(directory, LOCK))

    def faults(self) -> Iterator[Fault]:
        """Yield each fault, as it is found."""
        return self._guard(self._directory, self._all())

    def _all(self) -> Iterator[Fault]:
        yield from self._check_mode(self._directory, _DIRECTORY_MODE)
        layout = self._layout()
        if layout != LAYOUT:
            yield self._fault_of_layout(layout)
            return
        known = {ACTIVE: self._active, DONE: self._done, CORRUPT: self._corrupt}
        for name in sorted(self._names(self._directory)):
            path = os.path.join(self._directory, name)
            if name in (LOCK, FORMAT_FILE):
                yield from self._check_mode(path, _FILE_MODE)
            elif name not in known and name != FORMAT_FILE + NEW:
                yield Fault(path, None, "unknown name")
        # In this order: a job that ends meanwhile is seen in one of them.
        for name, check in known.items():
            path = os.path.join(self._directory, name)
            fault = yield from self._check_mode(path, _DIRECTORY_MODE)
            if not fault:
                yield from self._guard(path, check(path))

    def _guard(self, path: str, faults: Iterator[Fault]) -> Iterator[Fault]:
        """Pass faults on; that a directory can't be read is one, too."""
        try:
            yield from faults
        except OSError as error:
            yield Fault(error.filename or path, None, error.strerror or str(error))

    def _layout(self) -> int | str | None:
        path = os.path.join(self._directory, FORMAT_FILE)
        if not os.path.isfile(path):
            return None
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(20).strip()
        return int(text) if text.isdecimal() else text

    def _fault_of_layout(self, layout: int | str | None) -> Fault:
        path = os.path.join(self._directory, FORMAT_FILE)
        if layout is None:
            return Fault(path, None, "there is no such file: this is no job log")
        if isinstance(layout, int) and layout > LAYOUT:
            text = f"layout {layout} is newer than this program, which knows {LAYOUT}"
            return Fault(path, 0, text)
        return Fault(path, 0, f"layout {layout!a} is unknown")

    def _check_mode(self, path: str, mode: int) -> Iterator[Fault]:
        """Yield what is wrong with how a file or directory stands there.

        :returns: whether it can't be looked into
        """
        try:
            found = os.lstat(path)
        except OSError as error:
            yield Fault(path, None, error.strerror)
            return True
        is_kind = stat.S_ISDIR if mode == _DIRECTORY_MODE else stat.S_ISREG
        if not is_kind(found.st_mode):
            is_directory = mode == _DIRECTORY_MODE
            yield Fault(path, None, "is no directory" if is_directory else _NO_FILE)
            return True
        yield from self._compare_mode(path, found, mode)
        return False

    def _compare_mode(
        self, path: str, found: os.stat_result, mode: int
    ) -> Iterator[Fault]:
        if stat.S_IMODE(found.st_mode) != mode:
            is_mode = stat.S_IMODE(found.st_mode)
            yield Fault(path, None, f"mode is {is_mode:04o}, should be {mode:04o}")
        if found.st_uid != self._owner:
            text = f"owner is {found.st_uid}, that of the directory {self._owner}"
            yield Fault(path, None, text)

    def _names(self, path: str) -> Iterator[str]:
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry.name

    # --- the three directories ---

    def _active(self, directory: str) -> Iterator[Fault]:
        for name in self._names(directory):
            path = os.path.join(directory, name)
            job_id = job_of(name)
            if job_id is not None:
                yield from self._check_job(path, job_id, is_active=True)
                yield from self._look_in_done(path, job_id)
            elif not is_new(name):  # removed by the next start
                yield Fault(path, None, "unknown name")

    def _look_in_done(self, path: str, job_id: str) -> Iterator[Fault]:
        hour = os.path.join(self._directory, DONE, hour_of(job_id))
        done = os.path.join(hour, file_name(job_id))
        # Only then is it in both; it may just have moved from here to there.
        if os.path.lexists(done) and os.path.lexists(path):
            yield Fault(path, None, f"is in {DONE} as well")

    def _done(self, directory: str) -> Iterator[Fault]:
        for hour in sorted(self._names(directory)):
            path = os.path.join(directory, hour)
            if begin_of_hour(hour) is None:
                yield Fault(path, None, "unknown name")
                continue
            fault = yield from self._check_mode(path, _DIRECTORY_MODE)
            if not fault:
                yield from self._guard(path, self._done_hour(path, hour))

    def _done_hour(self, directory: str, hour: str) -> Iterator[Fault]:
        for name in self._names(directory):
            path = os.path.join(directory, name)
            job_id = job_of(name)
            if job_id is None:
                yield Fault(path, None, "unknown name")
                continue
            if hour_of(job_id) != hour:
                yield Fault(path, None, f"is of the hour {hour_of(job_id)}")
            yield from self._check_job(path, job_id, is_active=False)

    def _corrupt(self, directory: str) -> Iterator[Fault]:
        for name in self._names(directory):
            path = os.path.join(directory, name)
            yield Fault(path, None, "was set aside: its first line can't be read")

    # --- one file ---

    def _check_job(self, path: str, job_id: str, is_active: bool) -> Iterator[Fault]:
        # Not to wait for the writer of a pipe, not to leave the directory.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            return  # moved or pruned meanwhile
        except OSError as error:
            is_link = error.errno == errno.ELOOP
            yield Fault(path, None, _NO_FILE if is_link else error.strerror)
            return
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            yield Fault(path, None, _NO_FILE)
            return
        self.jobs += 1
        yield from self._compare_mode(path, found, _FILE_MODE)
        with open(fd, "rb") as file:
            check = FileCheck(file, found.st_size, job_id, self._most)
            may_grow = is_active and self.holder is not None
            try:
                for offset, text in check.faults(may_grow):
                    yield Fault(path, offset, text)
            except OSError as error:
                yield Fault(path, file.tell(), error.strerror)
                return
        if not is_active and check.is_unended:
            yield Fault(path, found.st_size, f"is in {DONE}, but has not ended")


def _holder(lock: str) -> int | None:
    """The process that holds a lock. Asked of the system: whoever tried to take it
    would be in the way of a dispatcher that starts."""
    try:
        inode = os.stat(lock).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    for words in lines:
        # 1: FLOCK ADVISORY WRITE 4711 fe:00:1234 0 EOF
        if len(words) > 5 and words[1] == "FLOCK":
            if words[5].rpartition(":")[2] == str(inode):
                return int(words[4])
    return None
