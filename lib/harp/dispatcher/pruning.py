"""Removes jobs that ended long ago: every hour by a thread of its own, and on demand.

What is removed is told by the hour in the directory's name, the time inside the id and
the file's modification time: all must be older than the age. No file is read, and
``active`` is not looked at. All three are wall-clock times, so a clock that is set
forward by a month would make everything old at once: the thread waits for a day before
it believes such a clock. Whoever asks is believed at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from .. import jobid
from ..config import DispatcherConfig
from ..errors import OVERLOADED, SHUTDOWN, STORAGE_ERROR, Refusal
from ..kinds import LEAST_AGE
from ..log import fields
from .joblog import JobLog
from .layout import begin_of_hour, job_of

logger = logging.getLogger(__name__)

_FIRST = 60.0  # s after the start; whoever restarts often prunes, too
_INTERVAL = 3600.0  # s
_STEP = 5000  # files that one step removes
_BATCH = 80  # files between two pauses
_PACE = 0.0048  # s for a batch with its pause, where nothing else happens
_THREADS = 4
"""That remove files side by side. Most of the time, the file system waits for its
journal: 4 remove about three times as many as one, 8 no more than 4."""
_HOUR_SECONDS = 3600

_JUMP = 86400.0
"""Seconds that the wall clock may gain on the time that went by before it is doubted;
a start may come so long after the last run."""

_DOUBT = 86400.0
"""Seconds for which a clock that jumped is not believed: time to notice it."""


class Pruned(NamedTuple):
    """What was removed.

    :ivar next: hour to go on from; None: there is no more
    """

    jobs: int
    bytes: int
    next: str | None


class Pruning:
    """Called from any thread, but for start and stop.

    :param wall: the wall clock
    :param clock: the time that goes by, also while the machine sleeps
    """

    def __init__(
        self,
        log: JobLog,
        config: DispatcherConfig,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._log = log
        self._config = config
        self._wall = wall
        self._clock_watch = _ClockWatch(wall, clock)
        # Guards the rest; notified when a step ends and at the stop.
        self._changed = threading.Condition()
        self._busy = False
        self._stopping = False
        self._pruned = 0
        self._thread = threading.Thread(target=self._prune_hourly, name="prune")

    def start(self) -> None:
        """Begin to prune every hour; the log is open."""
        self._clock_watch.start(self._log.last_seen)
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def apply(self, config: DispatcherConfig) -> None:
        """Take over what a new configuration says."""
        self._config = config

    @property
    def max_age(self) -> float | None:
        """Seconds after which jobs are removed; None: never."""
        return self._config.max_age

    @property
    def pruned(self) -> int:
        """How many jobs have been removed since the start."""
        return self._pruned

    @property
    def doubtful_since(self) -> float | None:
        """When the clock jumped, by itself, if it isn't believed yet; else None."""
        return self._clock_watch.doubtful_since

    def prune(self, age: float, since: str | None = None) -> Pruned:
        """Remove some thousand jobs, the oldest hours first, some 16,000 a second at
        most, so that others get on.

        :param age: seconds; less than a day counts as one
        :param since: hour to go on from; None: from the oldest
        :raises Refusal: ``storage_error`` if the log can't be read, ``overloaded`` if
            no thread can be started, ``shutdown`` if the dispatcher stops
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._busy)
            if self._stopping:
                raise Refusal(SHUTDOWN, "the dispatcher is stopping")
            self._busy = True
        try:
            before = self._wall() - max(age, LEAST_AGE)
            with ThreadPoolExecutor(_THREADS, "prune") as threads:
                step = _Step(self._log.done_directory, before, self._rest, threads)
                step.run(since or "")
        except OSError as error:
            text = f"{error.filename or self._log.done_directory}: {error.strerror}"
            raise Refusal(STORAGE_ERROR, text) from None
        except RuntimeError as error:  # the system gives us no thread
            raise Refusal(OVERLOADED, f"can't prune now: {error}") from None
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        with self._changed:
            self._pruned += step.jobs
        if step.jobs:
            logger.info(
                "pruned %s", fields(jobs=step.jobs, bytes=step.bytes, age=int(age))
            )
        return Pruned(step.jobs, step.bytes, step.next)

    def _rest(self, seconds: float) -> bool:
        """Pause; tell whether to go on."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopping, seconds)

    # --- the thread ---

    def _prune_hourly(self) -> None:
        interval = _FIRST
        while self._rest(interval):
            interval = _INTERVAL
            try:
                self._look()
            except Refusal as refusal:
                if not self._stopping:
                    logger.error("can't prune %s", fields(error=refusal.message))
            except Exception:
                logger.exception("fault in the dispatcher, nothing is pruned")

    def _look(self) -> None:
        if self._clock_watch.is_doubtful():
            return  # and nothing is said, so that a restart doubts as well
        self._log.say_seen()
        age = self.max_age
        if age is None:
            return
        since = self.prune(age).next
        while since is not None:
            since = self.prune(age, since).next


class _ClockWatch:
    """Notices that the wall clock was set forward. Used by one thread, but for
    :attr:`doubtful_since`."""

    def __init__(self, wall: Callable[[], float], clock: Callable[[], float]) -> None:
        self._wall = wall
        self._clock = clock
        self._ahead = 0.0  # of the wall clock, at the last look
        self._doubt_until: float | None = None
        self.doubtful_since: float | None = None

    def start(self, last_seen: float) -> None:
        # As if no time had gone by since: if that was long, the clock is doubted.
        self._ahead = last_seen - self._clock()

    def is_doubtful(self) -> bool:
        """Look whether it has jumped, now or less than a day ago."""
        now = self._clock()
        before, self._ahead = self._ahead, self._wall() - now
        if self._ahead - before > _JUMP:
            self._doubt_until = now + _DOUBT
            self.doubtful_since = self._wall()
            logger.warning(
                "the clock is far ahead of when it was last looked at; nothing is "
                "removed from the log for a day unless asked for %s",
                fields(seconds=int(self._ahead - before)),
            )
        elif self._doubt_until is not None and (
            now >= self._doubt_until or before - self._ahead > _JUMP  # set back
        ):
            self._doubt_until = self.doubtful_since = None
        return self._doubt_until is not None


class _Step:
    """One look at ``done``, until so many files are removed that others want to get on.

    :param before: seconds since the epoch; what is older is removed
    :param rest: pauses for so many seconds; tells whether to go on
    :ivar next: hour to go on from; None: there is no more
    """

    def __init__(
        self,
        directory: str,
        before: float,
        rest: Callable[[float], bool],
        threads: Executor,
    ) -> None:
        self._threads = threads
        self._directory = directory
        self._before = before
        self._rest = rest
        self.jobs = 0
        self.bytes = 0
        self.next: str | None = None

    def run(self, since: str) -> None:
        """Raises OSError if ``done`` can't be read."""
        for hour in sorted(os.listdir(self._directory)):
            if hour >= since and self._is_old(hour) and not self._prune_hour(hour):
                self.next = hour
                return

    def _is_old(self, hour: str) -> bool:
        begin = begin_of_hour(hour)
        return begin is not None and begin + _HOUR_SECONDS <= self._before

    def _prune_hour(self, hour: str) -> bool:
        """Remove what is old of an hour; tell whether all of it was looked at."""
        directory = os.path.join(self._directory, hour)
        kept = 0
        with os.scandir(directory) as entries:
            # Names may be gone while they are read; one that is missed is found by
            # the next look.
            while batch := list(islice(entries, _BATCH)):
                begin = time.monotonic()
                kept += self._prune_files(batch)
                if len(batch) == _BATCH:
                    # Those that are kept don't count, or we might never get past them.
                    # It takes longer where others are busy, who then want it, too.
                    taken = time.monotonic() - begin
                    may_go_on = self._rest(max(_PACE - taken, taken / 8))
                    if not may_go_on or self.jobs >= _STEP:
                        return False
        if not kept:
            _remove_directory(directory)
        return True

    def _prune_files(self, entries: list[os.DirEntry]) -> int:
        """Remove those files that are to go; return how many stay."""
        kept = 0
        parts = [entries[first::_THREADS] for first in range(_THREADS)]
        for removed, staying in self._threads.map(self._remove_old, parts):
            self.jobs += len(removed)
            self.bytes += sum(removed)
            kept += staying
        return kept

    def _remove_old(self, entries: list[os.DirEntry]) -> tuple[list[int], int]:
        """Return the sizes of the files that were removed, and how many stay. In one of
        several threads."""
        sizes, kept = [], 0
        for entry in entries:
            job_id = job_of(entry.name)
            if job_id is None:
                kept += 1
                continue
            try:
                found = entry.stat(follow_symlinks=False)
                if max(found.st_mtime, jobid.time_of(job_id)) >= self._before:
                    kept += 1
                    continue
                os.unlink(entry.path)
                sizes.append(found.st_size)
            except FileNotFoundError:
                pass
            except OSError as error:
                kept += 1
                logger.warning(
                    "can't remove an old job %s",
                    fields(job=job_id, error=error.strerror),
                )
        return sizes, kept


def _remove_directory(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass  # a job was filed there meanwhile, or a name was missed: next time
