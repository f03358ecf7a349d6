"""The lines of the hosts' registry: a JSON object for each host. Their format:
doc/protocol.rst, "Hosts registry"."""

from __future__ import annotations

from typing import NamedTuple

from .. import certificate, protocol, wire
from ..errors import INVALID_REQUEST, Refusal
from ..protocol.hostadmin import HostAddress


class Host(NamedTuple):
    """A host of the registry.

    :ivar address: name or number to connect to
    :ivar cert_sha256: its certificate's fingerprint in lower-case hex, or None
    :ivar tls_name: name that its certificate must be for, if it isn't pinned
    """

    hostname: str
    address: str
    port: int
    user: str
    password: str
    cert_sha256: str | None
    tls_name: str

    def public(self) -> HostAddress:
        """Return what may be shown to everybody."""
        return HostAddress(
            self.hostname, self.address, self.port, self.cert_sha256, self.tls_name
        )


class HostLines(NamedTuple):
    """What was read.

    :ivar hosts: by name; of two lines for one host, the later counts
    :ivar faults: number and what is wrong with it, of each line that is no host
    """

    hosts: dict[str, Host]
    faults: list[tuple[int, str]]


def parse_hosts(output: bytes) -> HostLines:
    """Return the hosts that the lines of a registry name. Empty lines and those that
    begin with ``#`` are passed over."""
    hosts: dict[str, Host] = {}
    faults = []
    for number, line in enumerate(output.split(b"\n"), 1):
        if is_remark(line):
            continue
        try:
            host = parse_host(line)
        except Refusal as refusal:
            # Never the line itself: it holds a password.
            faults.append((number, refusal.message))
        else:
            hosts[host.hostname] = host
    return HostLines(hosts, faults)


def is_remark(line: bytes) -> bool:
    """Tell whether a line is there for people only."""
    text = line.strip()
    return not text or text.startswith(b"#")


def parse_host(line: bytes) -> Host:
    """Return the host that a line of the registry describes.

    :raises Refusal: if it describes none
    """
    message = wire.decode(line)
    credentials = protocol.field(message, "credentials", dict)
    hostname = protocol.field(message, "hostname", str)
    address = protocol.field(message, "address", str)
    port = protocol.optional(message, "port", int)
    fingerprint = protocol.optional(message, "cert_sha256", str)
    host = Host(
        hostname,
        address,
        protocol.DAEMON_PORT if port is None else port,
        protocol.field(credentials, "user", str, "credentials."),
        protocol.field(credentials, "password", str, "credentials."),
        None if fingerprint is None else _parse_fingerprint(fingerprint),
        protocol.optional(message, "tls_name", str) or hostname,
    )
    if not hostname or not address:
        raise Refusal(INVALID_REQUEST, '"hostname" and "address" must not be empty')
    if "\0" in address:  # the system would take what is before it for the name
        raise Refusal(INVALID_REQUEST, '"address" must not contain a NUL')
    if not 0 < host.port < 65536:
        raise Refusal(INVALID_REQUEST, '"port" must be from 1 to 65535')
    return host


def _parse_fingerprint(text: str) -> str:
    try:
        return certificate.parse_fingerprint(text)
    except ValueError as error:
        raise Refusal(INVALID_REQUEST, f'"cert_sha256": {error}') from None
