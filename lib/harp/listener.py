"""What the dispatcher listens on, and who may come in there: an entry of ``listen``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from .address import Address, parse_address

DEFAULT_MODE = 0o660
DEFAULT_GROUP = "harpcaller"


class Listener(NamedTuple):
    """A socket that clients connect to.

    :ivar tls: what is spoken there is encrypted
    :ivar anonymous: TCP only: clients need not say who they are
    :ivar allow_from: TCP only: networks that connections may come from; None: all
    :ivar mode: of a Unix socket
    :ivar group: of a Unix socket, name or number; None: :data:`DEFAULT_GROUP` if there
        is one and we may give the socket to it
    """

    address: Address
    tls: bool = False
    anonymous: bool = False
    allow_from: tuple | None = None
    mode: int = DEFAULT_MODE
    group: str | int | None = None

    def __str__(self) -> str:
        return str(self.address)

    @property
    def is_unix(self) -> bool:
        """Whether clients are known by their system user."""
        return self.address.path is not None

    @property
    def needs_password(self) -> bool:
        return not self.is_unix and not self.anonymous


def parse_listener(entry: object) -> Listener:
    """Parse ``"unix:PATH"``, or a table with ``address`` and the rest.

    :raises ValueError: if it is neither, or lets in everybody without saying so
    """
    if isinstance(entry, str):
        entry = {"address": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("address"), str):
        raise ValueError
    text = entry["address"]
    listener = Listener(parse_address(text))
    values = {}
    for name, value in entry.items():
        if name == "address":
            continue
        if name not in _OPTIONS:
            raise ValueError(f"unknown key {name!r} beside {text!r}")
        parse, unix, what = _OPTIONS[name]
        if unix is not None and unix is not listener.is_unix:
            kind = "a Unix socket" if unix else "TCP"
            raise ValueError(f"{name} is for {kind} only, not for {text!r}")
        try:
            values[name] = parse(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be {what} at {text!r}") from None
    listener = listener._replace(**values)
    if not listener.is_unix and not listener.tls and not listener.anonymous:
        raise ValueError(
            f"{text}: TCP needs TLS, {{address = \"{text}\", tls = true}}, or lets in "
            f"whoever can connect; say so with {{address = \"{text}\", "
            "anonymous = true}, or use unix:PATH"
        )
    return listener


def _parse_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _parse_mode(value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
        raise TypeError
    return int(value, 8)


def _parse_group(value: object) -> str | int:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise TypeError
    if isinstance(value, int) and value < 0:
        raise ValueError
    return value


def _parse_networks(value: object) -> tuple:
    import ipaddress  # here, because the command line waits for all others

    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError
    return tuple(ipaddress.ip_network(item) for item in value)


_OPTIONS: dict[str, tuple[Callable[[Any], Any], bool | None, str]] = {
    "tls": (_parse_boolean, None, "true or false"),
    "anonymous": (_parse_boolean, False, "true or false"),
    "allow_from": (_parse_networks, False, 'an array of networks like "10.8.0.0/16"'),
    "mode": (_parse_mode, True, 'a string like "0660"'),
    "group": (_parse_group, True, "a name or a number"),
}
"""How each key is parsed; whether it is for Unix sockets or TCP only; what it must
be."""
