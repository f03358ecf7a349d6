"""Threads that run jobs: as many as there is work for, up to a limit, and fewer again
when there is none. What a job is, is not known here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ..log import fields
from .queues import Queues

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 10.0


class Workers:
    """A pool of threads that take jobs from the queues.

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
        self._refused = False

    def grow(self) -> None:
        """Start a thread if there is a job that nobody waits for. To be called after
        each submission."""
        unattended = self._queues.unattended()
        with self._changed:
            if unattended <= self._starting or len(self._threads) >= self._most:
                return
            thread = threading.Thread(target=self._work, name="worker", daemon=True)
            self._threads.add(thread)
            self._starting += 1
        try:
            thread.start()
        except RuntimeError as error:
            self._note_refusal(thread, error)

    def _note_refusal(self, thread: threading.Thread, error: Exception) -> None:
        with self._changed:
            self._threads.discard(thread)
            self._starting -= 1
            first, self._refused = not self._refused, True
        if first:
            logger.error("can't start a thread, jobs wait %s", fields(error=str(error)))

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
            self._refused = False
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

    def _may_leave(self) -> bool:
        """The last thread stays: should no other start, it still gets on with the
        jobs."""
        with self._changed:
            if len(self._threads) == 1 and not self._queues.closed:
                return False
            self._threads.discard(threading.current_thread())
            return True
