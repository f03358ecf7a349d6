"""Which job runs next.

A queue comes to be with its first job and is gone with its last. Within a queue the
oldest job is first; at most ``concurrency`` of them are out at a time. Queues that have
a job to give take turns. Jobs without a queue count as one queue without a limit.
Nothing here knows what a job does: it has an ``id``, an ``order`` and a ``queue``.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from typing import NamedTuple, Protocol


class QueuedJob(Protocol):
    id: str
    order: int
    queue: Queue | None


class Queue:
    """A queue and its jobs. Guarded by the lock of :class:`Queues`.

    :ivar key: canonical text of its name; None for the jobs without a queue
    :ivar running: jobs that are out
    """

    __slots__ = ("key", "concurrency", "running", "waiting", "takable")

    def __init__(self, key: str | None, concurrency: float) -> None:
        self.key = key
        self.concurrency = concurrency
        self.running = 0
        self.waiting: OrderedDict[str, QueuedJob] = OrderedDict()
        self.takable = 0


class QueueState(NamedTuple):
    """A queue at a moment.

    :ivar oldest: id of the job that is next, None if none waits
    """

    key: str
    concurrency: int
    running: int
    waiting: int
    oldest: str | None


class Queues:
    """All queues. Called from any thread."""

    def __init__(self) -> None:
        # Guards everything below and every Queue. Notified once for each job that
        # becomes takable, and all at the close.
        self._changed = threading.Condition()
        self._queues: dict[str | None, Queue] = {}
        self._turns: deque[Queue] = deque()  # queues with a takable job, each once
        self._takable = 0
        self._takers = 0  # threads that wait in take()
        self._closed = False

    def put(self, job: QueuedJob, key: str | None, concurrency: int) -> None:
        """Add a new job behind the others of its queue, and set its ``queue``.

        :param key: canonical text of the queue's name; None: no queue
        :param concurrency: of the queue, if this job makes it
        """
        with self._changed:
            queue = self._queues.get(key)
            if queue is None:
                limit = float("inf") if key is None else concurrency
                queue = self._queues[key] = Queue(key, limit)
            job.queue = queue
            queue.waiting[job.id] = job
            self._update(queue)

    def take(self, idle: float) -> QueuedJob | None:
        """Take out the next job, waiting for one.

        :param idle: seconds to wait
        :returns: None if none came or no more are given; else call :meth:`release`
            when the job has ended
        """
        deadline = time.monotonic() + idle
        with self._changed:
            self._takers += 1
            try:
                while not self._closed and not self._turns:
                    remaining = deadline - time.monotonic()
                    if remaining <= 0:
                        return None
                    self._changed.wait(remaining)
            finally:
                self._takers -= 1
            if self._closed:
                return None
            queue = self._turns.popleft()
            _, job = queue.waiting.popitem(last=False)
            queue.running += 1
            self._takable -= queue.takable
            queue.takable = 0
            self._update(queue)
            return job

    def release(self, job: QueuedJob) -> None:
        """Free the place of a job that was taken and has ended."""
        with self._changed:
            job.queue.running -= 1
            self._update(job.queue)

    def remove(self, job: QueuedJob) -> bool:
        """Take out a job that waits; whoever does so decides its end.

        :returns: False if it doesn't wait any more
        """
        with self._changed:
            if job.queue is None or job.queue.waiting.pop(job.id, None) is None:
                return False
            self._update(job.queue)
            return True

    def put_back(self, job: QueuedJob) -> None:
        """Put a job that was removed to its old place."""
        with self._changed:
            queue = self._queues.setdefault(job.queue.key, job.queue)
            job.queue = queue
            jobs = sorted((*queue.waiting.values(), job), key=lambda job: job.order)
            queue.waiting = OrderedDict((job.id, job) for job in jobs)
            self._update(queue)

    def close(self) -> None:
        """Give out no more jobs. Those that wait stay."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def unattended(self) -> int:
        """Return how many jobs could be taken at once, beyond the threads that wait
        for one."""
        with self._changed:
            return 0 if self._closed else self._takable - self._takers

    def states(self) -> list[QueueState]:
        """Return all queues with a name."""
        with self._changed:
            return [
                QueueState(
                    queue.key,
                    int(queue.concurrency),
                    queue.running,
                    len(queue.waiting),
                    next(iter(queue.waiting), None),
                )
                for queue in self._queues.values()
                if queue.key is not None
            ]

    def counts(self) -> tuple[int, int]:
        """Return how many jobs wait and how many are out."""
        with self._changed:
            queues = self._queues.values()
            return (
                sum(len(queue.waiting) for queue in queues),
                sum(queue.running for queue in queues),
            )

    def _update(self, queue: Queue) -> None:
        """Bring into agreement what follows from the queue's jobs."""
        takable = int(min(len(queue.waiting), queue.concurrency - queue.running))
        if takable and not queue.takable:
            self._turns.append(queue)
        elif queue.takable and not takable:
            self._turns.remove(queue)
        more = takable - queue.takable
        self._takable += more
        queue.takable = takable
        if more > 0:
            self._changed.notify(more)
        if not queue.waiting and not queue.running:
            self._queues.pop(queue.key, None)
