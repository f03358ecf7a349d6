"""The lines that a call's process writes, on their way to the caller: how far the call
has come, with no look into the values. No socket in it."""

from __future__ import annotations

from .. import protocol


class CallLines:
    """Cuts what comes from a process into what may be relayed, and says what it was.

    Lines are relayed whole, so that a process that dies in the middle of one does no
    harm; only one that is longer than ``max_buffer`` goes in pieces. A line of ours is
    told by how it begins (protocol.py); what begins otherwise comes from a procedure
    that has got hold of the socket.

    :ivar acknowledged: the acknowledgement has been relayed: the procedure was entered
    :ivar end: None; then ``result``, ``exception`` or ``error``
    :ivar end_line: the line that ended the call, without newline, cut if it is long
    :ivar in_pieces: the beginning of a line has been relayed, but not its end
    :ivar foreign: a line came that isn't ours; nothing from it on is relayed
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
        self.foreign = False
        self.refuse_exceptions = False

    def feed(self, data: bytes) -> bytes:
        """Take what the process has written; return what is to be relayed."""
        if self.end is not None or self.foreign:
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
        if len(buffer) > self._max_buffer and self.end is None and not self.foreign:
            ready += self._begin_pieces()
        return ready

    def _take(self, lines: bytes) -> bytes:
        """Take whole lines, up to the first that may not be relayed."""
        length = 0
        for line in lines.split(b"\n")[:-1]:
            if not self._may_relay(line):
                break
            length += len(line) + 1
            if self.end is not None:
                break
        return lines[:length]

    def _may_relay(self, line: bytes) -> bool:
        """Note what a line is."""
        if self.acknowledged and line.startswith(protocol.STREAM_PREFIX):
            return True
        if not self.acknowledged and line.startswith(protocol.ACKNOWLEDGEMENT_PREFIX):
            self.acknowledged = True
            return True
        kind = protocol.daemon_end(line)
        if kind == protocol.EXCEPTION and self.refuse_exceptions:
            return False
        if kind is None:
            self.foreign = True
            return False
        self.end = kind
        self.end_line = line[: self._max_buffer]
        return True

    def _begin_pieces(self) -> bytes:
        piece = bytes(self._buffer)
        kind = protocol.daemon_end(piece[: protocol.MAX_PREFIX])
        if kind == protocol.EXCEPTION and self.refuse_exceptions:
            return b""
        if kind is None and not piece.startswith(protocol.STREAM_PREFIX):
            self.foreign = True
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
