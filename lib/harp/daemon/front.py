"""Connections of callers: TLS, the request, who asks; then a process for the call.

Each connection has a thread of its own, and only that thread touches its socket. The
front never imports the procedures.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from .. import __version__, errors, protocol, wire
from ..auth.delays import Delays
from ..errors import Refusal
from ..gate import Gate, Visitor, displaced, name_of
from ..log import fields
from ..server_tls import shake_hands
from .children import Child
from .control import Description, Order
from .generation import Generation
from .output import OutputLog
from .relay import Relay
from .slots import Slot, Slots

logger = logging.getLogger(__name__)

_LOGGED = 200  # characters of what a caller names that stand in a log line


class Front:
    """Serves connections, each with the generation that is current when it comes in.

    :param generation: the first one
    :ivar gate: of all its servers
    """

    def __init__(self, generation: Generation) -> None:
        config = generation.config
        self.gate = Gate(config.max_unauthenticated, config.allow_from)
        self.slots = Slots()
        self.delays = Delays()
        # Guards what follows; notified when a generation has one connection less.
        self._changed = threading.Condition()
        self._generation = generation
        self._users: dict[Generation, int] = {}
        self._wakers: set[wire.Waker] = set()
        self._stopping = False

    @property
    def generation(self) -> Generation:
        """The current one."""
        with self._changed:
            return self._generation

    def replace(self, generation: Generation) -> None:
        """Use a new generation for connections that come in from now on."""
        with self._changed:
            self._generation = generation
        config = generation.config
        self.gate.configure(config.max_unauthenticated, config.allow_from)

    def wait_until_unused(self, generation: Generation) -> None:
        """Wait until no connection uses a generation that was replaced."""
        with self._changed:
            self._changed.wait_for(lambda: generation not in self._users)

    def stop(self) -> None:
        """End all connections: calls with ``shutdown``, once they are gone."""
        with self._changed:
            self._stopping = True
            generations = {self._generation, *self._users}
            wakers = list(self._wakers)
        for generation in generations:
            generation.children.stop_taking()
        for waker in wakers:
            waker.wake()

    def is_stopping(self) -> bool:
        return self._stopping

    @contextlib.contextmanager
    def _using_generation(self, waker: wire.Waker) -> Iterator[Generation]:
        with self._changed:
            generation = self._generation
            self._users[generation] = self._users.get(generation, 0) + 1
            self._wakers.add(waker)
            stopping = self._stopping
        if stopping:
            waker.wake()
        try:
            yield generation
        finally:
            with self._changed:
                self._wakers.discard(waker)
                self._users[generation] -= 1
                if not self._users[generation]:
                    del self._users[generation]
                    self._changed.notify_all()

    def serve(self, sock: socket.socket, address: tuple) -> None:
        """Serve a connection to its end. In its own thread."""
        visitor = self.gate.visitor(sock)
        with self._using_generation(visitor.waker) as generation:
            _Visit(self, generation, visitor, sock, name_of(address)).run()


class _Visit:
    """One connection, from the handshake to the close."""

    def __init__(
        self,
        front: Front,
        generation: Generation,
        visitor: Visitor,
        sock: socket.socket,
        peer: str,
    ) -> None:
        self._front = front
        self._generation = generation
        self._config = generation.config
        self._visitor = visitor
        self._waker = visitor.waker
        self._sock = sock
        self._peer = peer
        self._begin = time.monotonic()
        self._request: protocol.DaemonCall | protocol.ListProcedures | None = None
        max_line = self._config.max_arguments + wire.WRAPPING_BYTES
        self._connection = wire.Connection(sock, max_line, (self._waker,))

    def run(self) -> None:
        try:
            self._handshake()
            self._request = self._receive()
            self._authenticate()
            if isinstance(self._request, protocol.ListProcedures):
                self._list_procedures()
            else:
                self._carry_out(self._request)
        except Refusal as refusal:
            self._refuse(refusal)
        except wire.EndOfStream:
            pass  # it came and went without a word
        except OSError as error:
            logger.info(
                "connection lost %s", fields(peer=self._peer, error=str(error))
            )
        finally:
            self._connection.close()

    # --- the request ---

    def _handshake(self) -> None:
        try:
            shake_hands(
                self._connection,
                self._generation.context,
                self._config.handshake_timeout,
            )
        except wire.Woken:  # nothing can be said before TLS is there
            raise ConnectionAbortedError(self._interruption().message) from None

    def _interruption(self) -> Refusal:
        """Return why this connection was woken before it had authenticated."""
        if self._visitor.displaced:
            return displaced()
        return Refusal(errors.SHUTDOWN, "the daemon stops")

    def _receive(self) -> protocol.DaemonCall | protocol.ListProcedures:
        timeout = self._config.request_timeout
        try:
            line = self._connection.readline(time.monotonic() + timeout)
        except wire.DeadlineExceeded:
            raise Refusal(
                errors.INVALID_REQUEST, f"incomplete: not there within {timeout:g} s"
            ) from None
        except wire.EndOfStream as end:
            if not end.partial:
                raise
            raise Refusal(
                errors.INVALID_REQUEST, "incomplete: no newline at its end"
            ) from None
        except wire.Woken:
            raise self._interruption() from None
        return protocol.parse_daemon_request(wire.decode(line))

    def _authenticate(self) -> None:
        """Find out whether the caller is who it says, and make room for others.

        :raises Refusal: if it isn't, or may not call what it wants to; before it is
            told whether there is such a procedure
        """
        request = self._request
        is_known = self._generation.authenticator.authenticate(
            request.user,
            request.password,
            time.monotonic() + self._config.request_timeout,
            lambda: self._visitor.displaced or self._front.is_stopping(),
        )
        if not is_known:
            self._delay_refusal()
            raise Refusal(errors.AUTH_ERROR, "unknown user or wrong password")
        self._front.gate.authenticated(self._sock)
        if request.procedure is not None and not self._may_call(request.procedure):
            raise Refusal(errors.AUTH_ERROR, "this user may not call that procedure")

    def _may_call(self, procedure: str) -> bool:
        return may_call(self._config.authorization, self._request.user, procedure)

    def _delay_refusal(self) -> None:
        delay = self._front.delays.note_failure(
            self._visitor.address,
            self._request.user,
            self._config.failure_delay,
            self._config.max_failure_delay,
        )
        with contextlib.suppress(wire.DeadlineExceeded, wire.EndOfStream):
            self._connection.wait_until_woken(time.monotonic() + delay)

    def _refuse(self, refusal: Refusal) -> None:
        """Say why, and close so that it can be read."""
        # The text about a request that can't be read may quote from it.
        message = refusal.message if self._request is not None else None
        self._log("call refused", refusal.type, message=message)
        line = wire.encode(
            protocol.build_daemon_error(refusal.type, refusal.message)
        )
        self._waker.clear()
        if self._visitor.displaced:
            with contextlib.suppress(OSError):
                self._connection.send_some(line)
            return
        self._send_last(line)

    def _send_last(self, line: bytes) -> None:
        try:
            deadline = time.monotonic() + wire.DISCARD_SECONDS
            self._connection.send(line, deadline)
            self._connection.close_after_reading(self._waker)
        except (OSError, wire.DeadlineExceeded, wire.Woken):
            pass  # it doesn't want to know, or the daemon doesn't want to wait

    def _log(self, what: str, end: str | None, **more: object) -> None:
        """Write the one line that the log has about this connection."""
        description = None
        if self._request is not None and self._generation.children is not None:
            procedures = self._generation.children.procedures
            description = procedures.get(self._request.procedure)
        logger.info(
            "%s %s",
            what,
            fields(
                **self._names(),
                uid=description.uid if description else None,
                **more,
                end=end,
                duration=round(time.monotonic() - self._begin, 3),
            ),
        )

    def _names(self) -> dict[str, str | None]:
        """Return what the log says about who asked for what."""
        request = self._request
        names: dict[str, str | None] = {"peer": self._peer}
        if request is not None:
            names["user"] = request.user[:_LOGGED]
            names["procedure"] = request.procedure and request.procedure[:_LOGGED]
            names["job_id"] = request.job_id and request.job_id[:_LOGGED]
        return names

    # --- introspection ---

    def _list_procedures(self) -> None:
        """Say what there is that this user may call."""
        children = self._generation.children
        found = [
            protocol.build_procedure(
                name=description.name,
                doc=description.doc,
                parameters=description.parameters,
                streaming=description.streaming,
                timeout=self._timeout_of(description),
                concurrency=description.concurrency,
            )
            for description in children.procedures.values()
            if self._may_call(description.name)
        ]
        reply = protocol.ProcedureList(found, __version__, children.digest)
        self._log("procedures listed", protocol.RESULT)
        self._send_last(wire.encode(protocol.build_procedure_list(reply)))

    def _timeout_of(self, description: Description) -> float | None:
        if description.timeout is not None:
            return description.timeout
        return self._config.default_timeout

    # --- the call ---

    def _carry_out(self, call: protocol.DaemonCall) -> None:
        children = self._generation.children
        description = children.procedures.get(call.procedure)
        if description is None:
            raise Refusal(
                errors.NO_SUCH_PROCEDURE,
                f"no procedure is called {call.procedure[:_LOGGED]!r}",
            )
        deadline = time.monotonic() + self._config.request_timeout
        with self._front.slots.use(
            call.procedure, description.concurrency, self._config.max_calls, deadline
        ) as slot:
            child = children.take(deadline)
            try:
                used = self._relay(child, slot, description)
            except BaseException:
                child.kill()  # a fault of ours must not let it go on unseen
                children.release(child)
                raise
            if used:
                children.release(child)
            else:
                children.put_back(child)

    def _relay(self, child: Child, slot: Slot, description: Description) -> bool:
        """Have the process carry out the call. False: the caller had left already."""
        call = self._request
        order = Order(
            call.procedure, call.arguments, call.job_id, call.user, self._peer
        )
        names = self._names()
        relay = Relay(
            self._connection,
            child,
            self._waker,
            slot=slot,
            order=order.to_line(),
            timeout=self._timeout_of(description),
            send_timeout=self._config.send_timeout,
            is_stopping=self._front.is_stopping,
            output=OutputLog(procedure=names["procedure"], job_id=names["job_id"]),
        )
        used = relay.run()
        self._log(
            "call ended",
            relay.end if used else protocol.CANCELLED,
            exception=relay.raised,
            pid=child.exit.pid if child.exit else None,
        )
        return used


def may_call(
    authorization: Mapping[str, tuple[str, ...]] | None, user: str, procedure: str
) -> bool:
    """Tell whether a user may call a procedure.

    :param authorization: patterns by user; None: everybody may call everything
    """
    if authorization is None:
        return True
    return any(
        fnmatchcase(procedure, pattern) for pattern in authorization.get(user, ())
    )
