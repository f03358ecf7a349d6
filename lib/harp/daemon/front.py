"""Connections of callers: TLS, the request, who asks; then a process for the call.

Each connection has a thread of its own, and only that thread touches its socket. The
front never imports the procedures.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from .. import errors, protocol, wire
from ..errors import Refusal
from ..log import fields
from .children import Child
from .control import Order
from .generation import Generation
from .output import OutputLog
from .relay import Relay

logger = logging.getLogger(__name__)

_LOGGED = 200  # characters of what a caller names that stand in a log line


class Front:
    """Serves connections, each with the generation that is current when it comes in.

    :param generation: the first one
    """

    def __init__(self, generation: Generation) -> None:
        # Guards what follows; notified when a generation has one connection less.
        self._changed = threading.Condition()
        self._generation = generation
        self._users: dict[Generation, int] = {}
        self._wakers: set[wire.Waker] = set()
        self._calls = 0
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
            if self._stopping:
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

    def serve(self, sock, address) -> None:
        """Serve a connection to its end. In its own thread."""
        waker = wire.Waker()
        try:
            with self._using_generation(waker) as generation:
                _Visit(self, generation, waker, sock, _name(address)).run()
        finally:
            waker.close()

    @contextlib.contextmanager
    def room_for_call(self, most: int) -> Iterator[None]:
        """Count a call.

        :raises Refusal: if there are so many already
        """
        with self._changed:
            if self._calls >= most:
                raise Refusal(errors.OVERLOADED, f"{most} calls are running already")
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1


class _Visit:
    """One connection, from the handshake to the close."""

    def __init__(
        self,
        front: Front,
        generation: Generation,
        waker: wire.Waker,
        sock,
        peer: str,
    ) -> None:
        self._front = front
        self._generation = generation
        self._config = generation.config
        self._waker = waker
        self._peer = peer
        self._call: protocol.DaemonCall | None = None
        max_line = self._config.max_arguments + wire.WRAPPING_BYTES
        self._connection = wire.Connection(sock, max_line, (waker,))

    def run(self) -> None:
        try:
            self._handshake()
            self._call = self._receive()
            self._authenticate()
            self._carry_out()
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
        deadline = time.monotonic() + self._config.handshake_timeout
        try:
            first = self._connection.peek(deadline)
            if not first:
                raise wire.EndOfStream(partial=False)
            if first[0] != wire.TLS_HANDSHAKE:
                raise Refusal(errors.INVALID_PROTOCOL, "this port speaks TLS")
            self._connection.start_tls(self._generation.context, None, deadline)
        except wire.DeadlineExceeded:
            raise TimeoutError("no TLS handshake in time") from None
        except wire.Woken:  # nothing can be said before TLS is there
            raise ConnectionAbortedError("the daemon stops") from None

    def _receive(self) -> protocol.DaemonCall:
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
            raise _shutdown() from None
        return protocol.parse_daemon_call(wire.decode(line))

    def _authenticate(self) -> None:
        call = self._call
        if not self._generation.authenticator.authenticate(call.user, call.password):
            raise Refusal(errors.AUTH_ERROR, "unknown user or wrong password")

    def _refuse(self, refusal: Refusal) -> None:
        """Say why, and close so that it can be read."""
        logger.info(
            "call refused %s",
            fields(**self._names(), type=refusal.type, message=refusal.message),
        )
        message = protocol.build_daemon_error(refusal.type, refusal.message)
        self._waker.clear()
        try:
            deadline = time.monotonic() + wire.DISCARD_SECONDS
            self._connection.send(wire.encode(message), deadline)
            self._connection.close_after_reading()
        except (OSError, wire.DeadlineExceeded, wire.Woken):
            pass  # it doesn't want to know, or the daemon doesn't want to wait

    def _names(self) -> dict[str, str | None]:
        """Return what the log says about who asked for what."""
        call = self._call
        names: dict[str, str | None] = {"peer": self._peer}
        if call is not None:
            names["user"] = call.user[:_LOGGED]
            names["procedure"] = call.procedure[:_LOGGED]
            names["job_id"] = call.job_id and call.job_id[:_LOGGED]
        return names

    # --- the call ---

    def _carry_out(self) -> None:
        children = self._generation.children
        if self._call.procedure not in children.procedures:
            raise Refusal(
                errors.NO_SUCH_PROCEDURE,
                f"no procedure is called {self._call.procedure[:_LOGGED]!r}",
            )
        with self._front.room_for_call(self._config.max_calls):
            child = children.take(time.monotonic() + self._config.request_timeout)
            try:
                used = self._relay(child)
            except BaseException:
                child.kill()  # a fault of ours must not let it go on unseen
                children.release(child)
                raise
            if used:
                children.release(child)
            else:
                children.put_back(child)

    def _relay(self, child: Child) -> bool:
        """Have the process carry out the call. False: the caller had left already."""
        call = self._call
        description = self._generation.children.procedures[call.procedure]
        timeout = description.timeout
        if timeout is None:
            timeout = self._config.default_timeout
        order = Order(
            call.procedure, call.arguments, call.job_id, call.user, self._peer
        )
        names = self._names()
        relay = Relay(
            self._connection,
            child,
            self._waker,
            order=order.to_line(),
            timeout=timeout,
            send_timeout=self._config.send_timeout,
            is_stopping=self._front.is_stopping,
            output=OutputLog(procedure=names["procedure"], job_id=names["job_id"]),
        )
        start = time.monotonic()
        used = relay.run()
        if used:
            logger.info(
                "call ended %s",
                fields(
                    **names,
                    pid=child.exit.pid if child.exit else None,
                    end=relay.end,
                    duration=round(time.monotonic() - start, 3),
                ),
            )
        return used


def _shutdown() -> Refusal:
    return Refusal(errors.SHUTDOWN, "the daemon stops")


def _name(address) -> str:
    host, port = address[:2]
    host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
