"""Values that procedures return and yield, as lines: JSON and nothing else, and where
in a value something else is."""

from __future__ import annotations

from collections.abc import Callable

from .. import wire


class InvalidValue(Exception):
    """Raised when a value can't be sent. Its text says why and where."""


def encode(build: Callable[[object], dict], value: object, limit: int) -> bytes:
    """Return a message with a value in it as a line.

    :param build: makes the message
    :param limit: bytes that the value may have
    :raises InvalidValue: if it isn't JSON, or too large
    """
    try:
        line = wire.encode(build(value))
    except (TypeError, ValueError) as error:
        raise InvalidValue(_fault(value) or str(error)) from None
    # The encoder turns other keys into strings. It is no use to look at every value
    # of a long list for that: without a brace in the text there is no key.
    if line.count(b"{") > 1 or line.count(b"[") > wire.MAX_DEPTH:
        if not _is_plain(value):
            raise InvalidValue(_fault(value) or "nested too deep")
    if len(line) > limit:
        size = len(line) - len(wire.encode(build(None))) + len(b"null")
        if size > limit:
            raise InvalidValue(
                f"value is too large: {size} bytes, limit {limit} (limits.value)"
            )
    return line


def _is_plain(value: object) -> bool:
    """Tell whether all keys are strings and the nesting is not too deep."""
    # By identity, so that a level with the same object many times is looked at once.
    level = {id(value): value} if isinstance(value, (dict, list, tuple)) else {}
    for _ in range(wire.MAX_DEPTH):
        inner = {}
        for outer in level.values():
            if isinstance(outer, dict):
                if not all(isinstance(key, str) for key in outer):
                    return False
                outer = outer.values()
            for item in outer:
                if isinstance(item, (dict, list, tuple)):
                    inner[id(item)] = item
        level = inner
        if not level:
            return True
    return False


def _fault(value: object) -> str | None:
    """Say what in a value isn't JSON, and where; None if that isn't found."""
    path: list[str] = []
    what = _find(value, path, wire.MAX_DEPTH)
    return f"${''.join(path)}: {what}" if what else None


def _find(value: object, path: list[str], levels: int) -> str | None:
    """Return what is wrong; ``path`` then leads to it."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return _find_in_scalar(value)
    if levels == 0:
        del path[8:]  # the whole way down helps nobody
        path.append("...")
        return f"nested deeper than {wire.MAX_DEPTH} levels"
    for key, item in items:
        if isinstance(value, dict) and not isinstance(key, str):
            return f"key {key!r:.100} is no string"
        path.append(_step(key))
        what = _find(item, path, levels - 1)
        if what:
            return what
        path.pop()
    return None


def _find_in_scalar(value: object) -> str | None:
    if value is None or isinstance(value, (str, bool)):
        return None
    if isinstance(value, float):
        # Written so that it holds for NaN, too.
        return None if abs(value) < float("inf") else f"{value} is no JSON"
    if isinstance(value, int):
        try:
            int.__repr__(value)
        except ValueError:
            return "integer of more than 4300 digits"
        return None
    return type(value).__qualname__


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if key.isidentifier() else f"[{key[:100]!a}]"
