"""Why a job waits, what it is at, or how it ended: told from the queues, the job and
its file, without changing anything."""

from __future__ import annotations

import time
from collections.abc import Callable

from .. import protocol, wire
from ..errors import (
    CERTIFICATE_ERROR,
    MISSING_RESULT,
    NETWORK_ERROR,
    PROTOCOL_ERROR,
    STORAGE_ERROR,
    TIMEOUT,
    Refusal,
)
from ..protocol import explain as messages
from .disk import StorageError
from .job import Job
from .jobfile import Reader, Record, Start, Trailer, decode_start
from .jobs import Jobs
from .listing import MaySee
from .queues import Place, Queues
from .reading import Extent, Reading

_HOLDERS = 20  # jobs that are named as keeping one waiting
_MESSAGE = 2000  # characters of an error's message that are told
_MAX_END = 1024 * 1024  # bytes of an end message that is looked into


class Explaining:
    """Answers ``explain``. Called from any thread.

    :param max_running: returns how many jobs may run at a time
    """

    def __init__(
        self, jobs: Jobs, queues: Queues, max_running: Callable[[], int]
    ) -> None:
        self._jobs = jobs
        self._queues = queues
        self._max_running = max_running

    def explain(self, job: Job | None, reader: Reader, may_see: MaySee) -> dict:
        """Return the reply.

        :param job: None if it has ended
        :param reader: of its file; closed by the caller
        :param may_see: which other jobs may be named; those that may not are counted
        :raises StorageError: if the job's file isn't what it should be
        """
        record = reader.record()
        # Asked first: a job only goes on, so what is told after is not older.
        place = None if job is None else self._queues.place(job)
        reading = Reading(job, reader)
        extent = reading.extent()
        if extent.trailer is not None:
            found = _ended(record, reading, extent)
        elif job.status()[0] == protocol.QUEUED:
            found = self._queued(record, place, may_see)
        else:
            found = self._running(job, record, reading, extent, place, may_see)
        return messages.build_explanation(found)

    # --- one that waits ---

    def _queued(
        self, record: Record, place: Place | None, may_see: MaySee
    ) -> messages.Queued:
        _, all_running = self._queues.counts()
        max_running = self._max_running()
        queue = record.call.queue
        running = () if place is None or queue is None else place.running
        return messages.Queued(
            job_id=record.job_id,
            reason=self._reason(place, all_running >= max_running),
            position=place and place.position,
            queue=queue and queue.name,
            concurrency=place and place.concurrency,
            running=self._holders(running, may_see),
            running_count=len(running),
            all_running=all_running,
            max_running=max_running,
        )

    def _reason(self, place: Place | None, is_full: bool) -> str:
        if self._queues.closed:
            return messages.DISPATCHER_STOPS
        if place is None or place.position is None:
            return messages.ABOUT_TO_START
        if place.concurrency is not None and len(place.running) >= place.concurrency:
            return messages.QUEUE_IS_FULL
        if is_full:
            return messages.DISPATCHER_IS_FULL
        if self._jobs.threads_refused_since() is not None:
            return messages.NO_THREAD
        return messages.ABOUT_TO_START

    def _holders(
        self, running: tuple[Job, ...], may_see: MaySee
    ) -> list[messages.Holder]:
        holders = []
        for job in running:
            record = self._record(job.id)
            if record is not None and may_see(record):
                call = record.call
                holders.append(
                    messages.Holder(
                        job.id, call.host, call.procedure, _whole(job.start)
                    )
                )
            if len(holders) == _HOLDERS:
                break
        return holders

    def _record(self, job_id: str) -> Record | None:
        """What was submitted; None if the job is gone or can't be read."""
        try:
            _, reader = self._jobs.open(job_id)
            with reader:
                return reader.record()
        except (Refusal, StorageError):
            return None

    # --- one that runs ---

    def _running(
        self,
        job: Job,
        record: Record,
        reading: Reading,
        extent: Extent,
        place: Place | None,
        may_see: MaySee,
    ) -> messages.Running:
        now = time.time()
        start = _start(reading, extent.size)
        # The system notes when something was last added: the start, then packets.
        heard = None if start is None else reading.reader.modified()
        queue = record.call.queue
        behind = 0 if place is None or queue is None else place.waiting
        following = place.next if behind else None
        if following is not None:
            found = self._record(following)
            following = following if found is not None and may_see(found) else None
        return messages.Running(
            job_id=record.job_id,
            step=messages.STEP_CONNECTING if start is None else messages.STEP_RUNNING,
            host=record.call.host,
            address=start and start.address,
            port=start and start.port,
            start=_whole(job.start),
            packets=extent.packets,
            last_packet=extent.packets - 1 if extent.packets else None,
            last_heard=_whole(heard),
            timeout_left=_left(heard, record.timeout, now),
            max_exec_time_left=_left(job.start, record.max_exec_time, now),
            stopping=job.stop,
            queue=queue and queue.name,
            behind=behind,
            next=following,
        )


def _start(reading: Reading, size: int) -> Start | None:
    """The start, None if the request hasn't been sent so far.

    :param size: of the file's whole lines
    """
    line = reading.reader.start_line()
    # It may be there in part: then it is beyond what is whole.
    if not line or reading.reader.stream_offset() > size:
        return None
    return decode_start(line[:-1])


def _left(since: float | None, limit: int, now: float) -> int | None:
    return None if since is None else max(0, round(since + limit - now))


# --- one that has ended --------------------------------------------------------------


def _ended(record: Record, reading: Reading, extent: Extent) -> messages.Ended:
    trailer = extent.trailer
    start = _start(reading, extent.until)
    error = _error(reading, extent)
    return messages.Ended(
        job_id=record.job_id,
        outcome=trailer.outcome,
        step=_step(trailer, start, error),
        host=record.call.host,
        address=start and start.address,
        port=start and start.port,
        submit=_whole(record.submit),
        start=_whole(trailer.start),
        end=_whole(trailer.end),
        packets=trailer.packets,
        type=error.get("type"),
        message=_cut(error.get("message")),
        ran=error.get("ran"),
    )


def _error(reading: Reading, extent: Extent) -> dict:
    """The error or exception in the end message, empty if it is neither or is too long
    to be looked into."""
    if extent.trailer.outcome not in (protocol.ERROR, protocol.EXCEPTION):
        return {}
    begin = extent.until
    if extent.trailer_offset - begin > _MAX_END:
        return {}
    line = reading.reader.read(begin, extent.trailer_offset)
    try:
        return protocol.parse_reply_end(wire.decode(line)).value
    except Refusal as refusal:
        text = f"{reading.reader.path}: end: {refusal.message}"
        raise StorageError(text) from None


def _step(trailer: Trailer, start: Start | None, error: dict) -> str | None:
    """At which step a job ended; None: it came to its result."""
    type, ran = error.get("type"), error.get("ran")
    if trailer.outcome == protocol.RESULT:
        return None
    if trailer.start is None:
        return messages.STEP_QUEUED
    if type == STORAGE_ERROR:
        return messages.STEP_STORING
    if start is None:
        if type == CERTIFICATE_ERROR:
            return messages.STEP_CERTIFICATE
        return messages.STEP_CONNECTING
    if ran == protocol.RAN_YES or trailer.outcome != protocol.ERROR:
        return messages.STEP_RUNNING
    if type == MISSING_RESULT:
        return messages.STEP_RUNNING
    # The daemon's own errors before it acknowledges are of other types.
    if ran == protocol.RAN_NO and type in (NETWORK_ERROR, PROTOCOL_ERROR, TIMEOUT):
        return messages.STEP_SENDING
    return messages.STEP_ACKNOWLEDGEMENT


def _cut(message: str | None) -> str | None:
    if message is None or len(message) <= _MESSAGE:
        return message
    return message[:_MESSAGE] + "…"


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
