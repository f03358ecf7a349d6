"""Who may connect, who a client is, and what it may do (doc/access.rst).

A door is a listening socket as those see it who come in; a guest is one of them: it
belongs to the thread of its connection.
"""

from __future__ import annotations

import contextlib
import logging
import pwd
import socket
import ssl
import struct
import time
from typing import NamedTuple

from .. import protocol, wire
from ..auth import Authenticator
from ..auth.delays import Delays
from ..config import ConfigError, DispatcherConfig, collect
from ..errors import AUTH_ERROR, Refusal
from ..gate import Gate, Visitor, displaced, name_of
from ..listener import Listener
from ..log import fields
from ..rights import CALL, CANCEL, EVERYTHING, LIST, NOTHING, READ, Rights
from ..server_tls import server_context, shake_hands

logger = logging.getLogger(__name__)

_LOGGED = 200  # characters of what a client names that stand in a log line
_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)
_LOOPBACK = ("127.", "::1", "localhost")
_OPEN_TO_USERS = (
    "clients need not say who they are: every user of this machine can connect %s"
)
_OPEN_TO_ALL = (
    "clients need not say who they are: whoever reaches this port can connect %s"
)


class Prepared(NamedTuple):
    """A configuration that can be used.

    :ivar context: None if no listener speaks TLS
    """

    config: DispatcherConfig
    context: ssl.SSLContext | None
    authenticator: Authenticator


class Access:
    """All doors. Called from any thread.

    :raises ConfigError: as :meth:`prepare`
    """

    def __init__(self, config: DispatcherConfig) -> None:
        self.delays = Delays()
        self._doors: list[Door] = []
        self.current = self.prepare(config)

    def prepare(self, config: DispatcherConfig) -> Prepared:
        """Read what a configuration names; nothing is changed by it.

        :raises ConfigError: if that can't be used
        """
        # Those who have come in at a door as it was may still have their handshake.
        listeners = {*(door.listener for door in self._doors), *config.listen}
        faults = _find_faults(config)
        context = None
        authenticator = collect(faults, Authenticator, config)
        if any(listener.tls for listener in listeners):
            context = collect(
                faults, server_context, config.certificate, config.private_key
            )
        if faults:
            raise ConfigError(faults)
        return Prepared(config, context, authenticator)

    def apply(self, prepared: Prepared) -> None:
        """Go by another configuration: at once, but for connections whose handshake
        is done. ``listen`` must have the same addresses as before, in that order."""
        self.current = prepared
        for door, listener in zip(self._doors, prepared.config.listen):
            door.configure(prepared.config, listener)

    def door(self, listener: Listener) -> Door:
        """Return the door of a listening socket."""
        door = Door(self, listener)
        self._doors.append(door)
        return door

    def rights(self, user: str | None) -> Rights:
        """Return what a client may do.

        :param user: its verified name; None: nobody knows
        """
        table = self.current.config.authorization
        if table is None:
            return EVERYTHING
        return table.get(user, NOTHING)


def _find_faults(config: DispatcherConfig) -> list[str]:
    if config.users or config.password_file is not None:
        return []
    return [
        f"listen: {listener}: nobody is known there: set password_file or users, or "
        "anonymous = true"
        for listener in config.listen
        if listener.needs_password
    ]


class Door:
    """A listening socket.

    :ivar gate: for its server; None for Unix sockets, whose mode decides
    """

    def __init__(self, access: Access, listener: Listener) -> None:
        self.access = access
        self.listener = listener
        self.gate: Gate | None = None
        if not listener.is_unix:
            most = access.current.config.max_unauthenticated
            self.gate = Gate(most, listener.allow_from)

    def configure(self, config: DispatcherConfig, listener: Listener) -> None:
        """Go by another configuration, for those who come in from now on."""
        was_anonymous = self.listener.anonymous
        self.listener = listener
        if self.gate is not None:
            self.gate.configure(config.max_unauthenticated, listener.allow_from)
        if not was_anonymous:
            self.warn()

    def warn(self) -> None:
        """Say if somebody can come in here without saying who they are."""
        listener = self.listener
        if not listener.anonymous:
            return
        is_local = listener.address.host.startswith(_LOOPBACK)
        logger.warning(
            _OPEN_TO_USERS if is_local else _OPEN_TO_ALL, fields(address=str(listener))
        )

    def guest(self, sock: socket.socket, address: object) -> Guest:
        """Return who comes in, yet unknown."""
        return Guest(self, sock, address)


class Guest:
    """A client, seen by the thread of its connection.

    :ivar user: its verified name, None if there is none (yet)
    :ivar peer: where it comes from, for people
    :ivar is_known: it need not say (any more) who it is
    """

    def __init__(self, door: Door, sock: socket.socket, address: object) -> None:
        self._access = door.access
        self._listener = listener = door.listener
        self._context = door.access.current.context
        self._gate = door.gate
        self._sock = sock
        self._auth: protocol.Auth | None = None
        self._visitor: Visitor | None = None
        self.user: str | None = None
        self.is_known = not listener.needs_password
        if door.gate is None:
            self.user, self.peer = peer_of(sock)
        else:
            self._visitor = door.gate.visitor(sock)
            self.peer = name_of(address)

    @property
    def name(self) -> str:
        """Who it is and where it comes from, for the log."""
        return f"{self.user or 'anonymous'}, {self.peer}"

    @property
    def wakers(self) -> tuple[wire.Waker, ...]:
        """What ends the waits of its connection beside what the connection knows."""
        return () if self._visitor is None else (self._visitor.waker,)

    @property
    def speaks_tls(self) -> bool:
        return self._listener.tls

    @property
    def rights(self) -> Rights:
        return self._access.rights(self.user)

    # --- coming in ---

    def enter(self, connection: wire.Connection) -> bool:
        """Do the handshake, if there is one.

        :returns: False: it failed, and nothing can be said
        :raises Refusal: if what comes isn't TLS; if others go before
        """
        if self._listener.tls:
            seconds = self._access.current.config.handshake_timeout
            try:
                shake_hands(connection, self._context, seconds)
            except (OSError, wire.Woken) as error:
                text = str(error) or "others are waiting, or we stop"
                logger.info(
                    "no TLS handshake %s", fields(peer=self.peer, error=text)
                )
                return False
        if self.is_known:
            self._take_place()
        return True

    def _take_place(self) -> None:
        if self._gate is None:
            return
        self._gate.authenticated(self._sock)
        if self._visitor.displaced:  # at the last moment
            raise displaced()

    def refusal_of_displaced(self) -> Refusal | None:
        """Return what it is to be told if it has to give way to others."""
        is_displaced = self._visitor is not None and self._visitor.displaced
        return displaced() if is_displaced else None

    def identify(self, message: dict, connection: wire.Connection) -> None:
        """Find out who sends a request. Who has said it once need not repeat it, but
        is verified each time: a user who is removed is refused at once.

        :raises Refusal: if it isn't who it says, or doesn't say although it must; if
            it takes more than there is at the moment
        """
        auth = protocol.parse_auth(message) or self._auth
        if auth is None:
            if not self.is_known:
                raise Refusal(
                    AUTH_ERROR,
                    "who are you? The first request here must have user and password "
                    'in "auth"',
                    closes=True,
                )
            return
        current = self._access.current
        deadline = time.monotonic() + current.config.request_timeout
        if not current.authenticator.authenticate(
            auth.user,
            auth.password,
            deadline,
            lambda: self.refusal_of_displaced() is not None,
        ):
            self._delay_refusal(auth.user, connection)
            raise Refusal(AUTH_ERROR, "unknown user or wrong password", closes=True)
        self._auth = auth
        self.user = auth.user
        if not self.is_known:
            self.is_known = True
            self._take_place()

    def _delay_refusal(self, user: str, connection: wire.Connection) -> None:
        config = self._access.current.config
        host = "" if self._visitor is None else self._visitor.address
        delay = self._access.delays.note_failure(
            host, user, config.failure_delay, config.max_failure_delay
        )
        logger.warning(
            "authentication failed %s", fields(peer=self.peer, user=user[:_LOGGED])
        )
        with contextlib.suppress(wire.DeadlineExceeded, wire.EndOfStream):
            connection.wait_until_woken(time.monotonic() + delay)

    # --- what it may do ---

    def check(self, request: object) -> None:
        """See whether it may do what it asks for.

        :raises Refusal: ``auth_error`` if not
        """
        rights = self.rights
        if rights == EVERYTHING:
            return
        # What this table doesn't know is for those who may do everything.
        operation = _OPERATIONS.get(type(request))
        if operation not in rights.operations:
            raise self._forbidden(_WHAT.get(operation, "that"))
        if isinstance(request, protocol.Call):
            self._check_call(request, rights)
        elif isinstance(request, protocol.ListHostProcedures):
            if not rights.allow_host(request.host):
                raise self._forbidden(f"ask {request.host[:_LOGGED]!r}")
        elif isinstance(request, protocol.ListQueues) and rights.own_jobs:
            raise self._forbidden("see queues, but its own jobs only")

    def _check_call(self, call: protocol.Call, rights: Rights) -> None:
        if not rights.allow_host(call.host):
            raise self._forbidden(f"call anything on {call.host[:_LOGGED]!r}")
        if not rights.allow_procedure(call.procedure):
            raise self._forbidden(f"call {call.procedure[:_LOGGED]!r}")
        if not rights.allow_queue(_queue_text(call.queue and call.queue.name)):
            raise self._forbidden(
                "call without a queue" if call.queue is None else "use that queue"
            )

    def _forbidden(self, what: str) -> Refusal:
        who = "anonymous clients" if self.user is None else f"user {self.user!r}"
        return Refusal(AUTH_ERROR, f"{who} may not {what}")

    def sees(
        self, host: str, procedure: str, queue: dict | None, submitted_by: str | None
    ) -> bool:
        """Tell whether a job exists to this client.

        :param queue: its name; None: no queue
        :param submitted_by: verified name of who has submitted it
        """
        rights = self.rights
        if not rights.are_limited:
            return True
        if rights.own_jobs and (self.user is None or submitted_by != self.user):
            return False
        return (
            rights.allow_host(host)
            and rights.allow_procedure(procedure)
            and rights.allow_queue(_queue_text(queue))
        )


class Administrator(Guest):
    """Somebody at the admin socket: whoever may open it may do everything."""

    rights = EVERYTHING
    is_known = True
    speaks_tls = False
    wakers = ()

    def __init__(self, sock: socket.socket) -> None:
        self.user, self.peer = peer_of(sock)

    def enter(self, connection: wire.Connection) -> bool:
        return True

    def refusal_of_displaced(self) -> None:
        return None

    def identify(self, message: dict, connection: wire.Connection) -> None:
        pass


_OPERATIONS = {
    protocol.Call: CALL,
    protocol.Cancel: CANCEL,
    protocol.GetResult: READ,
    protocol.GetStatus: READ,
    protocol.FollowStream: READ,
    protocol.ReadStream: READ,
    protocol.Explain: READ,
    protocol.ListJobs: LIST,
    protocol.ListHostProcedures: LIST,
    protocol.ListQueues: LIST,
    protocol.ListHosts: LIST,
}

_WHAT = {
    CALL: "call anything",
    CANCEL: "cancel jobs",
    READ: "read jobs",
    LIST: "list anything",
}


def _queue_text(name: dict | None) -> str | None:
    return None if name is None else protocol.canonical(name)


def peer_of(sock: socket.socket) -> tuple[str, str]:
    """Return the system user at the other end of a Unix socket, and the process."""
    data = sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
    )
    pid, uid, _ = _PEER_CREDENTIALS.unpack(data)
    try:
        return pwd.getpwuid(uid).pw_name, f"process {pid}"
    except KeyError:
        return str(uid), f"process {pid}"
