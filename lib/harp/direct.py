"""Calls to a daemon, without a dispatcher::

    server = HarpServer("web01.example.net", "panel", password, ca_file="ca.pem")
    server.uptime()

The call lives as long as the connection does. A server may be shared by threads; an
iterator belongs to one.
"""

from __future__ import annotations

import os
import time

from . import protocol, wire
from .address import Address
from .channel import CONNECT_TIMEOUT, Channel
from .errors import CommunicationError, Refusal, RemoteError, RemoteException
from .proc import Result
from .secret import split_arguments
from .tls import Trust

# For type checkers only, which know the name: it costs what ``import harp`` must not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class HarpServer:
    """A daemon. Its attributes are procedures: ``server.uptime()``, or
    ``server["disk-usage"]()`` for names that Python's aren't like. Its text is the
    host.

    The daemon's certificate is verified before the credentials are sent, always: by
    the system's authorities and the host's name unless asked for otherwise.

    :param host: name or address
    :param ca_file: file of the authorities to trust instead of the system's, PEM
    :param cert_sha256: fingerprint of the daemon's own certificate, in hex, with or
        without colons: this very certificate is trusted, and no other, whatever name is
        in it
    :param tls_name: name to expect in the certificate; None: ``host``
    :param timeout: seconds that a call may go without a message; None: for ever
    :raises ValueError: for a fingerprint that is none, or one beside ``ca_file``
    """

    def __init__(
        self,
        host: str,
        user: str,
        password: str,
        port: int = protocol.DAEMON_PORT,
        ca_file: str | os.PathLike | None = None,
        cert_sha256: str | None = None,
        tls_name: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self._trust = Trust(tls_name or host, ca_file, cert_sha256)
        self._address = Address(host, port)
        self._user = user
        self._password = password
        self._timeout = timeout

    def __str__(self) -> str:
        return self._address.host

    def __repr__(self) -> str:
        return f"<HarpServer {self._address}>"

    def __getattr__(self, name: str) -> HarpProcedure:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> HarpProcedure:
        return HarpProcedure(self, name)

    __iter__ = None  # or Python would count through the procedures 0, 1, 2, …
    __contains__ = None

    # --- for this module ---

    def _open(self) -> Channel:
        """Connect to the daemon and make sure that it is the one."""
        deadline = time.monotonic() + CONNECT_TIMEOUT
        self._trust.load()
        channel = Channel(self._address, deadline)
        try:
            self._trust.secure(channel, deadline)
        except BaseException:
            channel.close()
            raise
        return channel

    def _call(self, procedure: str, arguments: list | dict):
        request = wire.encode(
            protocol.build_daemon_call(
                protocol.DaemonCall(
                    procedure, arguments, self._user, self._password, None
                )
            )
        )
        channel = self._open()
        try:
            channel.send(request)
            first = _receive(channel, self._timeout)
            if not isinstance(first, protocol.Acknowledgement):
                raise channel.error("reply is not the protocol: no acknowledgement")
            if first.stream_result:
                stream = HarpStreamIterator(channel, self._timeout)
                channel = None
                return stream
            end = _receive(channel, self._timeout)
            if not isinstance(end, protocol.End):
                raise channel.error("reply is not the protocol: no result")
            return end.value
        finally:
            if channel is not None:
                channel.close()


class HarpProcedure:
    """A procedure of a daemon."""

    def __init__(self, server: HarpServer, name: str) -> None:
        self._server = server
        self._name = name

    def __repr__(self) -> str:
        return f"<HarpProcedure {self._name} on {self._server}>"

    def __call__(self, /, *positional: object, **named: object) -> Any:
        """Call it, with positional arguments or with named ones.

        :returns: its result; if it streams, a :class:`HarpStreamIterator`
        :raises RemoteException: if the procedure raised
        :raises RemoteError: if the daemon refused or could not carry out the call
        :raises CommunicationError: if the daemon can't be reached, is not who it should
            be, or goes away
        :raises ConfigurationError: if the ``ca_file`` can't be used
        :raises TypeError: for both kinds of arguments at once, and for what is not JSON
        :raises ValueError: for numbers and structures that JSON can't hold
        """
        # A daemon keeps no record of calls that would have to mask the secret ones.
        arguments, _ = split_arguments(positional, named)
        return self._server._call(self._name, arguments)


class HarpStreamIterator:
    """Iterates over what a procedure streams; the last item is a :class:`Result`. A
    context manager; closing it before the end cancels the call.

    Iterating raises :class:`RemoteException`, :class:`RemoteError` and
    :class:`CommunicationError`, as calling does.
    """

    def __init__(self, channel: Channel, timeout: float | None) -> None:
        self._channel: Channel | None = channel
        self._timeout = timeout

    def __iter__(self) -> HarpStreamIterator:
        return self

    def __next__(self) -> Any:
        if self._channel is None:
            raise StopIteration
        try:
            message = _receive(self._channel, self._timeout)
            if isinstance(message, protocol.Acknowledgement):
                raise self._channel.error(
                    "reply is not the protocol: acknowledged twice"
                )
        except (CommunicationError, RemoteError, RemoteException):
            self.close()
            raise
        if isinstance(message, protocol.StreamValue):
            return message.value
        self.close()
        return Result(message.value)

    def __enter__(self) -> HarpStreamIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop iterating; the call is cancelled if it hasn't ended."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _receive(channel: Channel, timeout: float | None):
    """Return the next message: an acknowledgement, a streamed value, or an end that is
    a result; any other end is raised."""
    try:
        message = protocol.parse_daemon_message(channel.receive(timeout))
    except Refusal as fault:
        raise channel.error(f"reply is not the protocol: {fault.message}") from None
    if isinstance(message, protocol.End):
        if message.outcome == protocol.EXCEPTION:
            raise RemoteException(**message.value)
        if message.outcome == protocol.ERROR:
            raise RemoteError(**message.value)
    return message
