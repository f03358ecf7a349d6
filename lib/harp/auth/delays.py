"""How long the reply to a failed authentication takes: longer each time, by address
and by user, so that guessing is slow for those who wait for it. It costs others nothing.

A known gap: who hangs up and comes again doesn't wait. Making the next attempt wait
instead would keep out whoever has the right password and shares the address."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_FORGET = 600.0  # s after its last failure
_MAX_ENTRIES = 10_000  # of some 200 bytes; the oldest goes
_MAX_DOUBLINGS = 30


class Delays:
    """The failures of late. Any thread may ask.

    :param clock: tells monotonic time
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Guards the failures: how many, and when the last one was.
        self._lock = threading.Lock()
        self._failures: OrderedDict[object, tuple[int, float]] = OrderedDict()

    def note_failure(
        self, address: str, user: str, first: float, longest: float
    ) -> float:
        """Return the seconds that the reply to a failure is to wait.

        :param first: seconds after the first failure; doubled with each further one
        :param longest: seconds, at most
        """
        now = self._clock()
        with self._lock:
            # A user's name may be long, and is not ours to keep.
            count = max(
                self._count(("address", _network(address)), now),
                self._count(("user", hash(user)), now),
            )
        return min(longest, first * 2 ** min(count - 1, _MAX_DOUBLINGS))

    def _count(self, key: object, now: float) -> int:
        count, last = self._failures.pop(key, (0, now))
        if now - last > _FORGET:
            count = 0
        self._failures[key] = count + 1, now
        if len(self._failures) > _MAX_ENTRIES:
            self._failures.popitem(last=False)
        return count + 1


def _network(address: str) -> str:
    """Return what one guesser has: of IPv6 that is a network."""
    if ":" not in address:
        return address
    host = address.partition("%")[0]
    try:
        return str(ipaddress.ip_network((host, 64), strict=False))
    except ValueError:
        return address  # what some proxies say, like an address with a port
