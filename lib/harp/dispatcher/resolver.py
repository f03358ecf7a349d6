"""Names to addresses, in threads that a job waits for only as long as it wants:
``getaddrinfo`` has no time limit and can't be interrupted."""

from __future__ import annotations

import collections
import errno
import socket
import threading
from typing import NamedTuple

from .. import wire

_THREADS = 8
_IDLE_SECONDS = 10.0


class Endpoint(NamedTuple):
    """Where to connect to: address family and socket address."""

    family: int
    address: tuple


class _Lookup:
    """One name that somebody waits for."""

    def __init__(self, name: str, port: int, waker: wire.Waker) -> None:
        self.name = name
        self.port = port
        self.waker = waker
        self.endpoints: list[Endpoint] | None = None
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            self.endpoints = _look_up(self.name, self.port)
        except OSError as error:
            self.error = error
        self.waker.wake()


class Resolver:
    """A few threads that resolve names. Called from any thread."""

    def __init__(self) -> None:
        # Guards the rest; notified at each new lookup.
        self._changed = threading.Condition()
        self._lookups: collections.deque[_Lookup] = collections.deque()
        self._threads = 0
        self._idle = 0

    def resolve(
        self, name: str, port: int, waker: wire.Waker, deadline: float
    ) -> list[Endpoint]:
        """Return the addresses of a name, in the order to try them.

        :param waker: of the calling thread
        :param deadline: on the monotonic clock
        :raises OSError: if there are none
        :raises DeadlineExceeded: if it takes too long
        :raises Woken: if the waker was set for another reason
        """
        try:
            return _look_up(name, port, socket.AI_NUMERICHOST)
        except OSError:
            pass  # a name, not a number
        lookup = _Lookup(name, port, waker)
        try:
            self._start(lookup)
            if not waker.wait(deadline):
                raise wire.DeadlineExceeded
        finally:
            self._forget(lookup)
        if lookup.error is not None:
            raise lookup.error
        if lookup.endpoints is None:
            raise wire.Woken
        return lookup.endpoints

    def _start(self, lookup: _Lookup) -> None:
        with self._changed:
            self._lookups.append(lookup)
            if self._idle >= len(self._lookups) or self._threads >= _THREADS:
                self._changed.notify()
                return
            self._threads += 1
        # A daemon thread: one that hangs must not keep the process from ending.
        thread = threading.Thread(target=self._work, name="resolver", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            with self._changed:
                self._threads -= 1
            raise OSError(errno.EAGAIN, str(error)) from None

    def _forget(self, lookup: _Lookup) -> None:
        """Take it out if no thread has taken it up; else nothing is to be done."""
        with self._changed:
            if lookup in self._lookups:
                self._lookups.remove(lookup)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._lookups, _IDLE_SECONDS)
                self._idle -= 1
                if not self._lookups:
                    self._threads -= 1
                    return
                lookup = self._lookups.popleft()
            lookup.run()


def _look_up(name: str, port: int, flags: int = 0) -> list[Endpoint]:
    try:
        found = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=flags | socket.AI_NUMERICSERV
        )
    except ValueError as error:  # a NUL; a label that is empty or too long
        raise OSError(f"is no host name: {error}") from None
    endpoints = [Endpoint(family, address) for family, _, _, _, address in found]
    return list(dict.fromkeys(endpoints))
