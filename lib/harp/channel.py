"""The client's end of a connection, to a dispatcher or a daemon: every fault on it is a
:class:`CommunicationError` that names the peer. Used by one thread, but that another
one may :meth:`Channel.interrupt` it."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from _thread import allocate_lock
from collections.abc import Callable

from . import wire
from .address import Address
from .errors import (
    CommunicationError,
    ConnectFailed,
    ConnectionLost,
    Refusal,
    ReplyTimeout,
)

CONNECT_TIMEOUT = 10
"""Seconds that connecting may take as a whole, unless asked for otherwise."""

_SEND_TIMEOUT = 60  # s; a server that takes nothing for so long is as good as gone

# The servers limit a value to 16 MiB unless configured otherwise; this is for servers
# that are out of their mind.
_MAX_LINE = 256 * 1024 * 1024

# A server that starts anew is gone for a moment: its port refuses, its socket is not
# there. All else is somebody's mistake.
_TEMPORARY = {
    errno.ECONNREFUSED,
    errno.ENOENT,
    errno.ECONNRESET,
    errno.EAGAIN,
    errno.ETIMEDOUT,
}


class Channel:
    """A connection to a server.

    :param deadline: on the monotonic clock, for connecting; looking the name up, which
        can't be interrupted, may take longer
    :param advise: called with the number of a system's error, returns what to add to
        its text
    :raises ConnectFailed: if it fails
    """

    def __init__(
        self,
        address: Address,
        deadline: float,
        advise: Callable[[int | None], str] = lambda number: "",
    ) -> None:
        self._address = address
        # A forked process must not talk on its parent's connection.
        self._pid = os.getpid()
        # Guards the socket against being closed, its descriptor being used again, while
        # another thread interrupts it.
        self._lock = allocate_lock()
        # Received, but not asked for yet; the next one last.
        self._lines: list[bytes] = []
        self._connection = self._connect(deadline, advise)

    def _connect(
        self, deadline: float, advise: Callable[[int | None], str]
    ) -> wire.Connection:
        try:
            connection, _ = wire.connect_to_any(self._resolve(), _MAX_LINE, deadline)
            return connection
        except wire.DeadlineExceeded:
            raise self._failed("can't connect: no answer in time", True) from None
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None)
            raise self._failed(
                f"can't connect: {_reason(error)}{advise(number)}",
                number in _TEMPORARY,
            ) from None

    def _resolve(self) -> list[tuple[int, tuple | str]]:
        address = self._address
        if address.path is not None:
            return [(socket.AF_UNIX, address.path)]
        try:
            found = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM
            )
        except (OSError, ValueError, OverflowError) as error:
            is_temporary = getattr(error, "errno", None) == socket.EAI_AGAIN
            raise self._failed(
                f"can't look it up: {_reason(error)}", is_temporary
            ) from None
        return [(family, target) for family, _, _, _, target in found]

    def _failed(self, what: str, is_temporary: bool) -> ConnectFailed:
        return ConnectFailed(f"{self._address}: {what}", is_temporary)

    def start_tls(self, context, server_hostname: str, deadline: float):
        """Do the TLS handshake and return the ``ssl.SSLSocket``.

        :raises ConnectFailed: if it fails
        """
        try:
            self._connection.start_tls(context, server_hostname, deadline)
        except wire.DeadlineExceeded:
            raise self._failed("no TLS handshake in time", True) from None
        except (OSError, ValueError) as error:
            raise self._failed(
                f"TLS handshake failed: {_reason(error)}",
                isinstance(error, ConnectionError),
            ) from None
        return self._connection.sock

    def is_usable(self) -> bool:
        """Tell whether a further request may be sent: the server has neither closed
        nor said something that nobody has asked for."""
        # A closed one's descriptor may be another's by now.
        if self._pid != os.getpid() or self._connection.sock.fileno() < 0:
            return False
        if self._lines or self._connection.has_partial_line:
            return False
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return not poll.poll(0)

    def send(self, data: bytes) -> None:
        """Send lines that :func:`wire.encode` has made.

        :raises CommunicationError: if it fails
        """
        if self._pid != os.getpid():
            raise self._not_ours()
        try:
            self._connection.send(data, time.monotonic() + _SEND_TIMEOUT)
        except wire.DeadlineExceeded:
            raise self.error("takes no request") from None
        except OSError:
            # It may have refused the request half-way; then its reason can be read.
            pass

    def receive(self, timeout: float | None) -> dict:
        """Return the next message. After a :class:`ReplyTimeout` it may be tried again.

        :param timeout: seconds; None: wait for ever
        :raises CommunicationError: if there is none or it isn't JSON as it should be
        """
        try:
            if not self._lines:
                self._lines = self._read_lines(timeout)
            return wire.decode(self._lines.pop())
        except Refusal as refusal:
            raise self.error(f"reply is not the protocol: {refusal.message}") from None

    def _read_lines(self, timeout: float | None) -> list[bytes]:
        if self._pid != os.getpid():
            raise self._not_ours()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            return self._connection.readlines(deadline)[::-1]
        except wire.DeadlineExceeded:
            # Of the time for something as a whole, nothing may have been left.
            limit = f"{timeout:.3g} s" if timeout else "time"
            raise ReplyTimeout(f"{self._address}: no reply in {limit}") from None
        except wire.EndOfStream as error:
            raise self._lost(str(error)) from None
        except (OSError, ValueError) as error:
            # ValueError: closed by another thread.
            raise self._lost(_reason(error)) from None

    def _not_ours(self) -> ConnectionLost:
        return self._lost("the connection is another process's")

    def interrupt(self) -> None:
        """End the owner's wait, from any thread: for it the connection is lost."""
        with self._lock:
            if self._pid == os.getpid():
                self._connection.interrupt()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def error(self, what: str) -> CommunicationError:
        """Return an error that names the peer."""
        return CommunicationError(f"{self._address}: {what}")

    def _lost(self, what: str) -> ConnectionLost:
        return ConnectionLost(f"{self._address}: no reply: {what}")

    # So that a channel that was forgotten warns nobody of a socket they never saw.
    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):  # of the encoding that names of hosts have
        return "no host can have such a name"
    return getattr(error, "strerror", None) or str(error)
