"""Which job runs next.

A queue comes to be with its first job and is gone with its last. Within a queue the
job of the lowest order is first; at most ``concurrency`` of them are out at a time.
Queues that have a job to give take turns. Jobs without a queue count as one queue
without a limit. Nothing here knows what a job does: it has an ``id``, an ``order`` and
a ``queue``.

A job enters its queue before it is stored and waits in it afterwards: the concurrency
that is stored with it is the queue's, and the queue lives on meanwhile.
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
    :ivar concurrency: None: no limit
    :ivar entering: jobs that will wait here once they are stored
    :ivar running: jobs that are out
    :ivar waiting: by id, in their order
    :ivar takable: how many of them could be taken at once
    """

    __slots__ = ("key", "concurrency", "entering", "running", "waiting", "takable")

    def __init__(self, key: str | None, concurrency: int | None) -> None:
        self.key = key
        self.concurrency = concurrency
        self.entering = 0
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

    def enter(self, key: str | None, concurrency: int | None) -> Queue:
        """Return the queue of a name; :meth:`put` or :meth:`leave` must follow.

        :param key: canonical text of the queue's name; None: no queue
        :param concurrency: of the queue, if it comes to be now; None: no limit
        """
        with self._changed:
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = Queue(key, concurrency)
            queue.entering += 1
            return queue

    def leave(self, queue: Queue) -> None:
        """Say that nothing comes of what entered."""
        with self._changed:
            queue.entering -= 1
            self._update(queue)

    def put(self, job: QueuedJob, queue: Queue) -> None:
        """Let a job that entered wait, and set its ``queue``."""
        with self._changed:
            queue.entering -= 1
            job.queue = queue
            _insert(queue.waiting, job)
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
            queue.takable -= 1
            self._takable -= 1
            if queue.takable:
                self._turns.append(queue)
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
            job.queue = self._queues.setdefault(job.queue.key, job.queue)
            _insert(job.queue.waiting, job)
            self._update(job.queue)

    def close(self) -> None:
        """Give out no more jobs. Those that wait stay."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

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
                    queue.concurrency,
                    queue.running,
                    len(queue.waiting),
                    next(iter(queue.waiting), None),
                )
                for queue in self._queues.values()
                if queue.key is not None and (queue.waiting or queue.running)
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
        takable = len(queue.waiting)
        if queue.concurrency is not None:
            takable = min(takable, queue.concurrency - queue.running)
        if takable and not queue.takable:
            self._turns.append(queue)
        elif queue.takable and not takable:
            self._turns.remove(queue)
        more = takable - queue.takable
        self._takable += more
        queue.takable = takable
        if more > 0:
            self._changed.notify(more)
        if not (queue.waiting or queue.running or queue.entering):
            del self._queues[queue.key]


def _insert(waiting: OrderedDict[str, QueuedJob], job: QueuedJob) -> None:
    """Put a job to its place, which is at the end or near it: those that are stored
    at the same time can come in another order."""
    later = []
    while waiting and next(reversed(waiting.values())).order > job.order:
        later.append(waiting.popitem())
    waiting[job.id] = job
    waiting.update(reversed(later))
