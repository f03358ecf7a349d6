"""How many calls run at a time: in all, and of each procedure."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from ..errors import OVERLOADED, Refusal


class _Count:
    """Calls that share a limit.

    :ivar taken: those that are not over
    :ivar ending: those of them whose end is being told
    """

    __slots__ = ("taken", "ending")

    def __init__(self) -> None:
        self.taken = 0
        self.ending = 0


class Slot:
    """The place of one call in the counts; used by its thread."""

    def __init__(self, slots: Slots, counts: list[_Count]) -> None:
        self._slots = slots
        self._counts = counts
        self._is_ending = False

    def ending(self) -> None:
        """Say that the caller is about to be told the end. Whoever knows the end of a
        call may make the next one at once, and that waits until this one is over."""
        if not self._is_ending:
            self._is_ending = True
            self._slots._note_ending(self._counts)

    def free(self) -> None:
        """Say that the call's processes are gone."""
        counts, self._counts = self._counts, []
        if counts:
            self._slots._free(counts, self._is_ending)


class Slots:
    """All calls. Any thread may ask."""

    def __init__(self) -> None:
        # Guards the counts; notified when a slot becomes free.
        self._changed = threading.Condition()
        self._all = _Count()
        self._by_procedure: dict[str, _Count] = {}

    @contextlib.contextmanager
    def use(
        self, procedure: str, concurrency: int | None, most: int, deadline: float
    ) -> Iterator[Slot]:
        """Count a call until the end of this context, or until its slot is freed.

        :param concurrency: calls of that procedure that may run; None: no own limit
        :param most: calls that may run in all
        :param deadline: on the monotonic clock, for calls to be over that are ending
        :raises Refusal: if there are so many already
        """
        with self._changed:
            self._take(self._all, most, deadline, f"{most} calls are running already")
            counts = [self._all]
            if concurrency is not None:
                own = self._by_procedure.setdefault(procedure, _Count())
                text = (
                    f"{concurrency} calls of {procedure!r} are running already, as "
                    "many as may"
                )
                try:
                    self._take(own, concurrency, deadline, text)
                except BaseException:
                    self._all.taken -= 1
                    self._changed.notify_all()
                    raise
                counts.append(own)
        slot = Slot(self, counts)
        try:
            yield slot
        finally:
            slot.free()

    def _take(self, count: _Count, most: int, deadline: float, text: str) -> None:
        while count.taken >= most:
            left = deadline - time.monotonic()
            if count.taken - count.ending >= most or left <= 0:
                raise Refusal(OVERLOADED, text)
            self._changed.wait(left)
        count.taken += 1

    def _note_ending(self, counts: list[_Count]) -> None:
        with self._changed:
            for count in counts:
                count.ending += 1

    def _free(self, counts: list[_Count], was_ending: bool) -> None:
        with self._changed:
            for count in counts:
                count.taken -= 1
                count.ending -= was_ending
            self._changed.notify_all()
