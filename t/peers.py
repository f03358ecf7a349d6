"""A peer that does what a script says: stalls, resets, garbage, half lines."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable


class PeerConnection:
    """A connection as its script sees it; every wait has a time limit.

    :ivar sock: the socket itself
    """

    def __init__(self, sock: socket.socket, stopped: threading.Event) -> None:
        self.sock = sock
        self._stopped = stopped
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def readline(self) -> bytes:
        """Return the next line without its newline; what there is at the end."""
        while b"\n" not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                line, self._buffer = self._buffer, b""
                return line
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def read_to_end(self) -> bytes:
        """Return all that comes until the other side closes or breaks off."""
        data, self._buffer = self._buffer, b""
        try:
            while more := self.sock.recv(65536):
                data += more
        except ConnectionError:
            pass
        return data

    def stall(self) -> None:
        """Do nothing until the test has ended."""
        self._stopped.wait(60)

    def reset(self) -> None:
        """Break the connection off."""
        self.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.sock.close()


class ScriptedPeer:
    """A server on a free port of 127.0.0.1 that runs a script for each connection, in
    a thread of its own.

    :param script: called with a :class:`PeerConnection`, which is closed afterwards
    :param context: for TLS, an ``ssl.SSLContext``; None: plain
    :param receive_buffer: bytes that the kernel takes for a script that doesn't read;
        None: as the system is set
    :ivar address: host and port
    :ivar connections: how many there were
    """

    def __init__(
        self,
        script: Callable[[PeerConnection], None],
        context: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self._script = script
        self._context = context
        self._stopped = threading.Event()
        # Guards what the threads share: _open, _failures, connections.
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self._listener = socket.socket()
        if receive_buffer is not None:
            self._listener.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer
            )
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.address = self._listener.getsockname()
        self._acceptor = threading.Thread(target=self._accept, name="peer-accept")
        self._acceptor.start()

    def stop(self) -> None:
        """End all connections and threads.

        :raises BaseException: the first that a script raised, if one did
        """
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for sock in self._open:
                try:
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                except OSError:
                    pass  # it has ended by itself
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._serve, args=(sock,), name=f"peer-{self.connections}"
            )
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        sock = plain
        try:
            sock.settimeout(30)
            if self._context is not None:
                sock = self._context.wrap_socket(plain, server_side=True)
                with self._lock:
                    self._open.discard(plain)
                    self._open.add(sock)
            self._script(PeerConnection(sock, self._stopped))
        except BaseException as error:
            # Once stopped, a script's connection breaks: that is no fault of it.
            with self._lock:
                if not self._stopped.is_set() or not isinstance(error, OSError):
                    self._failures.append(error)
        finally:
            with self._lock:
                self._open.discard(plain)
                self._open.discard(sock)
                sock.close()
