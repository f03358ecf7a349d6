"""The lines that a call's process writes, on their way to the caller: how far the call
has come, with no look into the values. No socket in it."""

from __future__ import annotations

from .. import protocol


class CallLines:
    """Cuts what comes from a process into what may be relayed, and says what it was.

    Lines are relayed whole, so that a process that dies in the middle of one does no
    harm; only one that is longer than ``max_buffer`` goes in pieces. A line of ours is
    told by how it begins (protocol.py). The process writes nothing behind the line
    that ends the call, so only the first and the last line of a piece can be special.

    :ivar acknowledged: the acknowledgement has been relayed: the procedure was entered
    :ivar end: None; then ``result``, ``exception`` or ``error``
    :ivar end_line: the line that ended the call, cut if it is long
    :ivar in_pieces: the beginning of a line has been relayed, but not its end
    :ivar refuse_exceptions: an exception is not relayed: the call is being killed, and
        it may be about nothing else
    """

    def __init__(self, max_buffer: int) -> None:
        self._max_buffer = max_buffer
        self._buffer = bytearray()
        self._end_after_pieces: str | None = None
        self.acknowledged = False
        self.end: str | None = None
        self.end_line = b""
        self.in_pieces = False
        self.refuse_exceptions = False

    def feed(self, data: bytes) -> bytes:
        """Take what the process has written; return what is to be relayed."""
        if self.end is not None:
            return b""
        ready = b""
        if self.in_pieces:
            ready, data = self._go_on_in_pieces(data)
        buffer = self._buffer
        buffer += data
        length = buffer.rfind(b"\n") + 1
        if length:
            lines = bytes(buffer[:length])
            del buffer[:length]
            ready += self._take(lines)
        if len(buffer) > self._max_buffer and self.end is None:
            ready += self._begin_pieces()
        return ready

    def _take(self, lines: bytes) -> bytes:
        """Take whole lines."""
        if not self.acknowledged and lines.startswith(protocol.ACKNOWLEDGEMENT_PREFIX):
            self.acknowledged = True
        last = lines.rfind(b"\n", 0, -1) + 1
        kind = protocol.daemon_end(lines[last : last + protocol.MAX_PREFIX])
        if kind == protocol.EXCEPTION and self.refuse_exceptions:
            return lines[:last]
        if kind is not None:
            self.end = kind
            self.end_line = lines[last : last + self._max_buffer]
        return lines

    def _begin_pieces(self) -> bytes:
        piece = bytes(self._buffer)
        kind = protocol.daemon_end(piece[: protocol.MAX_PREFIX])
        if kind == protocol.EXCEPTION and self.refuse_exceptions:
            return b""
        self._buffer.clear()
        self.in_pieces = True
        self._end_after_pieces = kind
        return piece

    def _go_on_in_pieces(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the part of ``data`` up to the line's end, and what comes after."""
        length = data.find(b"\n") + 1
        if not length:
            return data, b""
        self.in_pieces = False
        self.end = self._end_after_pieces
        return data[:length], b"" if self.end else data[length:]
