"""Files of lines that people edit and programs change: replaced in one step, locked
against other programs that do the same."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator

_MODE = 0o600  # of a file that is made: such files hold secrets


def change_lines(
    path: str, change: Callable[[list[str]], list[str]], create: bool = True
) -> None:
    """Replace a file in one step by one with other lines, of the same mode and owner.
    It is on the disk when this returns.

    :param change: from the lines to the new ones; if they are the same, or if it
        raises, the file is not touched
    :param create: True: a file that isn't there is made, for its owner alone; by root,
        for the owner of its directory
    :raises OSError: if the file can't be read or written
    """
    path = os.path.realpath(path)  # a link stays one
    if create:
        _make(path)
    with _locked(path) as status:
        before = read_lines(path)
        after = change(list(before))
        if after != before:
            text = "".join(f"{line}\n" for line in after)
            _replace(path, text.encode("utf-8", "surrogateescape"), status)


def read_lines(path: str) -> list[str]:
    """Return the lines of a file, without their newlines. Bytes that aren't UTF-8 are
    kept, as lone surrogates.

    :raises OSError: if it can't be read
    """
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        lines = file.read().split("\n")
    return lines if lines[-1] else lines[:-1]


def _make(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        try:
            if os.geteuid() == 0:
                os.fchown(fd, os.stat(os.path.dirname(path)).st_uid, -1)
        finally:
            os.close(fd)


def _replace(path: str, data: bytes, status: os.stat_result) -> None:
    directory, name = os.path.split(path)
    fd, new = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
    try:
        with open(fd, "wb") as file:
            os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, status.st_mode & 0o7777)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[os.stat_result]:
    """Lock a file against others who replace it, and look at it."""
    while True:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            status = os.fstat(file.fileno())
            # Otherwise somebody has replaced it while we waited.
            if os.path.samestat(status, os.stat(path)):
                yield status
                return
