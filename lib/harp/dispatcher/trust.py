"""Whether a host is who it should be (doc/hosts.rst, "Trust"). The first of these that
speaks of a host decides alone: the fingerprint in its registry line; its lines in
``known_certs_file``; ``ca_file`` with the host's name. Where none does, the host is not
spoken to, unless the configuration says ``verify = "none"`` in so many words."""

from __future__ import annotations

import contextlib
import errno
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping

from .. import certificate, wire
from ..config import ConfigError, DispatcherConfig
from ..log import fields
from ..watched import WatchedFile
from . import knowncerts
from .hostlines import Host

logger = logging.getLogger(__name__)

_DAY = 86400.0
_SECOND_LOOK_SECONDS = 5.0
_VERIFY_CODES = {  # of OpenSSL, x509_vfy.h
    9: "it is not valid yet",
    10: "it, or its authority's, has expired",
    18: "it is signed by itself, and not in that file",
    19: "the authority that signed it is not in that file",
    20: "the authority that signed it is not in that file",
    21: "the authority that signed it is not in that file",
    62: "it is for another name",
    64: "it is for another address",
}
_NO_TLS = "doesn't speak TLS"
_HANDSHAKE_FAULTS = {  # OpenSSL's reasons, as people say it
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "UNSUPPORTED_PROTOCOL": "speaks no TLS from version 1.2 on",
    "TLSV1_ALERT_PROTOCOL_VERSION": "speaks no TLS from version 1.2 on",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "refuses the TLS handshake",
}


class NotTrusted(Exception):
    """Raised when a host can't be shown to be the right one; says what was presented
    and what was expected."""


class Trust:
    """Does the TLS handshake with hosts and verifies them. Called from any thread.

    :param now: tells the time, seconds since the epoch
    :raises ConfigError: if one of the files can't be used
    """

    def __init__(
        self, config: DispatcherConfig, now: Callable[[], float] = time.time
    ) -> None:
        self._files = TrustFiles(config)
        self._unverified = unverified_context()
        self._expiry = _Expiry(now)

    def prepare(self, config: DispatcherConfig) -> TrustFiles:
        """Read the files that another configuration names, and change nothing.

        :raises ConfigError: if one can't be used
        """
        return TrustFiles(config)

    def apply(self, files: TrustFiles) -> None:
        """Go by other files from now on."""
        self._files = files

    def expiring(self) -> dict[str, float]:
        """Return hosts whose certificates are about to expire or have expired, and when
        (seconds since the epoch), as far as they were called lately."""
        return self._expiry.found()

    def start_tls(
        self, connection: wire.Connection, host: Host, deadline: float
    ) -> None:
        """Do the handshake. When this returns, the host is the right one.

        :param deadline: on the monotonic clock
        :raises NotTrusted: if it isn't, or nothing tells
        :raises OSError: if the handshake fails for another reason
        :raises DeadlineExceeded: if it takes too long
        :raises Woken: if one of the connection's wakers was set
        """
        files = self._files
        source, pins = files.pins(host)
        if pins:
            connection.start_tls(self._unverified, None, deadline)
            _check_pin(connection, host, source, pins)
        elif files.config.ca_file is not None:
            self._verify(connection, host, files, deadline)
        elif files.config.verify == "none":
            connection.start_tls(self._unverified, None, deadline)
        else:
            raise NotTrusted(
                f"nothing vouches for host {host.hostname}: no cert_sha256 in the "
                "registry, no line in trust.known_certs_file, no trust.ca_file; "
                f"harpcallerd trust {host.hostname} shows what it presents"
            )
        self._expiry.look(
            host, connection, files.config.expiry_warning, is_pinned=bool(pins)
        )

    def _verify(
        self,
        connection: wire.Connection,
        host: Host,
        files: TrustFiles,
        deadline: float,
    ) -> None:
        peer = connection.sock.family, connection.sock.getpeername()
        try:
            connection.start_tls(files.authorities(), host.tls_name, deadline)
        except ssl.SSLCertVerificationError as error:
            reason = _VERIFY_CODES.get(error.verify_code, error.verify_message)
            path = files.config.ca_file
            shown = self._presented(peer, connection.wakers, deadline)
            raise NotTrusted(
                f"host {host.hostname} presented {shown}; expected was one for "
                f"{host.tls_name} by an authority in {path} (trust.ca_file): {reason}"
            ) from None
        except ssl.SSLError as error:
            if error.errno is None:  # not of the peer: the name can't be asked for
                raise NotTrusted(f"tls_name of host {host.hostname}: {error}") from None
            raise

    def _presented(
        self, peer: tuple, wakers: tuple[wire.Waker, ...], deadline: float
    ) -> str:
        """Say what a host presents. ``ssl`` doesn't tell it of a certificate that it
        has refused, so the host is connected to once more, and sent nothing."""
        deadline = min(deadline, time.monotonic() + _SECOND_LOOK_SECONDS)
        try:
            with contextlib.closing(wire.connect(*peer, 0, deadline, wakers)) as second:
                second.start_tls(self._unverified, None, deadline)
                return certificate.describe(presented_certificate(second))
        except (OSError, wire.DeadlineExceeded):
            return "a certificate that is not trusted"


class TrustFiles:
    """The files that tell whom to trust, as they are now.

    :ivar config: the configuration that names them
    :raises ConfigError: if one can't be used
    """

    def __init__(self, config: DispatcherConfig) -> None:
        self.config = config
        self._known = _watch(config.known_certs_file, _read_known_certs)
        self._authorities = _watch(config.ca_file, _read_authorities)

    def pins(self, host: Host) -> tuple[str, frozenset[str]]:
        """Return the fingerprints of which a host must present one, and where they
        stand; none if it isn't pinned."""
        if host.cert_sha256 is not None:
            return "cert_sha256 in the registry", frozenset((host.cert_sha256,))
        known = {} if self._known is None else self._known.content()
        return "trust.known_certs_file", known.get(host.hostname, frozenset())

    def authorities(self) -> ssl.SSLContext:
        """Return a context that verifies hosts by ``ca_file``, which is configured."""
        return self._authorities.content()


def _watch(path: str | None, read: Callable) -> WatchedFile | None:
    if path is None:
        return None
    try:
        return WatchedFile(path, read)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from None


class _Expiry:
    """Looks when certificates end, and warns once a day for each host."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Guards the rest.
        self._lock = threading.Lock()
        self._fine: dict[str, float] = {}  # host to when to look again
        self._ends: dict[str, float] = {}  # host to its certificate's end that nears
        self._told: dict[str, float] = {}  # host to when its end was last logged

    def found(self) -> dict[str, float]:
        with self._lock:
            return dict(self._ends)

    def look(
        self, host: Host, connection: wire.Connection, warning: float, is_pinned: bool
    ) -> None:
        """Look at the certificate of a host that is trusted.

        :param warning: seconds before its end from which on to warn
        """
        now = self._now()
        # Fine ones are looked at once a day, because it takes a while; those that end
        # at each call, so that a new one is noticed.
        with self._lock:
            if now < self._fine.get(host.hostname, 0.0) <= now + _DAY:
                return
        try:
            seen = certificate.parse_certificate(presented_certificate(connection))
        except ValueError:
            return  # ssl could read it, and decided
        if self._is_to_be_told(host.hostname, seen.not_after, now, warning):
            logger.warning(
                "%s %s",
                _ending(seen.not_after > now, is_pinned),
                fields(
                    host=host.hostname,
                    ends=certificate.date(seen.not_after),
                    subject=seen.subject,
                    sha256=seen.sha256,
                ),
            )

    def _is_to_be_told(
        self, hostname: str, end: float, now: float, warning: float
    ) -> bool:
        with self._lock:
            if end - now > warning:
                self._fine[hostname] = now + min(_DAY, end - now - warning)
                self._ends.pop(hostname, None)
                self._told.pop(hostname, None)
                return False
            self._fine.pop(hostname, None)
            self._ends[hostname] = end
            if abs(now - self._told.get(hostname, -_DAY)) < _DAY:
                return False
            self._told[hostname] = now
            return True


def _ending(is_valid: bool, is_pinned: bool) -> str:
    if is_valid:
        return "certificate is about to expire"
    if is_pinned:
        return "certificate has expired, and is trusted because it is pinned"
    return "certificate has expired"


def handshake_fault(error: ssl.SSLError) -> str:
    """Say why a handshake failed, as far as it isn't about trust."""
    code = error.reason or ""
    return _HANDSHAKE_FAULTS.get(code) or f"TLS: {code or error}"


def unverified_context() -> ssl.SSLContext:
    """Return a context that verifies nothing: whoever uses it looks at the certificate
    after the handshake, before a byte is sent."""
    context = _context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _read_authorities(path: str) -> ssl.SSLContext:
    context = _context()
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise OSError(errno.EINVAL, "no certificates in it, PEM", path) from None
    return context


def _read_known_certs(path: str) -> Mapping[str, frozenset[str]]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().split("\n")
    known: dict[str, frozenset[str]] = {}
    for number, line in enumerate(lines, 1):
        try:
            found = knowncerts.parse_line(line)
        except ValueError as error:
            logger.warning(
                "line of the known certificates is skipped %s",
                fields(path=path, line=number, reason=str(error)),
            )
            continue
        if found is not None:
            pins = known.get(found.hostname, frozenset())
            known[found.hostname] = pins | {found.sha256}
    return known


def _check_pin(
    connection: wire.Connection, host: Host, source: str, pins: frozenset[str]
) -> None:
    presented = presented_certificate(connection)
    if certificate.fingerprint(presented) not in pins:
        raise NotTrusted(
            f"host {host.hostname} presented {certificate.describe(presented)}; "
            f"expected was {' or '.join(sorted(pins))} ({source})"
        )


def presented_certificate(connection: wire.Connection) -> bytes:
    """Return what the peer presented in the handshake, in DER; nothing: none."""
    return connection.sock.getpeercert(binary_form=True) or b""


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
