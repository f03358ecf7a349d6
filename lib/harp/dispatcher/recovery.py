"""What a job's file says after whatever end the last run had. It is looked at from its
end, so that a long stream costs nothing; damage in the middle is not looked for."""

from __future__ import annotations

from .. import protocol, wire
from ..errors import MISSING_RESULT, Refusal
from .disk import StorageError
from .jobfile import Reader, Start, Trailer, decode_start, decode_trailer, packet_number


class Tail:
    """How far a file is whole, and what stands there last.

    :ivar size: bytes up to the end of the last whole, valid line; an end message that
        has no trailer is not counted
    :ivar cut: bytes behind it
    :ivar start: None if there is none
    :ivar packets: how many there are
    :ivar end: an end message that has no trailer: it was received, but nobody has seen
        it yet
    :ivar trailer: None if the job hasn't ended
    :raises StorageError: if the file can't be read
    """

    def __init__(self, reader: Reader) -> None:
        self.start: Start | None = None
        self.packets = 0
        self.end: protocol.End | None = None
        self.trailer: Trailer | None = None
        second_line = reader.second_line()
        # Half a one was not synced, so the request was not sent. A whole one that can't
        # be read may have been the start.
        self._has_second_line = second_line.endswith(b"\n")
        if self._has_second_line:
            self.start = decode_start(second_line)
        stream = reader.record_size()
        if self.start is not None:
            stream += len(second_line)
        self.size = stream
        size = reader.file_size()
        self._look_back(reader, stream, size)
        self.cut = size - self.size

    @property
    def has_started(self) -> bool:
        """Whether the request may have been sent."""
        return self._has_second_line or self.packets > 0 or self.end is not None

    def _look_back(self, reader: Reader, stream: int, size: int) -> None:
        if size > stream and reader.read(size - 1, size) != b"\n":
            size = reader.line_before(size + 1)
        while size > stream:
            begin = max(stream, reader.line_before(size))
            if self._is_last(reader.read(begin, size - 1)):
                self.size = size
                return
            size = begin

    def _is_last(self, line: bytes) -> bool:
        """Take a line; tell whether the file is whole up to its end."""
        try:
            if line.startswith(protocol.PACKET_PREFIX):
                wire.decode(line)
                self.packets = packet_number(line) + 1
                return True
            self.trailer = decode_trailer(line)
            if self.trailer is None and self.end is None:
                # Packets, if any, are before it: look on.
                self.end = protocol.parse_reply_end(wire.decode(line))
        except (Refusal, StorageError):
            pass
        return self.trailer is not None


def end_of_cut_off(tail: Tail) -> protocol.End:
    """Return how a job ends that has started and was cut off."""
    return tail.end or protocol.error_end(
        MISSING_RESULT,
        "the dispatcher went down while the job was running; "
        "whether it finished is unknown",
        protocol.RAN_YES if tail.packets else protocol.RAN_MAYBE,
    )
