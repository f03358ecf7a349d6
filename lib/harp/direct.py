"""Calls to a daemon, without a dispatcher::

    server = HarpServer("web01.example.net", "panel", password, ca_file="ca.pem")
    server.uptime()

The call lives as long as the connection does. A server may be shared by threads; an
iterator belongs to one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

from . import protocol, wire
from .address import Address
from .channel import CONNECT_TIMEOUT, Channel
from .client import either
from .errors import CommunicationError, Refusal, RemoteError, RemoteException
from .proc import Result


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
        if cert_sha256 is not None:
            cert_sha256 = cert_sha256.replace(":", "").lower()
            if not re.fullmatch("[0-9a-f]{64}", cert_sha256):
                raise ValueError("cert_sha256 is no SHA-256 in hex")
            if ca_file is not None:
                raise ValueError("ca_file and cert_sha256 exclude each other")
        self._address = Address(host, port)
        self._user = user
        self._password = password
        self._ca_file = ca_file
        self._cert_sha256 = cert_sha256
        self._tls_name = tls_name or host
        self._timeout = timeout
        self._context = None

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
        if self._context is None:
            self._context = self._make_context()
        channel = Channel(self._address, CONNECT_TIMEOUT)
        try:
            sock = channel.start_tls(
                self._context, self._tls_name, deadline - time.monotonic()
            )
            if self._cert_sha256 is not None:
                self._check_pin(channel, sock.getpeercert(binary_form=True))
        except BaseException:
            channel.close()
            raise
        return channel

    def _make_context(self):
        import ssl  # here, because it would double the time of ``import harp``

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._cert_sha256 is not None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # _check_pin does it
        elif self._ca_file is not None:
            try:
                context.load_verify_locations(self._ca_file)
            except OSError as error:
                text = f"{self._ca_file}: not usable as ca_file: {error}"
                raise CommunicationError(text) from None
        else:
            context.load_default_certs()
        return context

    def _check_pin(self, channel: Channel, certificate: bytes) -> None:
        import hashlib

        found = hashlib.sha256(certificate).hexdigest()
        if found != self._cert_sha256:
            raise channel.error(f"certificate is not the pinned one, but {found}")

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

    def __call__(self, /, *positional: object, **named: object):
        """Call it, with positional arguments or with named ones.

        :returns: its result; if it streams, a :class:`HarpStreamIterator`
        :raises RemoteException: if the procedure raised
        :raises RemoteError: if the daemon refused or could not carry out the call
        :raises CommunicationError: if the daemon can't be reached, is not who it should
            be, or goes away
        :raises TypeError: for both kinds of arguments at once, and for what is not JSON
        :raises ValueError: for numbers and structures that JSON can't hold
        """
        return self._server._call(self._name, either(positional, named))


class HarpStreamIterator:
    """Iterates over what a procedure streams; the last item is a :class:`Result`. A
    context manager; closing it before the end cancels the call.

    Iterating raises :class:`RemoteException`, :class:`RemoteError` and
    :class:`CommunicationError`, as calling does.
    """

    def __init__(self, channel: Channel, timeout: float | None) -> None:
        self._channel: Channel | None = channel
        self._timeout = timeout

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
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

    def __exit__(self, *_) -> None:
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
