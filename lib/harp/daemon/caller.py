"""The caller's side of a call, without any waiting: whoever has the ``poll`` says when
something can go on."""

from __future__ import annotations

import select
import time

from .. import wire

_RECEIVE_CHUNKS = 16  # at one go; who sends without end must not keep us from the rest


class Caller:
    """What is still to be sent to the caller, and whether it is still there.

    :ivar unsent: bytes that it has not taken yet
    :ivar has_left: it has closed its side, or is gone
    :ivar is_closed: nothing can be sent any more
    :ivar deadline: when it must have taken something, on the monotonic clock; or, after
        the goodbye, have closed
    """

    def __init__(self, connection: wire.Connection, send_timeout: float) -> None:
        self._connection = connection
        self._send_timeout = send_timeout
        self._finishing = False  # close when all is sent
        self._said_goodbye = False
        self.unsent = bytearray()
        self.has_left = False
        self.is_closed = False
        self.deadline: float | None = None

    def fileno(self) -> int:
        return self._connection.fileno()

    def events(self) -> int:
        """Return the poll events to wait for."""
        if self.is_closed:
            return 0
        events = 0 if self.has_left else select.POLLIN
        return events | select.POLLOUT if self.unsent else events

    def receive(self) -> None:
        """Look whether it is still there. Nothing that it sends means anything."""
        try:
            if self._said_goodbye:
                return self._receive_goodbye()
            for _ in range(_RECEIVE_CHUNKS):
                if self.has_left:
                    return
                data, blocked_on = self._connection.receive_some()
                if blocked_on:
                    return
                if not data:
                    self.has_left = True
        except OSError:
            self._lose()

    def _receive_goodbye(self) -> None:
        if self.is_closed:
            return
        try:
            if self._connection.discard() == 0:
                self._close()
        except BlockingIOError:
            pass

    def add(self, data: bytes) -> None:
        """Send data, now or later."""
        if self.is_closed or not data:
            return
        if not self.unsent:
            self.deadline = time.monotonic() + self._send_timeout
        self.unsent += data
        self.send()

    def send(self) -> None:
        """Send what can be sent without waiting."""
        if self.is_closed:
            return
        try:
            while self.unsent:
                with memoryview(self.unsent) as view:
                    sent, blocked_on = self._connection.send_some(view)
                if blocked_on:
                    return
                del self.unsent[:sent]
                self.deadline = time.monotonic() + self._send_timeout
            if not self._said_goodbye:
                self.deadline = None
                if self._finishing:
                    self._say_goodbye()
        except OSError:
            self._lose()

    def finish(self) -> None:
        """Close once everything is sent, so that the caller gets to read it."""
        self._finishing = True
        self.send()

    def _say_goodbye(self) -> None:
        self._connection.finish()
        self._said_goodbye = True
        self.deadline = time.monotonic() + wire.DISCARD_SECONDS
        if self.has_left:
            self._close()

    def check_deadline(self, now: float) -> None:
        if self.deadline is not None and now >= self.deadline:
            self._lose()

    def _lose(self) -> None:
        self.has_left = True
        self._close()

    def _close(self) -> None:
        # The connection itself is closed by its owner: its descriptor is still known
        # to a poll.
        self.is_closed = True
        self.deadline = None
        self.unsent.clear()
