"""Values and messages as lines of JSON: strict, whatever comes from elsewhere. Rules of
the format: doc/protocol.rst, "Lines"."""

from __future__ import annotations

import json

from .errors import INVALID_REQUEST, PARSE_ERROR, Refusal

MAX_DEPTH = 128
"""Levels of nesting that a value of the user may have."""

WRAPPING_DEPTH = 8
WRAPPING_BYTES = 64 * 1024
"""What a line may have in levels and bytes beyond the user's values in it: room for
what is wrapped around them."""


def encode(message: object) -> bytes:
    """Return ``message`` as one line, with its newline.

    :raises ValueError: for NaN, infinities, integers of more than 4300 digits, nesting
        beyond what the interpreter can follow, circular values
    :raises TypeError: for what is not JSON at all
    """
    try:
        text = _encoder.encode(message)
    except RecursionError:
        raise ValueError("value is nested too deep") from None
    # Only lone surrogates can't be encoded, and they can stand in strings only, where
    # this error handler writes exactly their JSON escape.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def decode(line: bytes) -> dict:
    """Return the object that a line holds.

    :raises Refusal: ``parse_error`` if it isn't JSON in UTF-8, ``invalid_request`` if
        it is no object, nested too deep, or holds a duplicate key or a number that is
        too large
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(
            PARSE_ERROR, f"not UTF-8 at byte {error.start}", closes=True
        ) from None
    try:
        message = _parse(text)
        # Whoever has no more brackets than levels can't be too deep.
        if line.count(b"[") + line.count(b"{") > MAX_DEPTH + WRAPPING_DEPTH:
            check_depth(message, MAX_DEPTH + WRAPPING_DEPTH)
    except json.JSONDecodeError as error:
        raise Refusal(
            PARSE_ERROR, f"not JSON: {error.msg} at character {error.pos}"
        ) from None
    except RecursionError:
        raise Refusal(INVALID_REQUEST, _TOO_DEEP) from None
    except ValueError:
        # Python's own limit on digits (sys.set_int_max_str_digits).
        raise Refusal(INVALID_REQUEST, "integer of more than 4300 digits") from None
    if not isinstance(message, dict):
        raise Refusal(INVALID_REQUEST, "message is not a JSON object")
    return message


def _parse(text: str):
    # What the decoder does, without its search for blanks around the object, which
    # takes as long as a small object itself; with blanks, or a fault, it does all.
    if text.startswith("{"):
        try:
            message, end = _decoder.scan_once(text, 0)
        except StopIteration:
            end = -1
        if end == len(text):
            return message
    return _decoder.decode(text)


def check_depth(value: object, limit: int) -> None:
    """Check that ``value`` has at most ``limit`` levels of arrays and objects.

    :raises Refusal: ``invalid_request`` if it has more
    """
    level = [value] if isinstance(value, (dict, list)) else []
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            raise Refusal(INVALID_REQUEST, _TOO_DEEP)
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]


_TOO_DEEP = "nested too deep"
_INFINITY = float("inf")


def _object(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise Refusal(INVALID_REQUEST, f"duplicate key {key[:100]!a}")
            seen.add(key)
    return result


def _float(text: str) -> float:
    number = float(text)
    if -_INFINITY < number < _INFINITY:
        return number
    raise Refusal(INVALID_REQUEST, "number is too large")


def _constant(name: str):
    raise Refusal(PARSE_ERROR, f"not JSON: {name}")


_encoder = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
)
_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_constant=_constant
)
