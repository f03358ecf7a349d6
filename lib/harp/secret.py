"""Arguments that are nobody else's business."""

from __future__ import annotations


class Secret:
    """Marks an argument of a call: it is sent as its value, and masked wherever the
    dispatcher shows the call: listings, status, audit log. The call's file on the
    dispatcher's disk holds it. Only whole arguments can be marked, not parts of one::

        rpc.web01.set_password("alice", harp.Secret(password))

    :param value: anything JSON
    :ivar value: that
    """

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


def split_arguments(positional: tuple, named: dict) -> tuple[list | dict, tuple]:
    """Return a call's arguments as they are sent, an array or an object, and the
    positions or names of the secret ones.

    :raises TypeError: for both kinds at once
    """
    if positional and named:
        raise TypeError("arguments must be all positional or all named")
    if named:
        secret = tuple(key for key, value in named.items() if _is_secret(value))
        return {key: _plain(value) for key, value in named.items()}, secret
    secret = tuple(n for n, value in enumerate(positional) if _is_secret(value))
    return [_plain(value) for value in positional], secret


def _is_secret(value: object) -> bool:
    return isinstance(value, Secret)


def _plain(value: object) -> object:
    return value.value if isinstance(value, Secret) else value
