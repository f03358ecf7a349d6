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

    :param run: called with a job in a worker's thread; runs it to its end, never
        raises
    :param most: threads at a time
    """

    def __init__(self, queues: Queues, run: Callable, most: int) -> None:
        self._queues = queues
        self._run = run
        self._most = most
        # Guards the rest; notified when a thread leaves.
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._starting = 0  # threads that are not yet waiting for a job
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
        thread = threading.current_thread()
        with self._changed:
            self._starting -= 1
            self._refused = False
        # Several jobs may have come at once, from a recovered log.
        self.grow()
        try:
            while (job := self._queues.take(_IDLE_SECONDS)) is not None:
                thread.name = f"call-{job.id[:8]}"
                self._run(job)
                thread.name = "worker"
        finally:
            with self._changed:
                self._threads.discard(thread)
                self._changed.notify_all()
            # A job may have come between the last look and leaving.
            self.grow()
