"""What can be read of a job: its status, its packets, its end. Everything comes from
the file, as bytes that go to clients as they are; how far they are whole comes from
the job as long as it hasn't ended."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from .. import protocol
from .disk import StorageError
from .job import Job
from .jobfile import Reader, Trailer


class Extent(NamedTuple):
    """How much of a job there is at a moment. Offsets in bytes.

    :ivar size: of all whole lines
    :ivar packets: how many packets there are
    :ivar begin: where the packets begin
    :ivar until: where they end, and the end message, if there is one, begins
    :ivar trailer: None as long as the job hasn't ended
    :ivar trailer_offset: where the end message ends
    """

    size: int
    packets: int
    begin: int
    until: int
    trailer: Trailer | None = None
    trailer_offset: int = 0


class Reading:
    """A job and its file, in the hands of one thread.

    :param job: None if it has ended
    :param reader: closed by the caller
    """

    def __init__(self, job: Job | None, reader: Reader) -> None:
        self.job = job
        self.reader = reader
        self._begin: int | None = None

    def extent(self) -> Extent:
        """Return what is there now.

        :raises StorageError: if the file isn't what it should be
        """
        if self.job is not None:
            size, packets, ended = self.job.progress()
            if not ended:
                begin = self._stream_offset() if packets else size
                return Extent(size, packets, begin, size)
        else:
            size = self.reader.file_size()
        found = self.reader.trailer(size)
        if found is None:
            raise StorageError(f"{self.reader.path}: the end of the job is damaged")
        trailer, trailer_offset = found
        begin = self._stream_offset()
        until = self.reader.line_before(trailer_offset)
        if until < begin or not self._is_end(until, trailer_offset, trailer.outcome):
            raise StorageError(f"{self.reader.path}: the end of the job is damaged")
        return Extent(size, trailer.packets, begin, until, trailer, trailer_offset)

    def _is_end(self, begin: int, end: int, outcome: str) -> bool:
        """Tell whether a line is the end that the trailer speaks of, by its beginning:
        another line would be taken for it by whoever asks, or be waited behind."""
        prefix = protocol.END_PREFIXES.get(outcome)
        if prefix is None:
            return False
        return self.reader.read(begin, min(begin + len(prefix), end)) == prefix

    def _stream_offset(self) -> int:
        if self._begin is None:
            self._begin = self.reader.stream_offset()
        return self._begin

    def packet_offset(self, number: int, extent: Extent) -> int:
        """Return the offset of a packet, or where the packets end."""
        if number >= extent.packets:
            return extent.until
        return self.reader.packet_offset(number, extent.begin, extent.until)

    def status(self, secret_names: Collection[str] = ()) -> dict:
        """Return the reply to ``get_status``.

        :param secret_names: of arguments to mask beside those that the call names
        :raises StorageError: if the file isn't what it should be
        """
        record = self.reader.record()
        trailer = None
        if self.job is not None:
            state, start, outcome, packets = self.job.status()
        if self.job is None or state == protocol.DONE:
            trailer = self.extent().trailer
            state, start = protocol.DONE, trailer.start
            outcome, packets = trailer.outcome, trailer.packets
        return protocol.build_status(
            job_id=record.job_id,
            call=record.call,
            submit=record.submit,
            start=start,
            end=trailer and trailer.end,
            state=state,
            outcome=outcome,
            packets=packets,
            timeout=record.timeout,
            max_exec_time=record.max_exec_time,
            submitted_by=record.submitted_by,
            secret_names=secret_names,
        )
