"""Where a server listens: a host and port, or the path of a Unix socket."""

from __future__ import annotations

import re
from collections import namedtuple

_FORM = (
    r"(?:\[(?P<v6>[0-9A-Za-z:.%]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?"
)


class Address(namedtuple("Address", ("host", "port", "path"), defaults=(None,))):
    """Where a server listens.

    :ivar host: address or name; ``*``: all, IPv4 and IPv6; None for a Unix socket
    :ivar path: of a Unix socket, else None
    """

    __slots__ = ()

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str, default_port: int | None = None) -> Address:
    """Parse ``ADDRESS:PORT``, ``[IPV6]:PORT``, ``*:PORT`` or ``unix:PATH``.

    :param default_port: used if there is none; None: there must be one
    :raises ValueError: if it is none of them
    """
    if "\0" in text:  # the system would take what is before it, or nothing
        raise ValueError(f"is no address: {text!r}")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"path of a Unix socket must be absolute: {text!r}")
        return Address(None, 0, path)
    match = re.fullmatch(_FORM, text)
    if match is None or (match["port"] is None and default_port is None):
        raise ValueError(f"is no address: {text!r}")
    port = default_port if match["port"] is None else int(match["port"])
    if port > 65535:
        raise ValueError(f"port is beyond 65535: {text!r}")
    return Address(match["v6"] or match["host"], port)
