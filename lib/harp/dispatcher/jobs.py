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

import errno
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
    reason,
)
from ..log import fields
from . import submission
from .counters import Counters
from .disk import FileGone, NoDescriptors, StorageError
from .job import STOP_CANCELLED, STOP_SHUTDOWN, Job
from .jobfile import Reader, Record, Trailer, Writer
from .joblog import JobLog, Unended
from .queues import Queue, Queues
from .workers import Workers

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
"""Between two attempts to store an end for which there was no room."""

_KEPT = 1000
_KEPT_BYTES = 4096
"""Of so many jobs, and of records up to so many bytes, the record stays in memory until
the job starts. That of any other is read from its file again."""

_LAST_SECONDS = 1.0
"""Of the time for a stop: none is tried any more, the threads end."""

_NO_FILE = "file of a job can't be opened for now %s"
_NO_ROOM_FOR_END = "end of a job can't be stored for now %s"


class Jobs:
    """All jobs. Called from any thread.

    :param call: called in a worker's thread with a job, its record, the writer of its
        file and the waker that is set when the job is asked to stop; returns the end,
        or None if the job goes back to its queue
    """

    def __init__(
        self, config: DispatcherConfig, log: JobLog, queues: Queues, call: Callable
    ) -> None:
        self._config = config
        self._log = log
        self._queues = queues
        self._call = call
        self._workers = Workers(queues, self._run, config.max_running)
        self.counters = Counters()
        # Guards the rest. Notified when a submission is stored or has failed, and at
        # the stop.
        self._changed = threading.Condition()
        self._active: dict[str, Job] = {}
        self._submitting: set[str] = set()
        self._order = 0
        self._accepting = False
        self._closing = False
        self._close_by = 0.0
        self._unstored: dict[str, float] = {}  # ids, since when their end has no room
        self._ending_late: threading.Thread | None = None  # by who starts and stops

    # --- start and stop ---

    def apply(self, config: DispatcherConfig) -> None:
        """Use another configuration from now on."""
        self._config = config
        self._workers.allow(config.max_running)

    def recover(self) -> int:
        """Take up what the last run left; return the number of jobs that wait.

        :raises StorageError: if the log can't be read
        :raises OSError: if no thread can be started
        """
        waiting, unended = self._log.recover()
        self._workers.start()
        with self._changed:
            self._accepting = True
            if waiting:
                self._order = waiting[-1].order
        if unended:
            self._end_late(unended)
        for job_id, order, queue, size in waiting:
            job = Job(job_id, order, size)
            with self._changed:
                self._active[job.id] = job
            self._queues.put(job, self._enter(queue))
            self._workers.grow()
        return len(waiting)

    def _end_late(self, unended: list[Unended]) -> None:
        """Show jobs that were cut off as running until there is room for their ends.
        One thread for all of them: there may be more than threads can be started."""
        ends = []
        for found in unended:
            job = Job(found.job_id, 0, found.size)
            job.begin(found.start)
            job.publish(found.size, found.packets)
            with self._changed:
                self._active[job.id] = job
            ends.append((job, found.end))
        thread = threading.Thread(
            target=self._store_late, args=(ends,), name="late-ends", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from None
        self._ending_late = thread

    def _store_late(self, ends: list[tuple[Job, protocol.End]]) -> None:
        """Store what can be; try the others again until the dispatcher stops. The next
        start finds those that are left as this one did."""
        while ends := [end for end in ends if not self._try_to_end(*end)]:
            if not self._pause():
                return

    def _try_to_end(self, job: Job, end: protocol.End) -> bool:
        """Store a job's end; False: not yet."""
        writer = self._writer(job)
        if writer is None:
            return job.has_ended
        try:
            self._store_end(job, writer, end)
        except StorageError as error:
            self._report_unstored(job, _NO_ROOM_FOR_END, error)
            return False
        finally:
            writer.close()
        return True

    def join(self, deadline: float) -> None:
        """Wait until no job runs any more; the queues are closed before.

        :param deadline: on the monotonic clock
        """
        self._workers.join(deadline)

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
            self._close_by = deadline - _LAST_SECONDS
            self._changed.notify_all()
            jobs = list(self._active.values())
        for job in jobs:
            job.request_stop(STOP_SHUTDOWN)
        stuck = self._workers.join(deadline)
        if self._ending_late is not None:
            self._ending_late.join(max(0.0, deadline - time.monotonic()))
            if self._ending_late.is_alive():
                stuck.append(self._ending_late.name)
        return stuck

    # --- what clients ask ---

    def submit(self, call: protocol.Call, submitted_by: str | None) -> str:
        """Accept a call; when this returns, it is on the disk.

        :param submitted_by: verified name of the client, None for an anonymous one
        :returns: its job id; that of the earlier call, if the client repeats one
        :raises Refusal: if it isn't accepted; nothing is stored then
        """
        submission.check_size(call, self._config.max_arguments)
        if call.job_id is None:
            job_id = jobid.make()
        else:
            job_id = submission.check_job_id(call.job_id)
        if self._reserve(job_id):
            try:
                if call.job_id is None or not self._is_stored(job_id):
                    self._create(call, job_id, submitted_by)
                    return job_id
            finally:
                self._unreserve(job_id)
        self._check_repeated(call, job_id, submitted_by)
        return job_id

    def active(self, job_id: str) -> Job | None:
        """Return a job that hasn't ended, None if there is none of this id. One that
        is being stored isn't acknowledged yet, but about to be: that is waited for."""
        with self._changed:
            self._changed.wait_for(lambda: job_id not in self._submitting)
            return self._active.get(job_id)

    def open(self, job_id: object) -> tuple[Job | None, Reader]:
        """Return the job, None if it has ended, and its file.

        :param job_id: anything; what isn't a job id is an unknown one
        :raises Refusal: ``invalid_jobid``, or ``storage_error`` if it can't be read
        """
        if not jobid.is_valid(job_id):
            raise Refusal(INVALID_JOBID, "this is not a job id")
        job = self.active(job_id)
        reader = self._open_file(job_id)
        if reader is None:
            raise Refusal(INVALID_JOBID, f"there is no job {job_id}")
        return job, reader

    def _open_file(self, job_id: str) -> Reader | None:
        try:
            return self._log.open_job(job_id)
        except StorageError as error:
            raise Refusal(STORAGE_ERROR, str(error)) from None

    def ids(
        self, before: str | None = None, least: str = "", ended: bool = True
    ) -> Iterator[str]:
        """Yield the ids of jobs, newest first. As :meth:`JobLog.job_ids`."""
        return self._log.job_ids(before, least, ended)

    def unstored(self) -> tuple[int, float | None]:
        """Return how many jobs there are whose end can't be stored, and since when, in
        seconds since the epoch; None: there are none."""
        with self._changed:
            return len(self._unstored), min(self._unstored.values(), default=None)

    def threads_refused_since(self) -> float | None:
        """As :meth:`Workers.threads_refused_since`."""
        return self._workers.threads_refused_since()

    def request_cancel(self, job_id: object) -> Job | bool:
        """Cancel a job.

        :returns: True if it is cancelled, False if there is nothing to cancel; a job
            that runs has been told, and its end tells
        :raises Refusal: ``storage_error`` if its end can't be stored; it goes on then
        """
        job = self.active(job_id) if jobid.is_valid(job_id) else None
        # One that has ended stays known for a moment, until its file is in its place.
        if job is None or job.has_ended:
            return False
        if not self._queues.remove(job):
            job.request_stop(STOP_CANCELLED)
            return job
        try:
            self._end_queued(job)
        except StorageError as error:
            self._queues.put_back(job)
            self._workers.grow()
            # Whoever cancels it as well waits for its end, which doesn't come now.
            job.report_unstored(True)
            raise Refusal(STORAGE_ERROR, str(error)) from None
        return True

    def cancel_queue(self, key: str) -> tuple[int, list[str]]:
        """Cancel the jobs of a queue: none of them starts any more.

        :param key: canonical text of its name
        :returns: how many waited, and are cancelled; ids of those that run, and have
            been told
        :raises Refusal: ``storage_error`` if an end can't be stored, or the dispatcher
            stops meanwhile; those that are not cancelled wait on
        """
        running, waiting = self._queues.remove_all(key)
        for number, job in enumerate(waiting):
            try:
                if self._closing:
                    raise StorageError("the dispatcher is stopping")
                self._end_queued(job)
            except StorageError as error:
                for left in waiting[number:]:
                    self._queues.put_back(left)
                    # Whoever cancels it as well waits for its end.
                    left.report_unstored(True)
                self._workers.grow()
                text = f"{number} of {len(waiting)} jobs are cancelled: {error}"
                raise Refusal(STORAGE_ERROR, text) from None
        for job in running:
            job.request_stop(STOP_CANCELLED)
        return len(waiting), [job.id for job in running]

    # --- in the jobs' threads ---

    def _run(self, job: Job) -> None:
        job.begin(time.time())
        try:
            self._with_writer(job, lambda writer: self._run_to_end(job, writer))
        finally:
            self._queues.release(job)

    def _with_writer(self, job: Job, use: Callable[[Writer], None]) -> None:
        """Open the job's file to write; wait until that works."""
        while (writer := self._writer(job)) is None:
            if job.has_ended or not self._pause():
                return
        if job.unstored:
            job.report_unstored(False)
            with self._changed:
                self._unstored.pop(job.id, None)
        try:
            use(writer)
        finally:
            writer.close()

    def _writer(self, job: Job) -> Writer | None:
        """Open the job's file to write; None: not yet, or it is gone, and the job has
        ended by that."""
        size, _, _ = job.progress()
        try:
            return self._log.writer(job.id, size)
        except FileGone as error:
            logger.error(
                "file of a job is gone %s", fields(job=job.id, error=str(error))
            )
            job.finish(size, protocol.ERROR)
            self._forget(job)
            return None
        except StorageError as error:
            self._report_unstored(job, _NO_FILE, error)
            return None

    def _run_to_end(self, job: Job, writer: Writer) -> None:
        end = self._decide_end(job, writer)
        if end is not None:
            self._end(job, writer, end)

    def _decide_end(self, job: Job, writer: Writer) -> protocol.End | None:
        try:
            record, job.record = job.record or self._log.record(job.id), None
            waker = wire.Waker()
        except NoDescriptors as error:
            return protocol.error_end(OS_ERROR, str(error), protocol.RAN_NO)
        except StorageError as error:
            return protocol.error_end(STORAGE_ERROR, str(error), protocol.RAN_NO)
        except OSError as error:
            return protocol.error_end(OS_ERROR, reason(error), protocol.RAN_NO)
        job.wake_by(waker)
        try:
            return self._call(job, record, writer, waker)
        except Exception:
            logger.exception("fault in the dispatcher %s", fields(job=job.id))
            return protocol.error_end(
                OS_ERROR,
                "fault in the dispatcher, its log has the details",
                protocol.RAN_MAYBE,
            )
        finally:
            waker.close()

    def _end(self, job: Job, writer: Writer, end: protocol.End) -> None:
        """Store the end and show it; as long as there is no room for it, keep it."""
        while True:
            try:
                self._store_end(job, writer, end)
                return
            except StorageError as error:
                self._report_unstored(job, _NO_ROOM_FOR_END, error)
            if not self._pause():
                logger.error(
                    "end of a job is lost, there was no room for it %s",
                    fields(job=job.id, outcome=end.outcome),
                )
                return

    def _report_unstored(self, job: Job, what: str, error: StorageError) -> None:
        with self._changed:
            if job.id in self._unstored:
                return  # it has been said
            self._unstored[job.id] = time.time()
        logger.error(what, fields(job=job.id, error=str(error)))
        job.report_unstored(True)

    def _pause(self) -> bool:
        """Wait before the next attempt to store something; False: the dispatcher stops
        and has no more time for one."""
        with self._changed:
            if not self._closing:
                self._changed.wait_for(lambda: self._closing, _RETRY_SECONDS)
                return True
            left = self._close_by - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, _RETRY_SECONDS))
        return True

    # --- inside ---

    def _reserve(self, job_id: str) -> bool:
        """Take an id for a submission; whoever is about to take it is waited for.
        False if there is a job of that id that hasn't ended."""
        with self._changed:
            self._changed.wait_for(lambda: job_id not in self._submitting)
            if job_id in self._active:
                return False
            self._submitting.add(job_id)
            return True

    def _is_stored(self, job_id: str) -> bool:
        reader = self._open_file(job_id)
        if reader is not None:
            reader.close()
        return reader is not None

    def _unreserve(self, job_id: str) -> None:
        with self._changed:
            self._submitting.discard(job_id)
            self._changed.notify_all()

    def _check_repeated(
        self, call: protocol.Call, job_id: str, submitted_by: str | None
    ) -> None:
        try:
            record = self._log.record(job_id)
        except StorageError as error:
            raise Refusal(STORAGE_ERROR, str(error)) from None
        before = submission.identity(record.call, record.submitted_by)
        if before != submission.identity(call, submitted_by):
            raise Refusal(INVALID_REQUEST, f"job_id {job_id} is that of another call")

    def _create(
        self, call: protocol.Call, job_id: str, submitted_by: str | None
    ) -> None:
        with self._changed:
            if not self._accepting:
                raise Refusal(SHUTDOWN, "the dispatcher is stopping")
            self._order += 1
            order = self._order
        queue = self._enter(call.queue)
        record = self._record(call, job_id, order, queue.concurrency, submitted_by)
        try:
            size = self._log.create(record)
        except BaseException as error:
            self._queues.leave(queue)
            if not isinstance(error, StorageError):
                raise
            logger.error("call refused %s", fields(error=str(error)))
            raise Refusal(STORAGE_ERROR, str(error)) from None
        job = Job(job_id, order, size)
        with self._changed:
            if size <= _KEPT_BYTES and len(self._active) < _KEPT:
                job.record = record
            self._active[job_id] = job
        logger.info(
            "submitted %s",
            fields(
                job=job_id, host=call.host, procedure=call.procedure, by=submitted_by
            ),
        )
        self.counters.count_submitted()
        self._queues.put(job, queue)
        self._workers.grow()

    def _record(
        self,
        call: protocol.Call,
        job_id: str,
        order: int,
        concurrency: int | None,
        submitted_by: str | None,
    ) -> Record:
        config = self._config
        longest = config.default_max_exec_time or config.max_exec_time
        return Record(
            job_id=job_id,
            order=order,
            submit=time.time(),
            timeout=call.timeout or config.default_timeout,
            max_exec_time=min(call.max_exec_time or longest, config.max_exec_time),
            concurrency=concurrency,
            submitted_by=submitted_by,
            call=call,
        )

    def _enter(self, queue: protocol.Queue | None) -> Queue:
        if queue is None:
            return self._queues.enter(None, None)
        return self._queues.enter(protocol.canonical(queue.name), queue.concurrency)

    def _end_queued(self, job: Job) -> None:
        """Raises StorageError if the end can't be stored."""
        if job.unstored:
            job.report_unstored(False)  # by an earlier attempt
        size, _, _ = job.progress()
        writer = self._log.writer(job.id, size)
        try:
            self._store_end(job, writer, protocol.End(protocol.CANCELLED, True))
        finally:
            writer.close()

    def _store_end(self, job: Job, writer: Writer, end: protocol.End) -> None:
        """Raises StorageError if it can't be stored."""
        _, start, _, packets = job.status()
        writer.finish(end, Trailer(time.time(), start, end.outcome, packets))
        self.counters.count_ended(end, packets, writer.size)
        job.finish(writer.size, end.outcome)
        self._log.archive(job.id)
        self._forget(job)
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

    def _forget(self, job: Job) -> None:
        with self._changed:
            self._active.pop(job.id, None)
            self._unstored.pop(job.id, None)
