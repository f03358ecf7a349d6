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
    """What is known here of a job.

    :ivar queue: set by :meth:`Queues.put`
    """

    id: str
    order: int
    queue: Queue | None


class Queue:
    """A queue and its jobs. Guarded by the lock of :class:`Queues`.

    :ivar key: canonical text of its name; None for the jobs without a queue
    :ivar concurrency: None: no limit
    :ivar entering: jobs that will wait here once they are stored
    :ivar running: jobs that are out, by id, in the order in which they were taken
    :ivar waiting: by id, in their order
    :ivar takable: how many of them could be taken at once
    """

    __slots__ = ("key", "concurrency", "entering", "running", "waiting", "takable")

    def __init__(self, key: str | None, concurrency: int | None) -> None:
        self.key = key
        self.concurrency = concurrency
        self.entering = 0
        self.running: dict[str, QueuedJob] = {}
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


class Place(NamedTuple):
    """Where a job is that waits or is out, at a moment.

    :ivar concurrency: of its queue; None: no limit
    :ivar position: how many it has to wait for to be the next, and 1; None: it is out
    :ivar running: jobs of its queue that are out
    :ivar waiting: how many of its queue wait
    :ivar next: id of the first of these, None if there is none
    """

    concurrency: int | None
    position: int | None
    running: tuple[QueuedJob, ...]
    waiting: int
    next: str | None


class Queues:
    """All queues. Called from any thread."""

    def __init__(self) -> None:
        # Guards everything below and every Queue. Notified once for each job that
        # becomes takable, and all at a recall and at the close.
        self._changed = threading.Condition()
        self._queues: dict[str | None, Queue] = {}
        self._turns: deque[Queue] = deque()  # queues with a takable job, each once
        self._takable = 0
        self._takers = 0  # threads that wait in take()
        self._recalls = 0
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
        :returns: None if none came, no more are given, or at a :meth:`recall`; else
            call :meth:`release` when the job has ended
        """
        deadline = time.monotonic() + idle
        with self._changed:
            self._takers += 1
            recalls = self._recalls
            try:
                while not self._closed and not self._turns:
                    remaining = deadline - time.monotonic()
                    if remaining <= 0 or self._recalls != recalls:
                        return None
                    self._changed.wait(remaining)
            finally:
                self._takers -= 1
            if self._closed or self._recalls != recalls:
                return None
            queue = self._turns.popleft()
            _, job = queue.waiting.popitem(last=False)
            queue.running[job.id] = job
            queue.takable -= 1
            self._takable -= 1
            if queue.takable:
                self._turns.append(queue)
            return job

    def release(self, job: QueuedJob) -> None:
        """Free the place of a job that was taken and has ended."""
        with self._changed:
            del job.queue.running[job.id]
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

    def remove_all(self, key: str) -> tuple[list[QueuedJob], list[QueuedJob]]:
        """Take out all jobs of a queue that wait, so that none of them can start. As
        with :meth:`remove`, their end is in the caller's hands.

        :returns: the jobs that were out at that moment, and those taken out, in order
        """
        with self._changed:
            queue = self._queues.get(key)
            if queue is None:
                return [], []
            running = list(queue.running.values())
            removed = list(queue.waiting.values())
            queue.waiting.clear()
            self._update(queue)
            return running, removed

    def put_back(self, job: QueuedJob) -> None:
        """Put a job that was removed to its old place."""
        with self._changed:
            job.queue = self._queues.setdefault(job.queue.key, job.queue)
            _insert(job.queue.waiting, job)
            self._update(job.queue)

    def recall(self) -> None:
        """Let all who wait for a job go without one."""
        with self._changed:
            self._recalls += 1
            self._changed.notify_all()

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
                    len(queue.running),
                    len(queue.waiting),
                    next(iter(queue.waiting), None),
                )
                for queue in self._queues.values()
                if queue.key is not None and (queue.waiting or queue.running)
            ]

    def place(self, job: QueuedJob) -> Place | None:
        """Return where a job is; None if it neither waits nor is out."""
        with self._changed:
            queue = job.queue
            if queue is None:
                return None
            position = None
            if job.id in queue.waiting:
                ids = enumerate(queue.waiting, 1)
                position = next(place for place, id in ids if id == job.id)
            elif job.id not in queue.running:
                return None
            return Place(
                queue.concurrency,
                position,
                tuple(queue.running.values()),
                len(queue.waiting),
                next(iter(queue.waiting), None),
            )

    def members(self, key: str) -> tuple[list[QueuedJob], list[QueuedJob]]:
        """Return the jobs of a queue that are out, and those that wait, in order."""
        with self._changed:
            queue = self._queues.get(key)
            if queue is None:
                return [], []
            return list(queue.running.values()), list(queue.waiting.values())

    def first(self) -> str | None:
        """Return the id of the job that has waited longest, None if none waits."""
        with self._changed:
            firsts = [
                next(iter(queue.waiting.values()))
                for queue in self._queues.values()
                if queue.waiting
            ]
        return min(firsts, key=lambda job: job.order).id if firsts else None

    def counts(self) -> tuple[int, int]:
        """Return how many jobs wait and how many are out."""
        with self._changed:
            queues = self._queues.values()
            return (
                sum(len(queue.waiting) for queue in queues),
                sum(len(queue.running) for queue in queues),
            )

    def _update(self, queue: Queue) -> None:
        """Bring into agreement what follows from the queue's jobs."""
        takable = len(queue.waiting)
        if queue.concurrency is not None:
            takable = min(takable, queue.concurrency - len(queue.running))
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
