"""The job log: a directory with a file for each job, and the only state there is. How
the directory is laid out is in :mod:`.layout`, what each file holds in :mod:`.jobfile`.

A job is created under a hidden name, synced and renamed, so that a file in ``active``
has its first line whole. It moves to ``done`` after its end is on the disk; whoever
looks for it looks in ``active`` first and so never misses it. Called from any thread;
different threads never write the same job.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import logging
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from .. import jobid, protocol
from ..config import DispatcherConfig
from ..log import fields
from . import layout
from .disk import Disk, FileGone, NoDescriptors, StorageError
from .jobfile import Reader, Record, Trailer, Writer
from .recovery import Tail, end_of_cut_off

logger = logging.getLogger(__name__)

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class LogInUse(Exception):
    """Raised when another dispatcher holds the directory; says which."""


class Waiting(NamedTuple):
    """A job found at the start that goes back to its queue.

    :ivar queue: with the concurrency that applies; None: no queue
    :ivar size: bytes of its file
    """

    job_id: str
    order: int
    queue: protocol.Queue | None
    size: int


class Unended(NamedTuple):
    """A job found at the start that was cut off, but whose end can't be stored yet.

    :ivar start: seconds since the epoch
    :ivar size: bytes of its file's whole lines
    """

    job_id: str
    start: float | None
    packets: int
    size: int
    end: protocol.End


class JobLog:
    """The directory.

    :param max_job_size: bytes that a job's file may have, but for its end
    :param reserve: bytes that must be free for a new job
    :param disk: what writes
    """

    def __init__(
        self,
        directory: str,
        *,
        max_job_size: int,
        reserve: int,
        disk: Disk | None = None,
    ) -> None:
        self._directory = directory
        self._active = os.path.join(directory, layout.ACTIVE)
        self._done = os.path.join(directory, layout.DONE)
        self._corrupt = os.path.join(directory, layout.CORRUPT)
        self._max_job_size = max_job_size
        self._reserve = reserve
        self._disk = disk or Disk()
        self._lock = -1
        self._refusing_since: float | None = None
        self._last_seen = 0.0
        # Ids of calls that were refused, but whose file can't be removed. Each is
        # added and discarded by the one thread that creates it.
        self._disowned: set[str] = set()

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
            # Or a power cut takes the directories, and the jobs in them.
            self._disk.sync_directory(self._directory)
        except OSError as error:
            self.close()
            raise StorageError(
                f"{error.filename or self._directory}: {error.strerror}"
            ) from None
        except StorageError:
            self.close()
            raise

    def apply(self, config: DispatcherConfig) -> None:
        """Take over what a new configuration says; for jobs that are new or start."""
        self._max_job_size = config.max_job_size
        self._reserve = config.reserve

    @property
    def done_directory(self) -> str:
        return self._done

    @property
    def reserve(self) -> int:
        """Bytes that must be free for a new job."""
        return self._reserve

    @property
    def refusing_since(self) -> float | None:
        """Since when no new job could be stored, in seconds since the epoch; None: the
        last one could."""
        return self._refusing_since

    @property
    def last_seen(self) -> float:
        """When a dispatcher before this one was last at work here, in seconds since the
        epoch; now, if there was none."""
        return self._last_seen

    def say_seen(self) -> None:
        """Leave behind that a dispatcher is at work here at this time."""
        with contextlib.suppress(OSError):  # at worst the next start doubts the clock
            os.utime(self._lock)

    def close(self) -> None:
        for job_id in self._disowned:
            # The next start would take it for a job.
            self._remove(self._active_path(job_id))
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        path = os.path.join(self._directory, layout.LOCK)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, 100).decode("ascii", "replace").strip()
            self.close()
            raise LogInUse(
                f"{self._directory}: in use by another dispatcher, process {holder}"
            ) from None
        found = os.fstat(self._lock)
        self._last_seen = found.st_mtime
        # Not cut first, and of one length: so it can be written on a full disk, too.
        with contextlib.suppress(OSError):
            os.pwrite(self._lock, b"%-10d\n" % os.getpid(), 0)
            # That a start was tried says nothing of the clock; see say_seen.
            os.utime(self._lock, ns=(found.st_atime_ns, found.st_mtime_ns))

    def _check_layout(self) -> None:
        path = os.path.join(self._directory, layout.FORMAT_FILE)
        if not layout.has_format(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + layout.NEW)
            fd = self._disk.create(path + layout.NEW)
            try:
                self._disk.write(fd, b"%d\n" % layout.LAYOUT)
                # Empty after a power cut, it would be taken for another layout.
                self._disk.sync(fd)
            finally:
                os.close(fd)
            self._disk.rename(path + layout.NEW, path)

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
        try:
            self._check_room()
            size = self._store_record(record)
        except StorageError:
            self._refusing_since = self._refusing_since or time.time()
            raise
        self._refusing_since = None
        return size

    def look_again(self) -> None:
        """See whether jobs can be stored again, if the last one could not: it may be
        long until the next one comes."""
        if self._refusing_since is None:
            return
        path = f"{self._active}/{layout.new_name(jobid.make())}"
        try:
            self._check_room()
            fd = self._disk.create(path)
            try:
                self._disk.write(fd, b"\n")
                self._disk.sync(fd)
            finally:
                os.close(fd)
                self._disk.remove(path)
            self._disk.sync_directory(self._active)
        except (OSError, StorageError):
            return
        self._refusing_since = None

    def _check_room(self) -> None:
        free = self.free()
        if free < self._reserve:
            raise StorageError(
                f"{self._directory}: {free} bytes free, "
                f"{self._reserve} are kept in reserve (limits.reserve)"
            )

    def _store_record(self, record: Record) -> int:
        line = record.encode()
        new = f"{self._active}/{layout.new_name(record.job_id)}"
        fd = -1
        try:
            fd = self._disk.create(new)
            self._disk.write(fd, line)
            self._disk.sync(fd)
            self._disk.rename(new, self._active_path(record.job_id))
            self._disk.sync_directory(self._active)
        except OSError as error:
            self._remove(new)
            if not self._remove(self._active_path(record.job_id)):
                self._disowned.add(record.job_id)
            raise StorageError(f"{self._active}: {error.strerror}") from None
        finally:
            if fd >= 0:
                os.close(fd)
        # One that a refused call has left under this id is replaced.
        self._disowned.discard(record.job_id)
        return len(line)

    def _remove(self, path: str) -> bool:
        """Remove the file of a call that is refused; tell whether it is gone. If not,
        it is no job to anybody, and :meth:`close` tries once more."""
        try:
            self._disk.remove(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.error(
                "file of a refused call can't be removed, remove it before the next "
                "start %s",
                fields(path=path, error=error.strerror),
            )
            return False
        return True

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
        if job_id in self._disowned:
            return None
        try:
            return Reader(self._active_path(job_id), self._done_path(job_id))
        except FileNotFoundError:
            pass
        except OSError as error:
            kind = NoDescriptors if error.errno in _NO_DESCRIPTORS else StorageError
            raise kind(f"{error.filename}: {error.strerror}") from None
        if os.path.exists(self._corrupt_path(job_id)):
            raise StorageError(f"job {job_id} could not be read and was set aside")
        return None

    def record(self, job_id: str) -> Record:
        """Return what was submitted.

        :raises StorageError: if it can't be read; ``FileGone`` if there is no file
        """
        reader = self.open_job(job_id)
        if reader is None:
            raise FileGone(f"job {job_id} has no file")
        with reader:
            return reader.record()

    def _active_path(self, job_id: str) -> str:
        return f"{self._active}/{layout.file_name(job_id)}"

    def _done_path(self, job_id: str) -> str:
        return f"{self._hour(job_id)}/{layout.file_name(job_id)}"

    def _corrupt_path(self, job_id: str) -> str:
        return f"{self._corrupt}/{layout.file_name(job_id)}"

    def _hour(self, job_id: str) -> str:
        return f"{self._done}/{layout.hour_of(job_id)}"

    # --- all jobs ---

    def job_ids(
        self, before: str | None = None, least: str = "", ended: bool = True
    ) -> Iterator[str]:
        """Yield the ids of jobs, newest first.

        :param before: only those that sort before this; None: all
        :param least: only those that don't sort before this
        :param ended: those that have ended, too
        :raises StorageError: if they can't be listed
        """
        before = before or layout.AFTER_ALL
        previous = None
        try:
            active = layout.ids_in(self._active, before, least)
            done = self._done_ids(before, least) if ended else ()
            for job_id in heapq.merge(active, done, reverse=True):
                # One that moves between the two looks is seen twice.
                if job_id != previous:
                    yield job_id
                previous = job_id
        except OSError as error:
            raise StorageError(f"{error.filename}: {error.strerror}") from None

    def _done_ids(self, before: str, least: str) -> Iterator[str]:
        """A directory is not looked into if it is of an hour in which none of the ids
        was made."""
        for hour in sorted(os.listdir(self._done), reverse=True):
            begin = layout.begin_of_hour(hour)
            if begin is None:
                continue  # not ours
            if jobid.least(begin) < before and jobid.least(begin + 3600) > least:
                yield from layout.ids_in(os.path.join(self._done, hour), before, least)

    # --- after a crash ---

    def recover(self) -> tuple[list[Waiting], list[Unended]]:
        """Bring the directory into order after whatever end the last run had. Jobs
        that were cut off end.

        :returns: jobs that have not started, in order of submission; and jobs whose
            end can't be stored yet
        :raises StorageError: if the directory can't be read; one bad file never
            raises, it is set aside
        """
        try:
            for name in os.listdir(self._active):
                if layout.is_new(name):
                    self._remove_new(os.path.join(self._active, name))
            job_ids = layout.ids_in(self._active)
        except OSError as error:
            raise StorageError(f"{self._active}: {error.strerror}") from None
        found = [self._recover_job(job_id) for job_id in job_ids]
        waiting = [job for job in found if isinstance(job, Waiting)]
        waiting.sort(key=lambda job: job.order)
        return waiting, [job for job in found if isinstance(job, Unended)]

    def _remove_new(self, path: str) -> None:
        try:
            os.unlink(path)
        except IsADirectoryError:
            # Not of ours, and in nobody's way.
            logger.error("directory in place of a file is left %s", fields(path=path))

    def _recover_job(self, job_id: str) -> Waiting | Unended | None:
        try:
            if os.path.lexists(self._done_path(job_id)):
                # Nothing of ours does that, but a backup that is put back: an end never
                # changes, and nothing runs twice.
                raise StorageError(f"job {job_id} has ended and is in {layout.DONE}")
            with Reader(self._active_path(job_id)) as reader:
                record = reader.record()
                tail = Tail(reader)
        except (StorageError, OSError) as error:
            self._set_aside(job_id, error)
            return None
        if tail.cut:
            logger.warning(
                "file of a job was cut back to its last whole line %s",
                fields(job=job_id, bytes=tail.cut),
            )
        if tail.trailer is not None:
            return self._archive_ended(job_id, tail)
        if not tail.has_started:
            queue = record.call.queue
            if queue is not None:
                queue = queue._replace(concurrency=record.concurrency)
            return Waiting(job_id, record.order, queue, tail.size)
        return self._end_cut_off(job_id, tail)

    def _archive_ended(self, job_id: str, tail: Tail) -> None:
        if tail.cut:
            # Readers take the last line for the trailer.
            try:
                os.truncate(self._active_path(job_id), tail.size)
            except OSError as error:
                logger.error(
                    "can't cut back %s", fields(job=job_id, error=error.strerror)
                )
        self.archive(job_id)

    def _end_cut_off(self, job_id: str, tail: Tail) -> Unended | None:
        end = end_of_cut_off(tail)
        start = tail.start and tail.start.start
        try:
            writer = self.writer(job_id, tail.size)
            try:
                writer.finish(
                    end, Trailer(time.time(), start, end.outcome, tail.packets)
                )
            finally:
                writer.close()
        except StorageError as error:
            logger.error(
                "end of a job that was cut off can't be stored for now %s",
                fields(job=job_id, error=str(error)),
            )
            return Unended(job_id, start, tail.packets, tail.size, end)
        self.archive(job_id)
        logger.warning(
            "ended a job that was cut off %s", fields(job=job_id, outcome=end.outcome)
        )
        return None

    def _set_aside(self, job_id: str, error: Exception) -> None:
        logger.error(
            "job can't be read, set aside %s", fields(job=job_id, error=str(error))
        )
        try:
            os.rename(self._active_path(job_id), self._corrupt_path(job_id))
        except OSError as failure:
            logger.error(
                "can't set aside %s", fields(job=job_id, error=failure.strerror)
            )
