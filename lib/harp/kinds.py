"""What values in configuration files can be, and what they mean to us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from . import protocol
from .address import Address, parse_address
from .duration import parse_duration
from .protocol.admin import Stop
from .size import parse_size

LEAST_AGE = 86400
"""Seconds for which a job is always kept: so long its call may be submitted again under
the same id."""


class Kind(NamedTuple):
    """What a value can be.

    :ivar text: what the value must be, for people
    :ivar parse: TOML's value to ours; raises ValueError with what is wrong
    """

    text: str
    parse: Callable[[Any], Any]


def _parse_string(value) -> str:
    if not isinstance(value, str):
        raise ValueError
    _refuse_nul(value)
    return value


def _refuse_nul(text: str) -> None:
    # The system takes none in a path or a name.
    if "\0" in text:
        raise ValueError("must not contain a NUL")


def _parse_boolean(value) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _parse_seconds(value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    if not 0 < value <= protocol.MAX_SECONDS:
        raise ValueError(f"out of range (0 to {protocol.MAX_SECONDS}): {value}")
    return value


def _parse_count(value) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    if value < 1:
        raise ValueError(f"must be at least 1, is {value}")
    return value


def _parse_whole_seconds(value) -> int:
    return _parse_count(_parse_seconds(value))


def _parse_size(value) -> int:
    try:
        return parse_size(value)
    except TypeError:
        raise ValueError from None


def _parse_duration(value) -> float:
    try:
        return parse_duration(value)
    except TypeError:
        raise ValueError from None


def _parse_age(value) -> float | None:
    if value == "never":
        return None
    seconds = _parse_duration(value)
    if seconds < LEAST_AGE:
        raise ValueError(f'must be at least "1d", is {value!r}')
    return seconds


def _parse_user(value):
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError
    if isinstance(value, int) and value < 0:
        raise ValueError(f"must not be negative, is {value}")
    return value


def _parse_strings(value) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError
    for item in value:
        _refuse_nul(item)
    return tuple(value)


def _parse_string_table(value) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise ValueError
    for name, item in value.items():
        if not isinstance(item, str):
            raise ValueError(f"{name}: must be a string")
    return dict(value)


def _parse_string_lists(value) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError
    lists = {}
    for name, item in value.items():
        try:
            lists[name] = _parse_strings(item)
        except ValueError:
            raise ValueError(f"{name}: must be an array of strings") from None
    return lists


def _parse_networks(value) -> tuple:
    import ipaddress  # here, because the command line waits for all others

    return tuple(ipaddress.ip_network(text) for text in _parse_strings(value))


def _parse_tcp_addresses(value) -> tuple[Address, ...]:
    addresses = tuple(parse_address(text) for text in _parse_strings(value))
    for address in addresses:
        if address.path is not None:
            raise ValueError(f"must be TCP: {address}")
    if not addresses:
        raise ValueError("must not be empty")
    return addresses


_STOPS = {"stop": Stop(), "drain": Stop(True)}


def _parse_stop(value) -> Stop:
    if not isinstance(value, str):
        raise ValueError
    if value in _STOPS:
        return _STOPS[value]
    word, _, seconds = value.partition(" ")
    if word != "drain" or not (seconds.isascii() and seconds.isdigit()):
        raise ValueError
    return Stop(True, _parse_seconds(int(seconds)))


def choice(*choices: str) -> Kind:
    """Return the kind of a value that is one of some words."""

    def parse(value):
        if value not in choices:
            raise ValueError
        return value

    return Kind("one of " + ", ".join(f'"{choice}"' for choice in choices), parse)


STRING = Kind("a string", _parse_string)
BOOLEAN = Kind("true or false", _parse_boolean)
SECONDS = Kind("a number above 0", _parse_seconds)
WHOLE_SECONDS = Kind("a positive integer", _parse_whole_seconds)
COUNT = Kind("a positive integer", _parse_count)
SIZE = Kind('a positive integer or a string like "16 MiB"', _parse_size)
DURATION = Kind('a number of seconds or a string like "30d" or "12h"', _parse_duration)
AGE = Kind('a string like "30d" or "never"', _parse_age)
USER = Kind("a name or a number", _parse_user)
STOP = Kind('"stop", "drain" or a string like "drain 300"', _parse_stop)
STRINGS = Kind("an array of strings", _parse_strings)
STRING_TABLE = Kind("a table of strings", _parse_string_table)
STRING_LISTS = Kind("a table of arrays of strings", _parse_string_lists)
NETWORKS = Kind('an array of networks like "10.8.0.0/16"', _parse_networks)
TCP_ADDRESSES = Kind('an array of "ADDRESS:PORT"', _parse_tcp_addresses)
