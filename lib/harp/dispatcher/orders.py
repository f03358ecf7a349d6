"""What a running dispatcher is told to do, over the admin socket or by signals: stop,
reload. Given from any thread, carried out by those that belong to it."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from ..protocol.admin import Stop

logger = logging.getLogger(__name__)


class StopOrder(NamedTuple):
    """An order to stop.

    :ivar by: who has given it, for the log
    """

    stop: Stop
    by: str


class StopOrders:
    """The orders to stop that came over the admin socket.

    :param wake: called when there is one
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        # Appended to by connections' threads, taken from by the main thread.
        self._orders: collections.deque[StopOrder] = collections.deque()

    def give(self, stop: Stop, by: str) -> None:
        self._orders.append(StopOrder(stop, by))
        self._wake()

    def take(self) -> StopOrder | None:
        """Return the next one, None if there is none."""
        return self._orders.popleft() if self._orders else None


class Reloaded(NamedTuple):
    """How a reload went.

    :ivar faults: why all stays as it was; empty if it doesn't
    :ivar restart: keys that have changed and that a start alone applies
    """

    faults: list[str]
    restart: list[str]


class Reloading:
    """A thread that reloads when that is wanted, one after the other.

    :param reload: does it
    """

    def __init__(self, reload: Callable[[], Reloaded]) -> None:
        self._reload = reload
        # Guards the rest. Notified when a reload is wanted or done, and at the end.
        self._changed = threading.Condition()
        self._wanted = 0
        self._done = 0
        self._last = Reloaded([], [])
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        """Begin; what was wanted before is done now."""
        self._thread.start()

    def want(self) -> int:
        """Have a reload done that begins after this call; return its number."""
        with self._changed:
            self._wanted += 1
            self._changed.notify_all()
            return self._wanted

    def wait(self, number: int) -> Reloaded:
        """Return how that reload went, or a later one; it may have been done with
        others that were wanted meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._done >= number)
            if self._done < number:
                return Reloaded(["the dispatcher stops"], [])
            return self._last

    def close(self) -> None:
        """Do no more; one that is being done comes to its end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._wanted > self._done
                )
                if self._closed:
                    return
                number = self._wanted
            try:
                outcome = self._reload()
            except Exception as error:
                logger.exception("reload failed")
                outcome = Reloaded([f"{type(error).__name__}: {error}"], [])
            with self._changed:
                self._done, self._last = number, outcome
                self._changed.notify_all()
