"""What the programmer gets for a call's end."""

from __future__ import annotations

from . import protocol
from .errors import RemoteError, RemoteException

# For type checkers only, which know the name: it costs what ``import harp`` must not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Marker:
    """A value that is told apart with ``is``, after copying and pickling too."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def __reduce__(self) -> str:
        return self._name


CALL_NOT_FINISHED = _Marker("CALL_NOT_FINISHED")
"""In place of the result of a call that hasn't ended."""

CALL_CANCELLED = _Marker("CALL_CANCELLED")
"""In place of the result of a call that was cancelled."""


def outcome(end: protocol.End | None) -> Any:
    """What the programmer gets for a call's end; None: it hasn't ended."""
    if end is None:
        return CALL_NOT_FINISHED
    if end.outcome == protocol.RESULT:
        return end.value
    if end.outcome == protocol.CANCELLED:
        return CALL_CANCELLED
    failure = RemoteException if end.outcome == protocol.EXCEPTION else RemoteError
    return failure(**end.value)
