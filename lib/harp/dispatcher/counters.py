"""What is counted from the start of the dispatcher on, for metrics."""

from __future__ import annotations

import threading
from collections import Counter
from typing import NamedTuple

from .. import protocol
from ..errors import ERROR_TYPES


class Counts(NamedTuple):
    """The counts at a moment.

    :ivar submitted: jobs
    :ivar ended: jobs by outcome; all outcomes are there
    :ivar errors: jobs that ended with an error, by its type
    :ivar refused: requests by the type of the error
    :ivar packets: of jobs that have ended
    :ivar bytes: of the files of jobs that have ended
    """

    submitted: int
    ended: dict[str, int]
    errors: dict[str, int]
    refused: dict[str, int]
    packets: int
    bytes: int


class Counters:
    """Called from any thread."""

    def __init__(self) -> None:
        # Guards what follows.
        self._lock = threading.Lock()
        self._submitted = 0
        self._ended = Counter(dict.fromkeys(protocol.OUTCOMES, 0))
        self._errors: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._packets = 0
        self._bytes = 0

    def count_submitted(self) -> None:
        with self._lock:
            self._submitted += 1

    def count_ended(self, end: protocol.End, packets: int, size: int) -> None:
        """Count a job that has ended.

        :param size: bytes of its file
        """
        # An error's type may be whatever a daemon has made up, and each would stay.
        type = _known(end.value["type"]) if end.outcome == protocol.ERROR else None
        with self._lock:
            self._ended[end.outcome] += 1
            if type is not None:
                self._errors[type] += 1
            self._packets += packets
            self._bytes += size

    def count_refused(self, type: str) -> None:
        """Count a request that was refused.

        :param type: of the error
        """
        with self._lock:
            self._refused[type] += 1

    def counts(self) -> Counts:
        with self._lock:
            return Counts(
                self._submitted,
                dict(self._ended),
                dict(self._errors),
                dict(self._refused),
                self._packets,
                self._bytes,
            )


def _known(type: str) -> str:
    return type if type in ERROR_TYPES else "other"
