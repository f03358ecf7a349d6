"""Jobs: submitted, waiting, running, ended.

::

    state     event                      next      what is stored before it shows
    -         submitted                  queued    the record
    queued    taken by a worker          running   nothing
    queued    cancelled                  done      end and trailer
    running   request about to be sent   running   the start
    running   packets came               running   they
    running   its end is decided         done      end and trailer
    running   dispatcher stops, nothing  queued    nothing: it waits for the next start
              sent yet

A queued job's end is decided by whoever takes it out of its queue, a running job's by
its thread alone. Always in this order: store, notify, reply.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from .. import jobid, protocol, wire
from ..config import DispatcherConfig
from ..errors import (
    INVALID_JOBID,
    INVALID_REQUEST,
    OS_ERROR,
    SHUTDOWN,
    STORAGE_ERROR,
    Refusal,
)
from ..log import fields
from .disk import StorageError
from .jobfile import Reader, Record, Trailer, Writer
from .joblog import JobLog
from .queues import Queue, Queues
from .workers import Workers

logger = logging.getLogger(__name__)

# Why a running job is to end before its time.
STOP_CANCELLED = "cancelled"
STOP_SHUTDOWN = "shutdown"

_REPEAT_SECONDS = 86400
"""How far the time inside a client's job id may be from ours, either way; no id
younger than that is ever pruned, so that repeating a call finds it."""


_NOBODY: frozenset[wire.Waker] = frozenset()


class Job:
    """A job that hasn't ended, or only just. A queued one holds next to nothing: what
    it calls is read from its file when it starts.

    :ivar queue: set by the queues
    :ivar waker: ends a wait of the job's thread; None while it waits in its queue
    """

    __slots__ = (
        "id",
        "order",
        "queue",
        "waker",
        "_lock",
        "_state",
        "_start",
        "_size",
        "_packets",
        "_outcome",
        "_stop",
        "_unstored",
        "_watchers",
        "_end_watchers",
    )

    def __init__(self, job_id: str, order: int, size: int) -> None:
        self.id = job_id
        self.order = order
        self.queue: Queue | None = None
        self.waker: wire.Waker | None = None
        # Guards what follows.
        self._lock = threading.Lock()
        self._state = protocol.QUEUED
        self._start: float | None = None
        self._size = size
        self._packets = 0
        self._outcome: str | None = None
        self._stop: str | None = None
        self._unstored = False
        # Woken once: at the next packets or the end; at the end.
        self._watchers: frozenset[wire.Waker] = _NOBODY
        self._end_watchers: frozenset[wire.Waker] = _NOBODY

    # --- called by the job's thread ---

    def begin(self, start: float, waker: wire.Waker) -> None:
        with self._lock:
            self._state = protocol.RUNNING
            self._start = start
            self.waker = waker

    def publish(self, size: int, packets: int) -> None:
        """Show what is stored by now.

        :param size: bytes of the file's whole lines
        """
        with self._lock:
            self._size = size
            self._packets = packets
            watchers, self._watchers = self._watchers, _NOBODY
        for waker in watchers:
            waker.wake()

    def finish(self, size: int, outcome: str) -> None:
        """Show the end, which is stored."""
        with self._lock:
            self._state = protocol.DONE
            self._size = size
            self._outcome = outcome
        self._wake_all()

    def report_unstored(self) -> None:
        """Show that the end is known but can't be stored for now."""
        with self._lock:
            self._unstored = True
        self._wake_all()

    def _wake_all(self) -> None:
        with self._lock:
            watchers = self._watchers | self._end_watchers
            self._watchers = self._end_watchers = _NOBODY
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
            waker = self.waker
        if waker is not None:
            waker.wake()

    def progress(self) -> tuple[int, int, bool]:
        """Return the bytes of its file's whole lines, the number of packets in them,
        and whether it has ended."""
        with self._lock:
            return self._size, self._packets, self._state == protocol.DONE

    def status(self) -> tuple[str, float | None, str | None, int]:
        """Return state, start, outcome, and number of packets."""
        with self._lock:
            return self._state, self._start, self._outcome, self._packets

    @property
    def unstored(self) -> bool:
        return self._unstored

    def watch(self, size: int | None, waker: wire.Waker) -> bool:
        """Have a waker set, once, when there is news.

        :param size: bytes of the file that the caller knows; None: only the end is
            news
        :returns: False if there is news already, and the waker won't be set
        """
        with self._lock:
            if self._state == protocol.DONE or size not in (None, self._size):
                return False
            if size is None:
                self._end_watchers = self._end_watchers | {waker}
            else:
                self._watchers = self._watchers | {waker}
            return True

    def unwatch(self, waker: wire.Waker) -> None:
        with self._lock:
            self._watchers = self._watchers - {waker}
            self._end_watchers = self._end_watchers - {waker}


class Jobs:
    """All jobs. Called from any thread.

    :param call: called in a worker's thread with a job, its record, and the writer of
        its file; returns the end, or None if the job goes back to its queue
    """

    def __init__(
        self, config: DispatcherConfig, log: JobLog, queues: Queues, call: Callable
    ) -> None:
        self._config = config
        self._log = log
        self._queues = queues
        self._call = call
        self._workers = Workers(queues, self._run, config.max_running)
        # Guards the rest. Notified when a submission is stored or has failed, when a
        # job leaves _active, and at the stop.
        self._changed = threading.Condition()
        self._active: dict[str, Job] = {}
        self._submitting: set[str] = set()
        self._order = 0
        self._accepting = False
        self._closing = False

    # --- start and stop ---

    def recover(self) -> int:
        """Take up what the last run left; return the number of jobs that wait.

        :raises StorageError: if the log can't be read
        """
        waiting = self._log.recover(time.time())
        with self._changed:
            self._accepting = True
            if waiting:
                self._order = waiting[-1].record.order
        for record, size in waiting:
            job = Job(record.job_id, record.order, size)
            with self._changed:
                self._active[job.id] = job
            self._put(job, record.call.queue)
        return len(waiting)

    def stop(self, deadline: float) -> list[str]:
        """Accept no more submissions, give out no more jobs, and cut off the running
        ones: those whose request is sent end with ``shutdown``, the others wait for
        the next start.

        :param deadline: on the monotonic clock, for the running ones to end
        :returns: names of threads that haven't
        """
        self._queues.close()
        with self._changed:
            self._accepting = False
            self._closing = True
            self._changed.notify_all()
            jobs = list(self._active.values())
        for job in jobs:
            job.request_stop(STOP_SHUTDOWN)
        return self._workers.join(deadline)

    # --- what clients ask ---

    def submit(self, call: protocol.Call, submitted_by: str | None) -> str:
        """Accept a call; when this returns, it is on the disk.

        :param submitted_by: verified name of the client, None for an anonymous one
        :returns: its job id; that of the earlier call, if the client repeats one
        :raises Refusal: if it isn't accepted; nothing is stored then
        """
        self._check_size(call)
        job_id = jobid.make() if call.job_id is None else _client_job_id(call.job_id)
        if call.job_id is not None and not self._reserve(job_id):
            self._check_repeated(call, job_id, submitted_by)
            return job_id
        try:
            self._create(call, job_id, submitted_by)
        finally:
            self._unreserve(job_id)
        return job_id

    def active(self, job_id: str) -> Job | None:
        """Return a job that hasn't ended, None if there is none of this id."""
        with self._changed:
            return self._active.get(job_id)

    def open(self, job_id: object) -> tuple[Job | None, Reader]:
        """Return the job, None if it has ended, and its file.

        :param job_id: anything; what isn't a job id is an unknown one
        :raises Refusal: ``invalid_jobid``, or ``storage_error`` if it can't be read
        """
        if not jobid.is_valid(job_id):
            raise Refusal(INVALID_JOBID, "this is not a job id")
        with self._changed:
            # An id that is being stored isn't acknowledged yet, but about to be.
            self._changed.wait_for(lambda: job_id not in self._submitting)
            job = self._active.get(job_id)
        try:
            reader = self._log.open_job(job_id)
        except StorageError as error:
            raise Refusal(STORAGE_ERROR, str(error)) from None
        if reader is None:
            raise Refusal(INVALID_JOBID, f"there is no job {job_id}")
        return job, reader

    def ids(self, before: str | None = None) -> Iterator[str]:
        """Yield the ids of all jobs there are, newest first.

        :param before: only those older than this id; None: all
        """
        return self._log.job_ids(before)

    def request_cancel(self, job_id: object) -> Job | bool:
        """Cancel a job.

        :returns: True if it is cancelled, False if there is nothing to cancel; a job
            that runs has been told, and its end tells
        :raises Refusal: ``storage_error`` if its end can't be stored; it goes on then
        """
        job = self.active(job_id) if jobid.is_valid(job_id) else None
        if job is None:
            return False
        if not self._queues.remove(job):
            job.request_stop(STOP_CANCELLED)
            return job
        try:
            self._end_queued(job)
        except StorageError as error:
            self._queues.put_back(job)
            raise Refusal(STORAGE_ERROR, str(error)) from None
        return True

    # --- in the workers' threads ---

    def _run(self, job: Job) -> None:
        waker = wire.Waker()
        job.begin(time.time(), waker)
        try:
            self._run_to_end(job)
        finally:
            waker.close()
            self._queues.release(job)

    def _run_to_end(self, job: Job) -> None:
        size, _, _ = job.progress()
        try:
            writer = self._log.writer(job.id, size)
        except StorageError as error:
            end = protocol.error_end(STORAGE_ERROR, str(error), protocol.RAN_NO)
            self._leave(job, size, end)
            return
        try:
            end = self._decide_end(job, writer)
            if end is not None and self._store_end(job, writer, end):
                self._leave(job, writer.size, end)
        finally:
            writer.close()

    def _decide_end(self, job: Job, writer: Writer) -> protocol.End | None:
        try:
            with self._log.open_job(job.id) as reader:
                record = reader.record()
        except StorageError as error:
            return protocol.error_end(STORAGE_ERROR, str(error), protocol.RAN_NO)
        try:
            return self._call(job, record, writer)
        except Exception:
            logger.exception("fault in the dispatcher %s", fields(job=job.id))
            return protocol.error_end(
                OS_ERROR,
                "fault in the dispatcher, its log has the details",
                protocol.RAN_MAYBE,
            )

    def _store_end(self, job: Job, writer: Writer, end: protocol.End) -> bool:
        """Store the end; as long as there is no room for it, keep it and try again.
        False if the dispatcher stops before there was."""
        _, start, _, packets = job.status()
        while True:
            try:
                writer.finish(end, Trailer(time.time(), start, end.outcome, packets))
                return True
            except StorageError as error:
                if not job.unstored:
                    logger.error(
                        "end of a job can't be stored, it is kept %s",
                        fields(job=job.id, error=str(error)),
                    )
                    job.report_unstored()
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, _RETRY_SECONDS):
                    return False

    # --- inside ---

    def _check_size(self, call: protocol.Call) -> None:
        most = self._config.max_arguments
        for name, value in (("arguments", call.arguments), ("info", call.info)):
            wire.check_depth(value, wire.MAX_DEPTH)
            size = len(wire.encode(value)) - 1
            if size > most:
                raise Refusal(
                    INVALID_REQUEST,
                    f"{name} of {size} bytes; the limit is {most} (limits.arguments)",
                )

    def _reserve(self, job_id: str) -> bool:
        """Take an id for a submission. False if it is taken for good; whoever is about
        to take it is waited for."""
        with self._changed:
            self._changed.wait_for(lambda: job_id not in self._submitting)
            if job_id in self._active:
                return False
            self._submitting.add(job_id)
        try:
            reader = self._log.open_job(job_id)
        except StorageError as error:
            self._unreserve(job_id)
            raise Refusal(STORAGE_ERROR, str(error)) from None
        if reader is None:
            return True
        reader.close()
        self._unreserve(job_id)
        return False

    def _unreserve(self, job_id: str) -> None:
        with self._changed:
            self._submitting.discard(job_id)
            self._changed.notify_all()

    def _check_repeated(
        self, call: protocol.Call, job_id: str, submitted_by: str | None
    ) -> None:
        _, reader = self.open(job_id)
        with reader:
            try:
                record = reader.record()
            except StorageError as error:
                raise Refusal(STORAGE_ERROR, str(error)) from None
        before = _identity(record.call, record.submitted_by)
        if before != _identity(call, submitted_by):
            raise Refusal(INVALID_REQUEST, f"job_id {job_id} is that of another call")

    def _create(
        self, call: protocol.Call, job_id: str, submitted_by: str | None
    ) -> None:
        config = self._config
        with self._changed:
            if not self._accepting:
                raise Refusal(SHUTDOWN, "the dispatcher is stopping")
            self._order += 1
            order = self._order
        longest = config.default_max_exec_time or config.max_exec_time
        record = Record(
            job_id=job_id,
            order=order,
            submit=time.time(),
            timeout=call.timeout or config.default_timeout,
            max_exec_time=min(call.max_exec_time or longest, config.max_exec_time),
            submitted_by=submitted_by,
            call=call,
        )
        try:
            size = self._log.create(record)
        except StorageError as error:
            logger.error("call refused %s", fields(error=str(error)))
            raise Refusal(STORAGE_ERROR, str(error)) from None
        job = Job(job_id, order, size)
        with self._changed:
            self._active[job_id] = job
        logger.info(
            "submitted %s",
            fields(
                job=job_id, host=call.host, procedure=call.procedure, by=submitted_by
            ),
        )
        self._put(job, call.queue)

    def _put(self, job: Job, queue: protocol.Queue | None) -> None:
        if queue is None:
            self._queues.put(job, None, 0)
        else:
            self._queues.put(job, protocol.canonical(queue.name), queue.concurrency)
        self._workers.grow()

    def _end_queued(self, job: Job) -> None:
        end = protocol.End(protocol.CANCELLED, True)
        size, _, _ = job.progress()
        writer = self._log.writer(job.id, size)
        try:
            writer.finish(end, Trailer(time.time(), None, end.outcome, 0))
        finally:
            writer.close()
        self._leave(job, writer.size, end)

    def _leave(self, job: Job, size: int, end: protocol.End) -> None:
        job.finish(size, end.outcome)
        self._log.archive(job.id)
        with self._changed:
            self._active.pop(job.id, None)
        error = end.value if end.outcome == protocol.ERROR else {}
        logger.info(
            "ended %s",
            fields(
                job=job.id,
                outcome=end.outcome,
                type=error.get("type"),
                message=error.get("message"),
                ran=error.get("ran"),
            ),
        )


_RETRY_SECONDS = 1.0
"""Between two attempts to store an end for which there was no room."""


def _client_job_id(value: object) -> str:
    """Check an id that a client made for its call."""
    if not jobid.is_valid(value):
        raise Refusal(INVALID_REQUEST, "job_id is not a UUID of version 7")
    if abs(jobid.time_of(value) - time.time()) > _REPEAT_SECONDS:
        raise Refusal(
            INVALID_REQUEST,
            "the time inside job_id is more than a day from the dispatcher's",
        )
    return value


def _identity(call: protocol.Call, submitted_by: str | None) -> str:
    """The text that two submissions of the same call share."""
    return protocol.canonical(
        [
            call.host,
            call.procedure,
            call.arguments,
            call.queue,
            call.info,
            call.timeout,
            call.max_exec_time,
            submitted_by,
        ]
    )
