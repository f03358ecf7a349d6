"""Threads that run jobs: as many as there is work for, up to a limit, and fewer again
when there is none. What a job is, is not known here."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable

from ..log import fields
from .queues import Queues

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 10.0


class Workers:
    """A pool of threads that take jobs from the queues. Called from any thread.

    :param run: called with a job in a worker's thread; runs it to its end
    :param most: threads at a time
    """

    def __init__(self, queues: Queues, run: Callable, most: int) -> None:
        self._queues = queues
        self._run = run
        self._most = most
        # Guards the rest; notified when a thread leaves.
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._starting = 0  # threads that have not had their first job yet
        self._refused_since: float | None = None  # threads, by the system

    def start(self) -> None:
        """Start the first thread, which stays: should the system refuse any other, it
        gets on with the jobs.

        :raises OSError: if it refuses this one
        """
        thread = self._new_thread(1)
        if thread is not None and (error := self._try_to_start(thread)):
            raise OSError(errno.EAGAIN, str(error))

    def grow(self) -> None:
        """Start a thread if there is a job that nobody waits for. To be called after
        each submission."""
        thread = self._new_thread(self._queues.unattended())
        if thread is not None and (error := self._try_to_start(thread)):
            self._note_refusal(error)

    def threads_refused_since(self) -> float | None:
        """Return since when jobs wait because the system refuses threads, in seconds
        since the epoch; None: none does. Tries again first: what it lacked may be
        there, and it may be long until the next submission."""
        self.grow()
        if self._queues.unattended() <= 0:
            return None
        with self._changed:
            return self._refused_since

    def _new_thread(self, unattended: int) -> threading.Thread | None:
        with self._changed:
            if unattended <= self._starting or len(self._threads) >= self._most:
                return None
            thread = threading.Thread(target=self._work, name="worker", daemon=True)
            self._threads.add(thread)
            self._starting += 1
            return thread

    def _try_to_start(self, thread: threading.Thread) -> RuntimeError | None:
        """Return why it can't be started, None if it was."""
        try:
            thread.start()
        except RuntimeError as error:
            with self._changed:
                self._threads.discard(thread)
                self._starting -= 1
            return error
        return None

    def _note_refusal(self, error: Exception) -> None:
        with self._changed:
            first = self._refused_since is None
            self._refused_since = self._refused_since or time.time()
        if first:
            logger.error("can't start a thread, jobs wait %s", fields(error=str(error)))

    def allow(self, most: int) -> None:
        """Have so many threads at most from now on; those that are too many leave when
        their job has ended, or at once if they have none."""
        with self._changed:
            self._most = most
        self._queues.recall()
        self.grow()

    def join(self, deadline: float) -> list[str]:
        """Wait until all threads have left; the queues are closed before.

        :param deadline: on the monotonic clock
        :returns: names of those that haven't
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._threads, max(0.0, deadline - time.monotonic())
            )
            return sorted(thread.name for thread in self._threads)

    def _work(self) -> None:
        try:
            job = self._queues.take(_IDLE_SECONDS)
            self._note_start()
            while job is not None or not self._may_leave():
                if job is not None:
                    self._run_job(job)
                    if self._must_leave():
                        break
                job = self._queues.take(_IDLE_SECONDS)
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()
            # A job may have come between the last look and leaving.
            self.grow()

    def _note_start(self) -> None:
        with self._changed:
            self._starting -= 1
            self._refused_since = None
        # Several jobs may have come at once, from a recovered log.
        self.grow()

    def _run_job(self, job) -> None:
        thread = threading.current_thread()
        thread.name = f"call-{job.id[:8]}"
        try:
            self._run(job)
        except Exception:
            logger.exception("fault in the dispatcher %s", fields(job=job.id))
        thread.name = "worker"

    def _must_leave(self) -> bool:
        """Fewer threads may be allowed than before."""
        with self._changed:
            if len(self._threads) <= self._most:
                return False
            self._threads.discard(threading.current_thread())
            return True

    def _may_leave(self) -> bool:
        """The last thread stays: should no other start, it still gets on with the
        jobs."""
        with self._changed:
            if len(self._threads) == 1 and not self._queues.closed:
                return False
            self._threads.discard(threading.current_thread())
            return True
