"""The actions of harpcallerd on certificates: show the one that a host presents, and
trust it from now on, or no more. They work with and without a running dispatcher, which
reads the file again by itself."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import harp
from harp import certificate, config, linefile, wire
from harp.dispatcher import knowncerts
from harp.errors import reason
from harp.protocol import hostadmin

from .. import output, table
from .ask import ask
from .say import fail, say


class _Complaint(Exception):
    """Raised when it can't be done; says why."""


class _Seen(NamedTuple):
    """What there is to decide on.

    :ivar presented: the certificate that the host presents
    :ivar known: the host's lines in ``trust.known_certs_file``
    """

    host: hostadmin.HostAddress
    presented: certificate.Certificate
    known: list[knowncerts.KnownCertificate]


def add_actions(add: Callable) -> None:
    """Add the actions of this module.

    :param add: called with name, function and text of an action, returns its parser
    """
    trust = add(
        "trust",
        _trust,
        "show the certificate that a host presents, and the one that was trusted so "
        "far; after confirmation, trust it from now on, and no other of that host",
    )
    trust.add_argument("hostname", metavar="HOST")
    trust.add_argument("--yes", action="store_true", help="don't ask")
    trust.add_argument(
        "--fingerprint",
        metavar="HEX",
        help="SHA-256 that the certificate must have; don't ask, if it has",
    )
    table.add_option(trust)
    untrust = add(
        "untrust", _untrust, "remove a host's certificates from those that are known"
    )
    untrust.add_argument("hostname", metavar="HOST")


def _trust(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    try:
        wanted = None
        if options.fingerprint is not None:
            wanted = certificate.parse_fingerprint(options.fingerprint)
        host = _find(options.hostname, settings)
        known = _known(host.hostname, settings.known_certs_file)
        seen = _Seen(host, _presented(host, settings.connect_timeout), known)
        if table.is_for_people(options.json):
            table.show_fields(_for_people(seen))
        else:
            output.value(_as_json(seen))
        return _decide(seen, wanted, options, settings)
    except (_Complaint, ValueError) as error:
        return fail(str(error))


def _decide(
    seen: _Seen,
    wanted: str | None,
    options: argparse.Namespace,
    settings: config.DispatcherConfig,
) -> int:
    hostname, presented = seen.host.hostname, seen.presented.sha256
    if wanted is not None and wanted != presented:
        raise _Complaint(f"it is not the certificate {wanted}; nothing was changed")
    pin = seen.host.cert_sha256
    if pin is not None:
        text = (
            f"the line of {hostname} in the registry pins "
            f"{'this' if pin == presented else 'another'} certificate (cert_sha256), "
            "and that alone counts; nothing was changed"
        )
        if pin != presented:
            raise _Complaint(f"{text}; to trust this one, change it there")
        say(text)
        return 0
    if [line.sha256 for line in seen.known] == [presented]:
        say("it is trusted already; nothing was changed")
        return 0
    path = settings.known_certs_file
    if path is None:
        raise _Complaint(
            f"there is no file to note it in: set trust.known_certs_file in "
            f"{options.config}, or cert_sha256 in the host's line of the registry"
        )
    if not (options.yes or wanted is not None or _confirmed(hostname, options)):
        raise _Complaint("nothing was changed")
    _write(path, hostname, [_line(seen.presented, hostname)])
    say(f"{hostname}: trusted from now on, with this one alone")
    return 0


def _confirmed(hostname: str, options: argparse.Namespace) -> bool:
    if not (table.is_for_people(options.json) and output.is_terminal(sys.stdin)):
        raise _Complaint(
            "nothing was changed: there is no terminal to ask at, use --fingerprint "
            "HEX or --yes"
        )
    return output.confirms(f"Trust it as {hostname} from now on? [y/N] ")


def _untrust(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    path = settings.known_certs_file
    try:
        if path is None:
            raise _Complaint(f"trust.known_certs_file is not set in {options.config}")
        if not _known(options.hostname, path):
            raise _Complaint(f"{path}: no line for {options.hostname!a}")
        _write(path, options.hostname, [])
    except _Complaint as error:
        return fail(str(error))
    return 0


# --- what there is ------------------------------------------------------------------


def _find(hostname: str, settings: config.DispatcherConfig) -> hostadmin.HostAddress:
    """Look a host up: the dispatcher knows it, and if none runs, the registry's file or
    cache."""
    try:
        found = hostadmin.parse_host(ask(settings, hostadmin.build_get_host(hostname)))
    except harp.CommunicationError as error:
        found = _find_in_file(hostname, settings, error)
    if found is None:
        raise _Complaint(f"no host {hostname!a} in the registry")
    return found


def _find_in_file(
    hostname: str, settings: config.DispatcherConfig, unreachable: Exception
) -> hostadmin.HostAddress | None:
    from harp.dispatcher.hostlines import parse_hosts
    from harp.dispatcher.hostsource import HostsError, read_file

    path = settings.hosts_cache if settings.hosts_script else settings.hosts_file
    if path is None:
        raise _Complaint(f"{unreachable}; and there is no file of hosts to look into")
    try:
        host = parse_hosts(read_file(path)).hosts.get(hostname)
    except HostsError as error:
        raise _Complaint(f"{unreachable}; {error}") from None
    return None if host is None else host.public()


def _known(hostname: str, path: str | None) -> list[knowncerts.KnownCertificate]:
    """Return a host's lines in the file."""
    if path is None:
        return []
    try:
        lines = linefile.read_lines(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _Complaint(reason(error)) from None
    found = map(_parsed, lines)
    return [line for line in found if line is not None and line.hostname == hostname]


def _parsed(line: str) -> knowncerts.KnownCertificate | None:
    try:
        return knowncerts.parse_line(line)
    except ValueError:
        return None  # not ours to judge; the dispatcher logs it


def _presented(host: hostadmin.HostAddress, seconds: float) -> certificate.Certificate:
    """Connect to a host and return the certificate that it presents. Nothing is sent to
    it."""
    # Here, because no other action needs them.
    import ssl

    from harp.dispatcher.resolver import Resolver
    from harp.dispatcher.trust import (
        handshake_fault,
        presented_certificate,
        unverified_context,
    )

    where = f"{host.hostname} ({host.address} port {host.port})"
    deadline = time.monotonic() + seconds
    try:
        with contextlib.closing(wire.Waker()) as waker:
            targets = Resolver().resolve(host.address, host.port, waker, deadline)
            connection, _ = wire.connect_to_any(targets, 0, deadline)
        with contextlib.closing(connection):
            connection.start_tls(unverified_context(), None, deadline)
            encoded = presented_certificate(connection)
    except wire.DeadlineExceeded:
        raise _Complaint(f"{where}: no connection in {seconds} s") from None
    except ssl.SSLEOFError:
        raise _Complaint(f"{where}: closed during the TLS handshake") from None
    except ssl.SSLError as error:
        raise _Complaint(f"{where}: {handshake_fault(error)}") from None
    except OSError as error:
        raise _Complaint(f"{where}: {reason(error)}") from None
    if not encoded:
        raise _Complaint(f"{where}: presents no certificate")
    return certificate.parse_certificate(encoded)


# --- showing and writing ------------------------------------------------------------


def _for_people(seen: _Seen) -> list[tuple[str, object]]:
    presented = seen.presented
    fields: list[tuple[str, object]] = [
        ("host", f"{seen.host.hostname} ({seen.host.address} port {seen.host.port})"),
        ("presents", f"SHA-256 {presented.sha256}"),
        ("  valid", _validity(presented)),
        ("  for", " ".join(presented.names) or "no name"),
        ("  subject", presented.subject or "empty"),
        ("  issuer", presented.issuer or "empty"),
    ]
    if seen.host.cert_sha256 is not None:
        fields.append(("registry", f"SHA-256 {seen.host.cert_sha256}"))
    for line in seen.known:
        fields.append(("trusted", f"SHA-256 {line.sha256}"))
        fields.append(("  noted", line.remark or None))
    if not seen.known and seen.host.cert_sha256 is None:
        fields.append(("trusted", "none so far"))
    return fields


def _validity(seen: certificate.Certificate) -> str:
    now = time.time()
    text = f"{certificate.date(seen.not_before)} to {certificate.date(seen.not_after)}"
    if now > seen.not_after:
        return f"{text}: it has expired"
    return f"{text}: it is not valid yet" if now < seen.not_before else text


def _as_json(seen: _Seen) -> dict:
    return {
        "hostname": seen.host.hostname,
        "address": seen.host.address,
        "port": seen.host.port,
        "presented": seen.presented._asdict(),
        "registry": seen.host.cert_sha256,
        "known": [
            {"sha256": line.sha256, "remark": line.remark} for line in seen.known
        ],
    }


def _line(seen: certificate.Certificate, hostname: str) -> str:
    """Return the line to note; its remark is what will be shown beside the next
    certificate."""
    if not hostname or "#" in hostname or len(hostname.split()) != 1:
        raise _Complaint(f"can't be noted in such a file: {hostname!a}")
    remark = f"{_validity(seen)}, {output.one_line(seen.subject)}"
    return knowncerts.build_line(
        knowncerts.KnownCertificate(hostname, seen.sha256, remark)
    )


def _write(path: str, hostname: str, new: list[str]) -> None:
    """Replace a host's lines: the new ones stand where the first of them was."""

    def change(lines: list[str]) -> list[str]:
        own = [
            number
            for number, line in enumerate(lines)
            if (known := _parsed(line)) is not None and known.hostname == hostname
        ]
        place = own[0] if own else len(lines)
        kept = [line for number, line in enumerate(lines) if number not in own]
        return kept[:place] + new + kept[place:]

    try:
        linefile.change_lines(path, change)
    except OSError as error:
        raise _Complaint(f"{path}: can't be changed: {reason(error)}") from None
