"""Who gets in: connections before authentication, as long as they are few.

The accepting threads ask here before and after they accept; a connection's own thread
says when it has authenticated. At the limit accepting pauses, and a connection that has
been there for a second gives way: silence must not keep out those who have something
to say.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from . import wire
from .errors import OVERLOADED, Refusal
from .log import fields
from .server import OpenGate

logger = logging.getLogger(__name__)

_PATIENCE = 1.0  # s that everybody has for handshake, request and password


class Visitor:
    """A connection.

    :ivar address: where it comes from, without the port
    :ivar since: when it came, on the monotonic clock
    :ivar waker: ends what its thread waits for
    :ivar authenticated: it gives way no more
    :ivar displaced: it has to give way
    """

    def __init__(self, address: str, since: float) -> None:
        self.address = address
        self.since = since
        self.waker = wire.Waker()
        self.authenticated = False
        self.displaced = False


def displaced() -> Refusal:
    """Return what a visitor that has to give way is told."""
    text = "others are waiting, and this took its time"
    return Refusal(OVERLOADED, text, closes=True)


class Gate(OpenGate):
    """The connections of one or more listening sockets, TCP.

    :param most: connections that have not authenticated
    :param networks: that connections may come from, as in :mod:`ipaddress`; None: all
    :param clock: tells monotonic time
    """

    def __init__(
        self,
        most: int,
        networks: Sequence | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        # Guards the visitors; notified when a place becomes free, and by wake().
        self._changed = threading.Condition()
        self._visitors: dict[object, Visitor] = {}
        self._outside = 0  # of them, those that have not authenticated
        self.configure(most, networks)

    def configure(self, most: int, networks: Sequence | None) -> None:
        """Go by other values from now on, each replaced as a whole."""
        self._most = most
        self._networks = networks
        self.wake()

    # --- for the accepting threads ---

    def wait_for_room(self, is_stopping: Callable[[], bool]) -> None:
        while True:
            with self._changed:
                while True:
                    if is_stopping() or self._outside < self._most:
                        return
                    victim, seconds = self._find_victim()
                    if victim is not None:
                        victim.displaced = True
                        break
                    self._changed.wait(seconds)
            victim.waker.wake()

    def relieve(self) -> None:
        with self._changed:
            victim, _ = self._find_victim()
            if victim is not None:
                victim.displaced = True
        if victim is not None:
            victim.waker.wake()

    def _find_victim(self) -> tuple[Visitor | None, float | None]:
        """Return who has to give way; or how long it takes until somebody has to, None
        if somebody is about to."""
        outside = [
            visitor for visitor in self._visitors.values() if not visitor.authenticated
        ]
        if not outside or any(visitor.displaced for visitor in outside):
            return None, None
        oldest = min(outside, key=lambda visitor: visitor.since)
        now = self._clock()
        if now - oldest.since < _PATIENCE:
            return None, oldest.since + _PATIENCE - now
        held = Counter(visitor.address for visitor in outside)
        ripe = [visitor for visitor in outside if now - visitor.since >= _PATIENCE]
        return max(ripe, key=lambda v: (held[v.address], -v.since)), None

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def admit(self, sock: socket.socket, address: tuple) -> bool:
        host = host_of(address)
        if not self._is_allowed(host):
            logger.info("connection refused %s", fields(peer=host))
            return False
        visitor = Visitor(host, self._clock())
        with self._changed:
            self._visitors[sock] = visitor
            self._outside += 1
        return True

    def _is_allowed(self, host: str) -> bool:
        networks = self._networks  # once: a reload may replace them
        if networks is None:
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        return any(address in network for network in networks)

    def left(self, sock: socket.socket) -> None:
        self.authenticated(sock)
        with self._changed:
            visitor = self._visitors.pop(sock, None)
        if visitor is not None:
            visitor.waker.close()

    # --- for the connections' threads ---

    def visitor(self, sock: socket.socket) -> Visitor:
        """Return what was admitted with that socket."""
        with self._changed:
            return self._visitors[sock]

    def authenticated(self, sock: socket.socket) -> None:
        """Say that a connection has authenticated. It has a place of its own now."""
        with self._changed:
            visitor = self._visitors.get(sock)
            if visitor is not None and not visitor.authenticated:
                visitor.authenticated = True
                self._outside -= 1
                self._changed.notify()


def host_of(address: tuple) -> str:
    """Return the host of a socket address; one of IPv4 as such also where it came in
    by IPv6."""
    return address[0].removeprefix("::ffff:")


def name_of(address: tuple) -> str:
    """Return the host and port of a socket address, as people write them."""
    host, port = host_of(address), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
