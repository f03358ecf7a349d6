"""A listening socket and a thread for each connection: ``ThreadingTCPServer`` as both
daemons need it. What is spoken on a connection is not known here."""

from __future__ import annotations

import errno
import logging
import os
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Callable

from . import wire
from .address import Address
from .log import fields

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_PAUSE = 0.1  # s between two looks whether there are descriptors again
_QUIET = 10.0  # s without a shortage until the next one is logged
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class OpenGate:
    """Lets in everybody; what decides otherwise is derived from it. Its methods are
    called by the accepting thread, but for :meth:`wake`, and :meth:`left`, which is
    called by a connection's own."""

    def wait_for_room(self, is_stopping: Callable[[], bool]) -> None:
        """Wait until another connection may be accepted, or the server stops."""

    def wake(self) -> None:
        """Look again whether the server stops."""

    def relieve(self) -> None:
        """The system is short of something: have a connection give way."""

    def admit(self, sock: socket.socket, address: object) -> bool:
        """Tell whether a connection may be served. From then on it counts, until
        :meth:`left`.

        :raises OSError: if that takes more than the system has at the moment
        """
        return True

    def left(self, sock: socket.socket) -> None:
        """Take note that a connection that was admitted has ended."""


class Server(socketserver.ThreadingTCPServer):
    """Accepts connections, TCP or Unix, and serves each in a thread of its own.

    :param address: where to listen; port 0 takes a free one, see :attr:`address`
    :param serve: called in the connection's thread with the socket and the peer's
        address; owns the socket
    :param name: prefix of the names of its threads
    :param max_connections: with so many, accepting pauses
    :param mode: permissions of a Unix socket
    :param group: number of the group that a Unix socket is given to; None: our own
    :param gate: decides who gets in; None: everybody
    :raises OSError: if the address can't be used; names it
    """

    allow_reuse_address = True
    request_queue_size = _BACKLOG

    def __init__(
        self,
        address: Address,
        serve: Callable[[socket.socket, object], None],
        *,
        name: str,
        max_connections: int,
        mode: int = 0o600,
        group: int | None = None,
        gate: OpenGate | None = None,
    ) -> None:
        self._serve = serve
        self._name = name
        self._max_connections = max_connections
        self._mode = mode
        self._group = group
        self._gate = gate or OpenGate()
        # Not guarded: two who find a shortage at once may log it both.
        self._quiet_until = 0.0
        self._short_since = 0.0
        # Guards _max_connections, _serving and _stopping; notified when a thread
        # leaves, when there may be more, and at the stop.
        self._changed = threading.Condition()
        self._serving: set[threading.Thread] = set()
        self._stopping = False
        self._acceptor = threading.Thread(
            target=self.serve_forever, args=(None,), name=f"{name}-accept", daemon=True
        )
        try:
            self.address_family, bind_to = _socket_address(address)
            super().__init__(bind_to, None)
        except (OSError, UnicodeError) as error:
            # Where nothing of that kind can be, there is neither errno nor strerror.
            number = getattr(error, "errno", None) or errno.EINVAL
            reason = getattr(error, "strerror", None) or str(error)
            raise OSError(number, f"can't listen on {address}: {reason}") from None
        self.address = address
        if address.path is None:
            self.address = address._replace(port=self.server_address[1])

    def server_bind(self) -> None:
        if self.address_family == socket.AF_UNIX:
            _remove_stale_socket(self.server_address)
            # A group gets nothing before it is the right one.
            mode = self._mode if self._group is None else self._mode & 0o700
            mask = os.umask(0o777 & ~mode)
            try:
                self.socket.bind(self.server_address)
            finally:
                os.umask(mask)
            if self._group is not None:
                self._give_to_group(self._group)
            return
        if self.address_family == socket.AF_INET6:
            only = self.server_address[0] != "::"
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        super().server_bind()

    def _give_to_group(self, group: int) -> None:
        path = self.server_address
        try:
            os.chown(path, -1, group)
            os.chmod(path, self._mode)
        except OSError as error:
            _unlink(path)
            raise OSError(
                error.errno, f"can't give it to group {group}: {error.strerror}"
            ) from None

    def start(self) -> None:
        """Begin to accept, in a thread of its own."""
        self._acceptor.start()

    def stop_accepting(self) -> None:
        """Close the listening socket. Connections go on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._gate.wake()
        # Wakes the accepting thread, which waits without a time limit.
        self.socket.shutdown(socket.SHUT_RDWR)
        if self._acceptor.ident is not None:
            self.shutdown()
            self._acceptor.join()
        self.socket.close()
        if self.address.path is not None:
            _unlink(self.address.path)

    def join(self, deadline: float) -> list[str]:
        """Wait until the connections' threads have ended; whoever stops a daemon wakes
        them before.

        :param deadline: on the monotonic clock
        :returns: names of those threads that haven't
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._serving, max(0.0, deadline - time.monotonic())
            )
            return sorted(thread.name for thread in self._serving)

    def allow(self, connections: int) -> None:
        """Have so many connections at most from now on; none is closed for it."""
        with self._changed:
            self._max_connections = connections
            self._changed.notify_all()

    @property
    def connections(self) -> int:
        with self._changed:
            return len(self._serving)

    @property
    def short_since(self) -> float | None:
        """Since when accepting pauses every now and then because the system is short of
        something, in seconds since the epoch; None: it doesn't."""
        is_short = time.monotonic() < self._quiet_until
        return self._short_since if is_short else None

    # --- called by socketserver ---

    def get_request(self):
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or len(self._serving) < self._max_connections
            )
        self._gate.wait_for_room(self._is_stopping)
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                self._pause(error)
            raise

    def _is_stopping(self) -> bool:
        return self._stopping

    def verify_request(self, request, client_address) -> bool:
        while not self._stopping:
            try:
                return self._gate.admit(request, client_address)
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                self._pause(error)
        return False

    def process_request(self, request, client_address) -> None:
        while not self._stopping:
            thread = threading.Thread(
                target=self._run,
                args=(request, client_address),
                name=f"{self._name}-{request.fileno()}",
                daemon=True,  # one that is stuck must not keep the process from ending
            )
            with self._changed:
                self._serving.add(thread)
            try:
                thread.start()
                return
            except (RuntimeError, MemoryError) as error:  # the former: no more threads
                with self._changed:
                    self._serving.discard(thread)
                self._pause(error)
        self._gate.left(request)
        request.close()

    def _run(self, request: socket.socket, client_address) -> None:
        try:
            wire.tune(request)
            self._serve(request, client_address)
        except MemoryError as error:
            self._note_shortage(error)
        except Exception:
            logger.exception("connection failed")
        finally:
            self._gate.left(request)
            request.close()
            with self._changed:
                self._serving.discard(threading.current_thread())
                self._changed.notify_all()

    def _note_shortage(self, error: BaseException) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._short_since = time.time()
            logger.error(
                "out of resources, accepting pauses %s",
                fields(address=str(self.address), error=str(error) or repr(error)),
            )
        # At the brink each connection that goes would bring a line otherwise.
        self._quiet_until = now + _QUIET

    def _pause(self, error: BaseException) -> None:
        """Leave the connection waiting until there may be room again."""
        self._note_shortage(error)
        self._gate.relieve()
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, _PAUSE)


def _socket_address(address: Address):
    if address.path is not None:
        return socket.AF_UNIX, address.path
    if address.host == "*":
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", address.port)
        return socket.AF_INET, ("0.0.0.0", address.port)
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return found[0][0], found[0][4]


def _remove_stale_socket(path: str) -> None:
    """Remove a socket that nobody listens on any more.

    :raises OSError: if somebody does, or if it is no socket
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "a file of that name exists")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # its backlog is full
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
