"""What messages of both protocols are made of."""

from __future__ import annotations

import json
from collections import namedtuple
from types import NoneType

from ..errors import INVALID_REQUEST, Refusal

CLIENT_PORT = 3502
DAEMON_PORT = 4306
VERSION = 1

MAX_SECONDS = MAX_CONCURRENCY = 1_000_000_000
"""The largest duration and concurrency that a request may ask for."""

# How a job may end: the key of its end message.
RESULT = "result"
EXCEPTION = "exception"
CANCELLED = "cancelled"
ERROR = "error"
OUTCOMES = (RESULT, EXCEPTION, CANCELLED, ERROR)
FAILURES = (EXCEPTION, ERROR)

# Whether the procedure can have had an effect.
RAN = RAN_NO, RAN_MAYBE, RAN_YES = ("no", "maybe", "yes")

STATES = QUEUED, RUNNING, DONE = ("queued", "running", "done")


class End(namedtuple("End", ("outcome", "value"))):
    """How a job ended: one of the outcomes, and what stands beside its key."""

    __slots__ = ()


def canonical(value: object) -> str:
    """Return the canonical text of a JSON value: keys sorted, no blanks. Two values
    are the same to us if their texts are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


_KINDS = {
    str: "a string",
    dict: "an object",
    list: "an array",
    bool: "true or false",
    int: "an integer",
    (list, dict): "an array or an object",
    (int, float): "a number",
}


def error_object(
    type: str, message: str, data: object = None, ran: str | None = None
) -> dict:
    error: dict = {"type": type, "message": message}
    if data is not None:
        error["data"] = data
    if ran is not None:
        error["ran"] = ran
    return error


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_of_version(message: dict, key: str) -> bool:
    """Tell whether the version that stands beside a key is ours."""
    return is_int(message.get(key)) and message[key] == VERSION


def field(message: dict, key: str, kind, prefix: str = ""):
    """Return the value of a key.

    :param kind: type, or tuple of types, that it must have
    :param prefix: what the key stands under, for the error's text
    :raises Refusal: ``invalid_request`` if it is missing or of another type
    """
    if key not in message:
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" is missing')
    value = message[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" must be {_KINDS[kind]}')
    return value


def optional(message: dict, key: str, kind, prefix: str = ""):
    """Return the value of a key as :func:`field` does, None if it is missing."""
    return field(message, key, kind, prefix) if key in message else None


def objects(message: dict, key: str) -> list[dict]:
    """Return the value of a key that must be an array of objects."""
    entries = field(message, key, list)
    if not all(isinstance(entry, dict) for entry in entries):
        raise Refusal(INVALID_REQUEST, f'"{key}" must be an array of objects')
    return entries


_FLOAT_BITS = 1023  # of an integer that surely fits into a float


def numbers(message: dict, *keys: str) -> None:
    """Check that there are numbers, null or nothing beside some keys.

    :raises Refusal: ``invalid_request`` if there is something else
    """
    for key in keys:
        value = message.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float, NoneType)):
            raise Refusal(INVALID_REQUEST, f'"{key}" must be a number or null')
        # Who reckons with it may need a float.
        if isinstance(value, int) and value.bit_length() > _FLOAT_BITS:
            raise Refusal(INVALID_REQUEST, f'"{key}" is too large')


def credentials_object(user: str, password: str) -> dict:
    return {"user": user, "password": password}


def parse_credentials(auth: dict) -> tuple[str, str]:
    """Return what :func:`credentials_object` was given.

    :raises Refusal: ``invalid_request`` if one is missing
    """
    return field(auth, "user", str, "auth."), field(auth, "password", str, "auth.")


def count(message: dict, key: str, most: int | None, prefix: str = "") -> int | None:
    """A positive integer, None if absent."""
    value = optional(message, key, int, prefix)
    if value is not None and value < 1:
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" must be positive')
    if value is not None and most is not None and value > most:
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" must be at most {most}')
    return value


def natural(message: dict, key: str) -> int | None:
    """A non-negative integer, None if absent."""
    value = optional(message, key, int)
    if value is not None and value < 0:
        raise Refusal(INVALID_REQUEST, f'"{key}" must not be negative')
    return value


def parse_error_object(message: dict, key: str, *more: str) -> dict:
    value = field(message, key, dict)
    field(value, "type", str, key + ".")
    field(value, "message", str, key + ".")
    known = ("type", "message", "data", *more)
    return {name: value[name] for name in known if name in value}
