"""What the admin socket can be asked about the hosts, and what it replies."""

from __future__ import annotations

from collections import namedtuple

from ..errors import INVALID_REQUEST, Refusal
from .asked import without_options
from .parts import field, optional
from .requests import build_request


class RefreshHosts(namedtuple("RefreshHosts", ("force", "dry_run"))):
    """The hosts are to be read again.

    :ivar force: whatever that removes
    :ivar dry_run: only tell what it would do
    """

    __slots__ = ()


GetHost = namedtuple("GetHost", ("hostname",))


class HostAddress(
    namedtuple(
        "HostAddress", ("hostname", "address", "port", "cert_sha256", "tls_name")
    )
):
    """What is known of a host, but for its credentials.

    :ivar cert_sha256: fingerprint that its line of the registry demands, or None
    """

    __slots__ = ()


class Refreshed(
    namedtuple(
        "Refreshed",
        (
            "source",
            "before",
            "found",
            "came",
            "went",
            "changed",
            "skipped",
            "applied",
            "fault",
        ),
    )
):
    """What a refresh of the hosts found, and did or would do.

    :ivar source: path of the program or file; None: none is configured
    :ivar before: number of hosts that were known
    :ivar found: number of hosts that there are now
    :ivar came: names, sorted, as in ``went`` and ``changed``
    :ivar skipped: number of lines that are no host
    :ivar applied: whether it was done
    :ivar fault: why it isn't done, or wouldn't be unless forced; None: nothing
    """

    __slots__ = ()


def build_refresh_hosts(force: bool = False, dry_run: bool = False) -> dict:
    return build_request(
        "refresh_hosts", True, force=force or None, dry_run=dry_run or None
    )


def build_get_host(hostname: str) -> dict:
    return build_request("get_host", hostname)


def build_refreshed(refreshed: Refreshed) -> dict:
    return refreshed._asdict()


def parse_refreshed(reply: dict) -> Refreshed:
    """Return what :func:`build_refreshed` was given. As all parsers of replies:

    :raises Refusal: if it isn't what such a reply is
    """
    for key in ("came", "went", "changed"):
        field(reply, key, list)
    for key in ("before", "found", "skipped"):
        field(reply, key, int)
    field(reply, "applied", bool)
    return Refreshed._make(map(reply.get, Refreshed._fields))


def build_host(host: HostAddress | None) -> dict:
    """The reply to ``get_host``; None: there is no such host."""
    return {"host": None if host is None else host._asdict()}


def parse_host(reply: dict) -> HostAddress | None:
    """Return what :func:`build_host` was given."""
    if reply.get("host") is None:
        return None
    host = field(reply, "host", dict)
    return HostAddress(
        field(host, "hostname", str),
        field(host, "address", str),
        field(host, "port", int),
        host.get("cert_sha256"),
        field(host, "tls_name", str),
    )


def _parse_refresh_hosts(message: dict) -> RefreshHosts:
    without_options("refresh_hosts", None)(message)
    return RefreshHosts(
        optional(message, "force", bool) or False,
        optional(message, "dry_run", bool) or False,
    )


def _parse_get_host(message: dict) -> GetHost:
    hostname = field(message, "get_host", str)
    if not hostname:
        raise Refusal(INVALID_REQUEST, '"get_host" must not be empty')
    return GetHost(hostname)


HOST_PARSERS = {"refresh_hosts": _parse_refresh_hosts, "get_host": _parse_get_host}
