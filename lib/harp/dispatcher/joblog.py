"""The job log: a directory with a file for each job, and the only state there is.

::

    lock                               held by the dispatcher that runs
    format                             version of this layout
    active/<job id>.jsonl              not ended
    done/2026-11-23T18/<job id>.jsonl  ended; the hour (UTC) is the job id's
    corrupt/                           what could not be read, set aside

A job is created under a hidden name, synced and renamed, so that a file in ``active``
has its first line whole. It moves to ``done`` after its end is on the disk; whoever
looks for it looks in ``active`` first and so never misses it. What each file holds is
in :mod:`harp.dispatcher.jobfile`. Called from any thread; different threads never
write the same job.
"""

from __future__ import annotations

import fcntl
import heapq
import logging
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from .. import jobid, protocol, wire
from ..errors import MISSING_RESULT, Refusal
from ..log import fields
from .disk import Disk, StorageError
from .jobfile import (
    Reader,
    Record,
    Start,
    Trailer,
    Writer,
    decode_trailer,
    packet_number,
)

logger = logging.getLogger(__name__)

LAYOUT = 1

_SUFFIX = ".jsonl"
_NEW = ".new"


class LogInUse(Exception):
    """Raised when another dispatcher holds the directory; says which."""


class Waiting(NamedTuple):
    """A job found at the start that goes back to its queue.

    :ivar size: bytes of its file
    """

    record: Record
    size: int


class JobLog:
    """The directory.

    :param max_job_size: bytes that a job's file may have, but for its end
    :param reserve: bytes that must be free for a new job
    :param disk: what writes
    """

    def __init__(
        self, directory: str, *, max_job_size: int, reserve: int, disk: Disk | None = None
    ) -> None:
        self._directory = directory
        self._active = os.path.join(directory, "active")
        self._done = os.path.join(directory, "done")
        self._corrupt = os.path.join(directory, "corrupt")
        self._max_job_size = max_job_size
        self._reserve = reserve
        self._disk = disk or Disk()
        self._lock = -1

    # --- the directory as a whole ---

    def open(self) -> None:
        """Make the directory, if it isn't there, and take hold of it.

        :raises LogInUse: if another dispatcher has it
        :raises StorageError: if it can't be used, or is of a later layout
        """
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            self._take_lock()
            self._check_layout()
            for path in (self._active, self._done, self._corrupt):
                os.makedirs(path, 0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{error.filename or self._directory}: {error.strerror}"
            ) from None

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        path = os.path.join(self._directory, "lock")
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, 100).decode("ascii", "replace").strip()
            self.close()
            raise LogInUse(
                f"{self._directory}: in use by another dispatcher, process {holder}"
            ) from None
        os.ftruncate(self._lock, 0)
        os.write(self._lock, b"%d\n" % os.getpid())

    def _check_layout(self) -> None:
        path = os.path.join(self._directory, "format")
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except FileNotFoundError:
            with open(path, "x", encoding="ascii") as file:
                file.write(f"{LAYOUT}\n")
            return
        if text != str(LAYOUT):
            raise StorageError(
                f"{path}: layout {text[:20]!r}, but this program knows {LAYOUT} only; "
                "run the version that wrote it"
            )

    def free(self) -> int:
        """Return the bytes that are free.

        :raises StorageError: if the system doesn't say
        """
        try:
            return self._disk.free(self._directory)
        except OSError as error:
            raise StorageError(f"{self._directory}: {error.strerror}") from None

    # --- one job ---

    def create(self, record: Record) -> int:
        """Store a new job; when this returns, it is on the disk.

        :returns: size of its file
        :raises StorageError: if it can't be stored
        """
        free = self.free()
        if free < self._reserve:
            raise StorageError(
                f"{self._directory}: {free} bytes free, "
                f"{self._reserve} are kept in reserve (limits.reserve)"
            )
        line = record.encode()
        new = os.path.join(self._active, f".{record.job_id}{_NEW}")
        fd = -1
        try:
            fd = self._disk.create(new)
            self._disk.write(fd, line)
            self._disk.sync(fd)
            self._disk.rename(new, self._active_path(record.job_id))
            self._disk.sync_directory(self._active)
        except OSError as error:
            self._forget(record.job_id, new)
            raise StorageError(f"{self._active}: {error.strerror}") from None
        finally:
            if fd >= 0:
                os.close(fd)
        return len(line)

    def _forget(self, job_id: str, new: str) -> None:
        for path in (new, self._active_path(job_id)):
            try:
                os.unlink(path)
            except OSError:
                pass  # not made, or not to be removed: nobody has its id

    def writer(self, job_id: str, size: int) -> Writer:
        """Raises StorageError if the job's file can't be opened.

        :param size: bytes of its whole lines
        """
        return Writer(self._disk, self._active_path(job_id), size, self._max_job_size)

    def archive(self, job_id: str) -> None:
        """Move a job that has ended to ``done``. If that fails, the next start does
        it; until then it is found where it is."""
        hour = self._hour(job_id)
        try:
            try:
                self._disk.rename(self._active_path(job_id), self._done_path(job_id))
            except FileNotFoundError:
                os.makedirs(hour, 0o700, exist_ok=True)
                self._disk.rename(self._active_path(job_id), self._done_path(job_id))
        except OSError as error:
            logger.warning(
                "ended job stays in active for now %s",
                fields(job=job_id, error=error.strerror),
            )

    def open_job(self, job_id: str) -> Reader | None:
        """Open a job's file for reading; None if there is none.

        :raises StorageError: if there is one that can't be read
        """
        try:
            return Reader(self._active_path(job_id), self._done_path(job_id))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(f"{error.filename}: {error.strerror}") from None
        if os.path.exists(os.path.join(self._corrupt, job_id + _SUFFIX)):
            raise StorageError(f"job {job_id} could not be read and was set aside")
        return None

    def _active_path(self, job_id: str) -> str:
        return os.path.join(self._active, job_id + _SUFFIX)

    def _done_path(self, job_id: str) -> str:
        return os.path.join(self._hour(job_id), job_id + _SUFFIX)

    def _hour(self, job_id: str) -> str:
        hour = time.strftime("%Y-%m-%dT%H", time.gmtime(jobid.time_of(job_id)))
        return os.path.join(self._done, hour)

    # --- all jobs ---

    def job_ids(self, before: str | None = None) -> Iterator[str]:
        """Yield the ids of all jobs, newest first.

        :param before: only those older than this id; None: all
        """
        previous = None
        active = _ids_in(self._active)
        for job_id in heapq.merge(active, self._done_ids(before), reverse=True):
            # One that moves between the two looks is seen twice.
            if job_id != previous and (before is None or job_id < before):
                yield job_id
            previous = job_id

    def _done_ids(self, before: str | None) -> Iterator[str]:
        last = None if before is None else os.path.basename(self._hour(before))
        for hour in sorted(os.listdir(self._done), reverse=True):
            if last is None or hour <= last:
                yield from _ids_in(os.path.join(self._done, hour))

    # --- after a crash ---

    def recover(self, now: float) -> list[Waiting]:
        """Bring the directory into order after whatever end the last run had.

        :param now: time to record as the end of jobs that were cut off
        :returns: jobs that have not started, in order of submission
        :raises StorageError: if the directory can't be read; one bad file never
            raises, it is set aside
        """
        waiting = []
        try:
            for name in os.listdir(self._active):
                if name.endswith(_NEW):
                    os.unlink(os.path.join(self._active, name))
        except OSError as error:
            raise StorageError(f"{self._active}: {error.strerror}") from None
        for job_id in _ids_in(self._active):
            try:
                found = self._recover_job(job_id, now)
            except (StorageError, OSError) as error:
                self._set_aside(job_id, error)
                continue
            if found is not None:
                waiting.append(found)
        waiting.sort(key=lambda job: job.record.order)
        return waiting

    def _recover_job(self, job_id: str, now: float) -> Waiting | None:
        with Reader(self._active_path(job_id)) as reader:
            record = reader.record()
            if record.job_id != job_id:
                raise StorageError(f"{reader.path}: holds the job {record.job_id!r}")
            tail = _Tail(reader)
        if tail.trailer is not None:
            self.archive(job_id)
            return None
        if tail.start is None and tail.end is None:
            return Waiting(record, tail.size)
        self._end_cut_off(job_id, tail, now)
        return None

    def _end_cut_off(self, job_id: str, tail: _Tail, now: float) -> None:
        end = tail.end or protocol.error_end(
            MISSING_RESULT,
            "the dispatcher went down while the job was running; "
            "whether it finished is unknown",
            protocol.RAN_YES if tail.packets else protocol.RAN_MAYBE,
        )
        start = tail.start.start if tail.start else None
        writer = self.writer(job_id, tail.size)
        try:
            writer.finish(end, Trailer(now, start, end.outcome, tail.packets))
        finally:
            writer.close()
        self.archive(job_id)
        logger.warning(
            "ended a job that was cut off %s", fields(job=job_id, outcome=end.outcome)
        )

    def _set_aside(self, job_id: str, error: Exception) -> None:
        logger.error(
            "job can't be read, set aside %s", fields(job=job_id, error=str(error))
        )
        try:
            os.rename(
                self._active_path(job_id), os.path.join(self._corrupt, job_id + _SUFFIX)
            )
        except OSError as failure:
            logger.error(
                "can't set aside %s", fields(job=job_id, error=failure.strerror)
            )


class _Tail:
    """What the end of a file says: how far it is whole and what stands there last.

    :ivar size: bytes up to the end of the last whole, valid line; an end message that
        has no trailer is not counted
    :ivar end: that end message: it was received, but nobody has seen it yet
    """

    def __init__(self, reader: Reader) -> None:
        self.trailer: Trailer | None = None
        self.start: Start | None = None
        self.end: protocol.End | None = None
        self.packets = 0
        offset = reader.stream_offset()
        start_line = reader.start_line()
        if start_line is not None:
            self.start = _decode_start(start_line)
            if self.start is None:
                offset -= len(start_line)
        self.size = offset
        self._look_back(reader, offset, reader.file_size())

    def _look_back(self, reader: Reader, stream: int, size: int) -> None:
        if size > stream and reader.read(size - 1, size) != b"\n":
            size = reader.line_before(size + 1)
        while size > stream:
            begin = max(stream, reader.line_before(size))
            line = reader.read(begin, size - 1)
            if self._is_last(line, begin, size):
                return
            size = begin

    def _is_last(self, line: bytes, begin: int, size: int) -> bool:
        try:
            message = wire.decode(line)
            if line.startswith(protocol.PACKET_PREFIX):
                self.packets = packet_number(line) + 1
                self.size = size
                return True
        except (Refusal, StorageError):
            return False
        self.trailer = decode_trailer(line)
        if self.trailer is not None:
            self.size = size
            return True
        if self.end is None:
            # Packets, if any, are before it: look on.
            self.end = protocol.parse_end(message)
        return False


def _decode_start(line: bytes) -> Start | None:
    if not line.endswith(b"\n"):
        return None
    try:
        message = wire.decode(line)
        return Start(
            float(message["start"]), str(message["address"]), int(message["port"])
        )
    except (Refusal, KeyError, TypeError, ValueError):
        return None


def _ids_in(path: str) -> list[str]:
    """The job ids in a directory, newest first; none if it isn't there."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return []
    ids = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
    return sorted(filter(jobid.is_valid, ids), reverse=True)
