"""JSON lines over a socket: limits, deadlines, TLS.

A :class:`Connection` is used by one thread, its owner. Another thread ends the owner's
wait with a :class:`Waker`; it never touches the socket. Sockets are non-blocking and
every wait is one ``poll`` over the socket and the wakers, so that a deadline counts
for the whole of what is awaited, not for each read. What a line holds is
:mod:`harp.jsonline`'s affair; its functions are at hand here as well.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from _thread import allocate_lock

from .errors import INVALID_REQUEST, PARSE_ERROR, Refusal
from .jsonline import (  # noqa: F401
    MAX_DEPTH,
    WRAPPING_BYTES,
    WRAPPING_DEPTH,
    check_depth,
    decode,
    encode,
)

_CHUNK = 64 * 1024
_DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_SECONDS = 5.0  # for a peer to read what was sent last
TLS_HANDSHAKE = 0x16
"""The first byte of a TLS client (RFC 8446, 5.1), never of JSON."""

LONGEST_POLL = 2**31 - 1
"""Milliseconds that poll(2) waits at most; whose deadline is later polls again."""

# A peer that has vanished without a word is noticed after about two minutes.
_KEEPALIVE_IDLE = 60
_KEEPALIVE_INTERVAL = 15
_KEEPALIVE_PROBES = 4


class EndOfStream(Exception):
    """Raised when the peer has closed its side.

    :ivar partial: True if it did so in the middle of a line
    """

    def __init__(self, partial: bool) -> None:
        super().__init__(
            "connection closed in the middle of a line"
            if partial
            else "connection closed"
        )
        self.partial = partial


class DeadlineExceeded(Exception):
    """Raised when what was awaited hasn't come in time."""


class Woken(Exception):
    """Raised in a connection's owner when a waker was set: look what has changed."""


class Waker:
    """Ends a wait in another thread. :meth:`wake` may be called from any thread, at any
    time, also after :meth:`close`."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Guards _fd against being closed, and used again for something else, while
        # another thread writes to it.
        self._lock = allocate_lock()

    def fileno(self) -> int:
        return self._fd

    def wake(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def wait(self, deadline: float | None) -> bool:
        """Wait until it is set, and clear it.

        :param deadline: on the monotonic clock; None: for ever
        :returns: False if it wasn't set in time
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not poll.poll(_milliseconds(deadline)):
            if time.monotonic() >= deadline:
                return False
        self.clear()
        return True

    def clear(self) -> None:
        """Make it wait again. The owner calls it before it looks what has changed."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


# --- connections --------------------------------------------------------------------


class Connection:
    """A socket that carries lines.

    :param sock: connected socket, plain; becomes non-blocking and belongs to the
        connection from now on
    :param max_line: bytes that a received line may have, without its newline
    :param wakers: any of them, when set, makes every wait here raise :class:`Woken`
    :ivar sock: the socket; once TLS has been started, an ``ssl.SSLSocket``
    """

    def __init__(
        self, sock: socket.socket, max_line: int, wakers: tuple[Waker, ...] = ()
    ) -> None:
        sock.setblocking(False)
        self._max_line = max_line
        self._poll = select.poll()
        self._awaited = select.POLLIN
        self._poll.register(sock, self._awaited)
        self.wakers = wakers
        for waker in wakers:
            self._poll.register(waker, select.POLLIN)
        self._buffer = bytearray()
        self._searched = 0
        self._has_half_closed = False
        self._use(
            sock, {BlockingIOError: select.POLLIN}, {BlockingIOError: select.POLLOUT}
        )

    def _use(self, sock, blocked_reads: dict, blocked_writes: dict) -> None:
        self.sock = sock
        self._fd = sock.fileno()
        # Which poll event to wait for after which exception of recv and send.
        self._blocked_reads = blocked_reads
        self._blocked_writes = blocked_writes

    def start_tls(self, context, server_hostname: str | None, deadline: float) -> None:
        """Do the TLS handshake; everything after it is encrypted.

        :param context: an ``ssl.SSLContext`` for the server's or the client's side
        :param server_hostname: on the client's side, the name to ask for and, if the
            context says so, to verify; None: none
        :raises OSError: ``ssl.SSLError`` among them, if the handshake fails
        :raises DeadlineExceeded: if it takes too long
        """
        import ssl  # here: clients without TLS don't need it

        # A socket that can't be wrapped is lost, with its descriptor: its connection
        # has gone, or no certificate can have that name.
        self.sock.getpeername()
        if server_hostname is not None and not _is_name(server_hostname):
            raise ssl.SSLError(f"no host has such a name: {server_hostname[:300]!r}")
        sock = context.wrap_socket(
            self.sock,
            server_side=context.protocol == ssl.PROTOCOL_TLS_SERVER,
            server_hostname=server_hostname,
            do_handshake_on_connect=False,
        )
        blocked = {
            ssl.SSLWantReadError: select.POLLIN,
            ssl.SSLWantWriteError: select.POLLOUT,
        }
        self._use(sock, blocked, blocked)
        while True:
            try:
                sock.do_handshake()
                return
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                event = blocked[type(error)]
            self.wait(event, deadline)

    def fileno(self) -> int:
        return self._fd

    def wait(self, event: int, deadline: float | None) -> int:
        """Wait until the socket is ready for a poll event, and return what has come:
        that, a hang-up, or an error.

        :param deadline: on the monotonic clock; None: for ever
        :raises Woken: if a waker was set
        :raises DeadlineExceeded: if it isn't ready in time
        """
        if event != self._awaited:
            self._poll.modify(self._fd, event)
            self._awaited = event
        while not (ready := self._poll.poll(_milliseconds(deadline))):
            if time.monotonic() >= deadline:
                raise DeadlineExceeded
        for fd, _ in ready:
            if fd != self._fd:
                raise Woken
        return ready[0][1]

    def wait_until_woken(self, deadline: float | None) -> None:
        """Wait for a waker, whatever the peer sends meanwhile; it may have closed its
        sending side.

        One that has closed both sides looks the same, until it is sent something:
        then its kernel answers with a reset. So it gets a blank, which may stand before
        any message.

        :raises EndOfStream: if the peer has gone altogether
        :raises DeadlineExceeded: if no waker was set in time
        """
        try:
            if not self._has_half_closed:
                event = self.wait(select.POLLRDHUP, deadline)
                self._has_half_closed = True
                if event & (select.POLLHUP | select.POLLERR):
                    raise EndOfStream(partial=False)
                self.send_some(b" ")
            self.wait(0, deadline)  # hang-up and error are reported always
        except Woken:
            return
        except OSError:
            pass
        raise EndOfStream(partial=False)

    def wait_for_input(self, deadline: float | None) -> None:
        """Wait until the beginning of a line is there. Errors as for
        :meth:`readline`."""
        while not self._buffer:
            self._fill(deadline)

    def receive_some(self) -> tuple[bytes, int]:
        """Receive what is there, without waiting.

        :returns: bytes and 0; or nothing and the poll event to wait for; nothing and 0
            means that the peer has closed its side
        :raises OSError: if the connection is broken
        """
        try:
            return self.sock.recv(_CHUNK), 0
        except OSError as error:
            event = self._blocked_reads.get(type(error))
            if event is None:
                raise
            return b"", event

    def send_some(self, data) -> tuple[int, int]:
        """Send what goes without waiting.

        :returns: number of bytes sent and 0; or 0 and the poll event to wait for
        :raises OSError: if the connection is broken
        """
        try:
            return self.sock.send(data), 0
        except OSError as error:
            event = self._blocked_writes.get(type(error))
            if event is None:
                raise
            return 0, event

    def readline(self, deadline: float | None) -> bytes:
        """Return the next line, without its newline.

        :raises EndOfStream: if there is none
        :raises DeadlineExceeded: if it isn't whole in time
        :raises Refusal: ``invalid_request`` if it is too long; the connection is of no
            use afterwards
        :raises Woken: if a waker was set; what has come of the line is kept
        :raises OSError: if the connection is broken
        """
        while (line := self._next_line()) is None:
            self._fill(deadline)
        return line

    def readlines(self, deadline: float | None) -> list[bytes]:
        """Return all lines that are there, at least one. Errors as for
        :meth:`readline`."""
        lines = [self.readline(deadline)]
        while (line := self._next_line()) is not None:
            lines.append(line)
        return lines

    def _next_line(self) -> bytes | None:
        buffer = self._buffer
        end = buffer.find(b"\n", self._searched)
        if end < 0:
            end = self._searched = len(buffer)
            line = None
        else:
            line = bytes(buffer[:end])
        if end > self._max_line:
            raise Refusal(
                INVALID_REQUEST,
                f"line is longer than {self._max_line} bytes",
                closes=True,
            )
        if line is not None:
            del buffer[: end + 1]
            self._searched = 0
        return line

    def _fill(self, deadline: float | None) -> None:
        data, blocked_on = self.receive_some()
        if blocked_on:
            self.wait(blocked_on, deadline)
        elif not data:
            raise EndOfStream(partial=bool(self._buffer))
        else:
            self._buffer += data
            if self._buffer[0] == TLS_HANDSHAKE:
                raise Refusal(
                    PARSE_ERROR, "not JSON: this port does not speak TLS", closes=True
                )
            # Whoever drips must not reset the clock.
            if deadline is not None and time.monotonic() >= deadline:
                if b"\n" not in data:
                    raise DeadlineExceeded

    @property
    def has_partial_line(self) -> bool:
        """Whether the beginning of a line has been received, but not its end."""
        return bool(self._buffer)

    def peek(self, deadline: float) -> bytes:
        """Return the first byte that the peer sends, and leave it unread; nothing if it
        has closed its side. Only for a connection without TLS.

        :raises DeadlineExceeded: if none comes in time
        :raises Woken: if a waker was set
        :raises OSError: if the connection is broken
        """
        while True:
            try:
                return self.sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                self.wait(select.POLLIN, deadline)

    def send(self, data: bytes, deadline: float | None) -> None:
        """Send all of ``data``.

        :raises DeadlineExceeded: if the peer doesn't take it in time
        :raises Woken: if a waker was set while waiting; part of it may be sent
        :raises OSError: if the connection is broken
        """
        view = memoryview(data)
        while view:
            sent, blocked_on = self.send_some(view)
            if blocked_on:
                self.wait(blocked_on, deadline)
            view = view[sent:]

    def half_close(self) -> None:
        """Tell the peer that nothing more comes; what it sends can still be read."""
        self._shut_down(socket.SHUT_WR)

    def interrupt(self) -> None:
        """End the wait of the thread that uses the connection, from another one: to it
        the peer seems to have closed."""
        self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        # SSLSocket.shutdown() would drop the TLS layer, and the next write would go out
        # in clear; the plain one leaves it, and the next write fails.
        try:
            socket.socket.shutdown(self.sock, how)
        except OSError:
            pass  # the peer was faster

    def close(self) -> None:
        self.sock.close()

    def close_after_reading(
        self, waker: Waker | None = None, deadline: float | None = None
    ) -> None:
        """Close so that the peer gets to read what was sent last: with input unread,
        the kernel would reset the connection and the peer's copy be lost. Of wakers
        only the one that is given ends it early.

        :param deadline: for the peer to close, on the monotonic clock, whatever it
            sends until then; None: five seconds, and 64 MiB
        """
        most = _DISCARD_BYTES if deadline is None else float("inf")
        deadline = deadline or time.monotonic() + DISCARD_SECONDS
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if waker is not None:
            poll.register(waker, select.POLLIN)
        discarded = 0
        try:
            self.finish()
            while discarded < most:
                if [fd for fd, _ in poll.poll(_milliseconds(deadline))] != [self._fd]:
                    break  # time is over, or we were woken
                length = self.discard()
                if not length:
                    break
                discarded += length
        except OSError:
            pass  # the peer has gone: nobody is left to be told
        finally:
            self.close()

    def finish(self) -> None:
        """Tell the peer that nothing more comes, also in the words of TLS. After it
        only :meth:`discard` and :meth:`close` are of use.

        :raises OSError: if the connection is broken
        """
        self._send_close_notify()
        socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def discard(self) -> int:
        """Receive what is there without looking at it.

        :returns: number of bytes; 0 means that the peer has closed its side
        :raises BlockingIOError: if nothing is there
        :raises OSError: if the connection is broken
        """
        # Below TLS: these bytes need not even be decrypted.
        return len(socket.socket.recv(self.sock, _CHUNK))

    def _send_close_notify(self) -> None:
        if hasattr(self.sock, "unwrap"):
            try:
                self.sock.unwrap()
            except (OSError, ValueError):
                pass  # sent, but the peer's own has not come yet; or TLS never began


def _is_name(name: str) -> bool:
    """Tell whether ``ssl`` can look for that name in a certificate."""
    try:
        return bool(name.encode("idna").strip(b".")) and "\0" not in name
    except UnicodeError:
        return False


def _milliseconds(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    return min(max(0.0, (deadline - time.monotonic()) * 1000), LONGEST_POLL)


def tune(sock: socket.socket) -> None:
    """Set what every TCP connection of ours has: no delay, keepalive."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


def connect(
    family: int,
    address: tuple | str,
    max_line: int,
    deadline: float | None,
    wakers: tuple[Waker, ...] = (),
) -> Connection:
    """Connect a stream socket.

    :param family: address family, as ``getaddrinfo`` gives it
    :param address: socket address in that family
    :raises OSError: if it fails
    :raises DeadlineExceeded: if it takes too long
    :raises Woken: if a waker was set meanwhile
    """
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_UNIX:
            _connect_unix(sock, address, deadline)
            return Connection(sock, max_line, wakers)
        tune(sock)
        connection = Connection(sock, max_line, wakers)
        try:
            sock.connect(address)
        except BlockingIOError:
            connection.wait(select.POLLOUT, deadline)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None
        return connection
    except BaseException:
        sock.close()
        raise


def connect_to_any(
    targets: list, max_line: int, deadline: float, wakers: tuple[Waker, ...] = ()
) -> tuple[Connection, tuple]:
    """Connect a stream socket to the first of some addresses that can be reached.

    :param targets: pairs of address family and socket address, in the order to try;
        at least one
    :param deadline: on the monotonic clock, for all of them together
    :returns: the connection, and to which target it is

    Errors are those of :func:`connect` for the last target.
    """
    for left in range(len(targets), 0, -1):
        target = targets[-left]
        now = time.monotonic()
        # A part of the time for each: a silent one must leave time for the others.
        until = now + max(0.0, deadline - now) / left
        try:
            return connect(*target, max_line, until, wakers), target
        except (OSError, DeadlineExceeded):
            if left == 1:
                raise
    raise ValueError("no target")


def _connect_unix(sock: socket.socket, path, deadline: float | None) -> None:
    # With the backlog full, a non-blocking connect fails and nothing tells when to try
    # again (unix(7)). A blocking one waits, with the kernel's own time limit: Python's
    # makes the socket non-blocking.
    if deadline is not None:
        left = max(1, int((deadline - time.monotonic()) * 1_000_000))  # 0: for ever
        limit = struct.pack("ll", *divmod(left, 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    try:
        sock.connect(path)
    except BlockingIOError:
        raise DeadlineExceeded from None
