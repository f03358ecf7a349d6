"""What the dispatcher listens on, and who may come in there: an entry of ``listen``."""

from __future__ import annotations

import re
from typing import NamedTuple

from .address import Address, parse_address
from .kinds import BOOLEAN, NETWORKS, USER, Kind

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
        kind, unix = _OPTIONS[name]
        if unix is not None and unix is not listener.is_unix:
            what = "a Unix socket" if unix else "TCP"
            raise ValueError(f"{name} is for {what} only, not for {text!r}")
        try:
            values[name] = kind.parse(value)
        except ValueError:
            raise ValueError(f"{name} must be {kind.text} at {text!r}") from None
    listener = listener._replace(**values)
    if not listener.is_unix and not listener.tls and not listener.anonymous:
        raise ValueError(
            f"{text}: TCP needs TLS, {{address = \"{text}\", tls = true}}, or lets in "
            f"whoever can connect; say so with {{address = \"{text}\", "
            "anonymous = true}, or use unix:PATH"
        )
    return listener


def _parse_mode(value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
        raise ValueError
    return int(value, 8)


_OPTIONS = {
    "tls": (BOOLEAN, None),
    "anonymous": (BOOLEAN, False),
    "allow_from": (NETWORKS, False),
    "mode": (Kind('a string like "0660"', _parse_mode), True),
    "group": (USER, True),
}
"""What each key can be, and whether it is for Unix sockets (True) or TCP only; None:
for both."""


def _parse_listeners(value: object) -> tuple[Listener, ...]:
    if not isinstance(value, list):
        raise ValueError
    if not value:
        raise ValueError("must not be empty")
    return tuple(parse_listener(entry) for entry in value)


def merge(
    there_are: tuple[Listener, ...], wanted: tuple[Listener, ...]
) -> tuple[tuple[Listener, ...], list[Listener]]:
    """Return what listening sockets become if others are wanted, and which of the
    others need new sockets, or go: the address stays, and so do mode and group of a
    Unix socket; who may come in, and how, can change.

    :returns: as many as there are, in that order; those that a start alone applies
    """
    left = list(wanted)
    become, waiting = [], []
    for old in there_are:
        new = next((one for one in left if one.address == old.address), None)
        if new is not None:
            left.remove(new)
        if new == old or new is not None and not old.is_unix:
            become.append(new)
        else:
            become.append(old)
            waiting.append(old)
    return tuple(become), waiting + left


LISTENERS = Kind(
    'an array of "unix:PATH" or {address = "ADDRESS:PORT", tls = true}',
    _parse_listeners,
)
