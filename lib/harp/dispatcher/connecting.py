"""The way to a host's daemon: looks the host up, resolves its name, connects, does the
TLS handshake and verifies who it is. Nothing is sent before all of that is done. Called
from any thread, and in the caller's thread but for the resolver's."""

from __future__ import annotations

import errno
import ssl
import time
from collections.abc import Callable

from .. import wire
from ..config import DispatcherConfig
from ..errors import (
    CERTIFICATE_ERROR,
    NETWORK_ERROR,
    OS_ERROR,
    PROTOCOL_ERROR,
    UNKNOWN_HOST,
    reason,
)
from .hostlines import Host
from .hosts import Hosts
from .resolver import Endpoint, Resolver
from .trust import NotTrusted, Trust, handshake_fault

_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}
"""What the system says when this machine lacks something, not the other one."""


class NotConnected(Exception):
    """Raised when there is no way to a host.

    :ivar type: the error's type in the protocol
    """

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type


class Connector:
    """Connects to hosts."""

    def __init__(
        self, config: DispatcherConfig, hosts: Hosts, trust: Trust, resolver: Resolver
    ) -> None:
        self._config = config
        self._hosts = hosts
        self._trust = trust
        self._resolver = resolver

    def apply(self, config: DispatcherConfig) -> None:
        """Use another configuration from the next connection on."""
        self._config = config

    def host(self, hostname: str) -> Host:
        """Look a host up.

        :raises NotConnected: if the registry hasn't got it
        """
        host = self._hosts.get(hostname)
        if host is None:
            text = f"no host {hostname!a} in the registry"
            raise NotConnected(UNKNOWN_HOST, text)
        return host

    def connect(
        self,
        host: Host,
        waker: wire.Waker,
        until: float,
        look: Callable[[], None],
    ) -> tuple[wire.Connection, Endpoint]:
        """Connect to a host's daemon, within ``limits.connect_timeout``.

        :param waker: set when the caller has to look whether to go on
        :param until: the caller's own deadline, on the monotonic clock
        :param look: called where the waker's setting may have been taken by the
            resolver; raises to leave
        :returns: the connection, with the waker among its own, and to where it is
        :raises NotConnected: if it can't be done
        :raises DeadlineExceeded: if the caller's deadline passed meanwhile
        :raises Woken: if the waker was set
        """
        config = self._config
        limit = time.monotonic() + config.connect_timeout
        deadline = min(limit, until)
        try:
            look()
            endpoints = self._resolver.resolve(host.address, host.port, waker, deadline)
            look()
            most = config.max_value + wire.WRAPPING_BYTES
            connection, endpoint = wire.connect_to_any(
                endpoints, most, deadline, (waker,)
            )
            try:
                self._start_tls(connection, host, deadline)
                look()
            except BaseException:
                connection.close()
                raise
            return connection, endpoint
        except wire.DeadlineExceeded:
            if deadline < limit:
                raise
            text = f"{where(host)}: no connection in {config.connect_timeout} s"
            raise NotConnected(NETWORK_ERROR, text) from None
        except OSError as error:
            kind = OS_ERROR if error.errno in _OURS else NETWORK_ERROR
            raise NotConnected(kind, f"{where(host)}: {reason(error)}") from None

    def _start_tls(
        self, connection: wire.Connection, host: Host, deadline: float
    ) -> None:
        try:
            self._trust.start_tls(connection, host, deadline)
        except NotTrusted as error:
            raise NotConnected(CERTIFICATE_ERROR, str(error)) from None
        except ssl.SSLEOFError:
            text = f"{where(host)}: closed during the TLS handshake"
            raise NotConnected(NETWORK_ERROR, text) from None
        except ssl.SSLError as error:
            text = f"{where(host)}: {handshake_fault(error)}"
            raise NotConnected(PROTOCOL_ERROR, text) from None


def where(host: Host) -> str:
    """Return what a message calls a host."""
    return f"host {host.hostname} ({host.address} port {host.port})"
