"""A job in memory, from its submission to its end: what is known of it, and who waits
for news of it."""

from __future__ import annotations

import threading

from .. import protocol, wire
from .jobfile import Record
from .queues import Queue

# Why a running job is to end before its time.
STOP_CANCELLED = "cancelled"
STOP_SHUTDOWN = "shutdown"


class Job:
    """A job that hasn't ended, or only just. A queued one holds next to nothing: what
    it calls is read from its file when it starts.

    :ivar order: within its queue
    :ivar queue: set by the queues
    :ivar record: what was submitted, of a few small ones, until the job's thread takes
        it; None: it is read from the file
    """

    __slots__ = (
        "id",
        "order",
        "queue",
        "record",
        "_lock",
        "_state",
        "_start",
        "_size",
        "_packets",
        "_outcome",
        "_stop",
        "_unstored",
        "_waker",
        "_watchers",
        "_end_watchers",
        "_followers",
    )

    def __init__(self, job_id: str, order: int, size: int) -> None:
        self.id = job_id
        self.order = order
        self.queue: Queue | None = None
        self.record: Record | None = None
        # Guards what follows.
        self._lock = threading.Lock()
        self._state = protocol.QUEUED
        self._start: float | None = None
        self._size = size
        self._packets = 0
        self._outcome: str | None = None
        self._stop: str | None = None
        self._unstored = False
        self._waker: wire.Waker | None = None  # of the job's thread
        self._followers = 0
        # Woken once: at the next packets or the end; at the end. None: nobody.
        self._watchers: set[wire.Waker] | None = None
        self._end_watchers: set[wire.Waker] | None = None

    # --- called by the job's thread ---

    def begin(self, start: float | None) -> None:
        """Show that it is running.

        :param start: when it left its queue, seconds since the epoch
        """
        with self._lock:
            self._state = protocol.RUNNING
            self._start = start

    def wake_by(self, waker: wire.Waker) -> None:
        """Have the job's thread woken when it is asked to stop; whether it has been
        asked already, :attr:`stop` tells."""
        with self._lock:
            self._waker = waker

    def publish(self, size: int, packets: int) -> None:
        """Show what is stored by now.

        :param size: bytes of the file's whole lines
        """
        with self._lock:
            self._size = size
            self._packets = packets
            watchers, self._watchers = self._watchers, None
        for waker in watchers or ():
            waker.wake()

    def finish(self, size: int, outcome: str) -> None:
        """Show the end, which is stored."""
        with self._lock:
            self._state = protocol.DONE
            self._size = size
            self._outcome = outcome
        self._wake_all()

    def report_unstored(self, unstored: bool) -> None:
        """Show whether its end has to wait because nothing can be stored."""
        with self._lock:
            self._unstored = unstored
        self._wake_all()

    def _wake_all(self) -> None:
        with self._lock:
            watchers = (self._watchers or set()) | (self._end_watchers or set())
            self._watchers = self._end_watchers = None
        for waker in watchers:
            waker.wake()

    @property
    def stop(self) -> str | None:
        """Why it is to end before its time; None if it isn't."""
        return self._stop

    # --- called by others ---

    def request_stop(self, reason: str) -> None:
        """Ask the job's thread to end it. The first reason counts."""
        with self._lock:
            self._stop = self._stop or reason
            waker = self._waker
        if waker is not None:
            waker.wake()

    @property
    def start(self) -> float | None:
        """When it left its queue, seconds since the epoch."""
        return self._start

    @property
    def has_ended(self) -> bool:
        return self._state == protocol.DONE

    @property
    def unstored(self) -> bool:
        return self._unstored

    def progress(self) -> tuple[int, int, bool]:
        """Return the bytes of its file's whole lines, the number of packets in them,
        and whether it has ended."""
        with self._lock:
            return self._size, self._packets, self.has_ended

    def count_follower(self, number: int) -> None:
        """Count who follows it: 1 when one begins, -1 when it leaves."""
        with self._lock:
            self._followers += number

    @property
    def followers(self) -> int:
        return self._followers

    def status(self) -> tuple[str, float | None, str | None, int]:
        """Return state, start, outcome, and number of packets."""
        with self._lock:
            return self._state, self._start, self._outcome, self._packets

    def watch(self, size: int | None, waker: wire.Waker) -> bool:
        """Have a waker set, once, when there is news.

        :param size: bytes of the file that the caller knows; None: only the end is
            news
        :returns: False if there is news already, and the waker won't be set
        """
        with self._lock:
            if self.has_ended or size not in (None, self._size):
                return False
            if size is None:
                self._end_watchers = self._end_watchers or set()
                self._end_watchers.add(waker)
            else:
                self._watchers = self._watchers or set()
                self._watchers.add(waker)
            return True

    def unwatch(self, waker: wire.Waker) -> None:
        with self._lock:
            for watchers in (self._watchers, self._end_watchers):
                if watchers is not None:
                    watchers.discard(waker)
