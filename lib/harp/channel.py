"""The client's end of a connection, to a dispatcher or a daemon: every fault on it is a
:class:`CommunicationError` that names the peer. Used by one thread."""

from __future__ import annotations

import socket
import time

from . import wire
from .address import Address
from .errors import CommunicationError, Refusal

CONNECT_TIMEOUT = 10
"""Seconds that connecting may take as a whole, unless asked for otherwise."""

_SEND_TIMEOUT = 60  # s; a server that takes nothing for so long is as good as gone

# The servers limit a value to 16 MiB unless configured otherwise; this is for servers
# that are out of their mind.
_MAX_LINE = 256 * 1024 * 1024


class ConnectionLost(CommunicationError):
    """Raised when the connection broke before the reply was whole: what was sent may
    have arrived or not."""


class ReplyTimeout(CommunicationError):
    """Raised when no reply came in time."""


class Channel:
    """A connection to a server.

    :param timeout: seconds that connecting may take; looking the name up, which can't
        be interrupted, may add to it
    :raises CommunicationError: if it fails
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._connection = self._connect(time.monotonic() + timeout)

    def _connect(self, deadline: float) -> wire.Connection:
        try:
            connection, _ = wire.connect_to_any(self._resolve(), _MAX_LINE, deadline)
            return connection
        except wire.DeadlineExceeded:
            raise self.error("can't connect: no answer in time") from None
        except (OSError, OverflowError) as error:
            raise self.error(f"can't connect: {_reason(error)}") from None

    def _resolve(self) -> list[tuple[int, tuple | str]]:
        address = self._address
        if address.path is not None:
            return [(socket.AF_UNIX, address.path)]
        try:
            found = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM
            )
        except (OSError, ValueError, OverflowError) as error:
            # ValueError: a name that none can have; the encoding says so.
            raise self.error(f"can't look it up: {_reason(error)}") from None
        return [(family, target) for family, _, _, _, target in found]

    def start_tls(self, context, server_hostname: str, timeout: float):
        """Do the TLS handshake and return the ``ssl.SSLSocket``.

        :raises CommunicationError: if it fails
        """
        try:
            self._connection.start_tls(
                context, server_hostname, time.monotonic() + timeout
            )
        except wire.DeadlineExceeded:
            raise self.error("no TLS handshake in time") from None
        except (OSError, ValueError) as error:
            raise self.error(f"TLS handshake failed: {_reason(error)}") from None
        return self._connection.sock

    def send(self, line: bytes) -> None:
        """Send a line that :func:`wire.encode` has made.

        :raises CommunicationError: if it fails
        """
        try:
            self._connection.send(line, time.monotonic() + _SEND_TIMEOUT)
        except wire.DeadlineExceeded:
            raise self.error("takes no request") from None
        except OSError:
            # It may have refused the request half-way; then its reason can be read.
            pass

    def receive(self, timeout: float | None) -> dict:
        """Return the next message.

        :param timeout: seconds; None: wait for ever
        :raises CommunicationError: if there is none or it isn't JSON as it should be
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            return wire.decode(self._connection.readline(deadline))
        except wire.DeadlineExceeded:
            raise ReplyTimeout(f"{self._address}: no reply in {timeout:.3g} s") from None
        except wire.EndOfStream as error:
            raise self._lost(str(error)) from None
        except Refusal as refusal:
            raise self.error(f"reply is not the protocol: {refusal.message}") from None
        except OSError as error:
            raise self._lost(_reason(error)) from None

    def close(self) -> None:
        self._connection.close()

    def error(self, what: str) -> CommunicationError:
        """Return an error that names the peer."""
        return CommunicationError(f"{self._address}: {what}")

    def _lost(self, what: str) -> ConnectionLost:
        return ConnectionLost(f"{self._address}: no reply: {what}")

    # So that a channel that was forgotten warns nobody of a socket they never saw.
    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
