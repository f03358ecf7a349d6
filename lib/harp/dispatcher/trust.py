"""Whether a host is who it should be. The first of these that speaks of a host decides
alone: the fingerprint in its registry line; its lines in ``known_certs_file``;
``ca_file`` with the host's name. Where none does, the host is not spoken to, unless
the configuration says ``verify = "none"`` in so many words."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
from collections.abc import Mapping

from ..config import ConfigError, DispatcherConfig
from ..errors import Refusal
from ..log import fields
from ..wire import Connection
from .hosts import Host, parse_fingerprint

logger = logging.getLogger(__name__)


class NotTrusted(Exception):
    """Raised when a host can't be shown to be the right one; says what was presented
    and what was expected."""


class Trust:
    """Does the TLS handshake with hosts and verifies them. Called from any thread.

    :raises ConfigError: if one of the files can't be used
    """

    def __init__(self, config: DispatcherConfig) -> None:
        self._unverified_is_fine = config.verify == "none"
        self._known_certs_file = config.known_certs_file
        # Replaced as a whole when the file has changed, with its stamp.
        self._known_certs: tuple[object, Mapping[str, frozenset[str]]] = (None, {})
        try:
            self._read_known_certs()
        except OSError as error:
            raise ConfigError([f"{error.filename}: {error.strerror}"]) from None
        # The certificate is compared after the handshake, before a byte is sent.
        self._pinning = _context()
        self._pinning.check_hostname = False
        self._pinning.verify_mode = ssl.CERT_NONE
        self._verifying: ssl.SSLContext | None = None
        if config.ca_file is not None:
            self._verifying = _context()
            try:
                self._verifying.load_verify_locations(config.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError([f"{config.ca_file}: {_text(error)}"]) from None

    def start_tls(self, connection: Connection, host: Host, deadline: float) -> None:
        """Do the handshake. When this returns, the host is the right one.

        :param deadline: on the monotonic clock
        :raises NotTrusted: if it isn't, or nothing tells
        :raises OSError: if the handshake fails for another reason
        :raises DeadlineExceeded: if it takes too long
        :raises Woken: if one of the connection's wakers was set
        """
        pins = self._pins(host)
        if pins:
            connection.start_tls(self._pinning, None, deadline)
            _check_pin(connection, host, pins)
        elif self._verifying is not None:
            self._verify(connection, host, deadline)
        elif self._unverified_is_fine:
            connection.start_tls(self._pinning, None, deadline)
        else:
            raise NotTrusted(
                f"nothing vouches for host {host.hostname}: no cert_sha256 in the "
                "registry, no line in trust.known_certs_file, no trust.ca_file"
            )

    def _verify(self, connection: Connection, host: Host, deadline: float) -> None:
        try:
            connection.start_tls(self._verifying, host.tls_name, deadline)
        except ssl.SSLCertVerificationError as error:
            raise NotTrusted(
                f"certificate of host {host.hostname} is not one for {host.tls_name} "
                f"from trust.ca_file: {error.verify_message}"
            ) from None
        except ssl.SSLError as error:
            if error.errno is None:  # not of the peer: the name can't be asked for
                raise NotTrusted(f"tls_name of host {host.hostname}: {error}") from None
            raise

    def _pins(self, host: Host) -> frozenset[str]:
        if host.cert_sha256 is not None:
            return frozenset((host.cert_sha256,))
        try:
            known = self._read_known_certs()
        except OSError as error:
            logger.error(
                "known certificates can't be read, those of before count %s",
                fields(path=error.filename, error=error.strerror),
            )
            _, known = self._known_certs
        return known.get(host.hostname, frozenset())

    def _read_known_certs(self) -> Mapping[str, frozenset[str]]:
        path = self._known_certs_file
        if path is None:
            return {}
        found = os.stat(path)
        stamp = found.st_ino, found.st_size, found.st_mtime_ns
        before, known = self._known_certs
        if stamp != before:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                known = _parse_known_certs(file.read(), path)
            self._known_certs = stamp, known
        return known


def _parse_known_certs(text: str, path: str) -> dict[str, frozenset[str]]:
    known: dict[str, frozenset[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            hostname, fingerprint = words
            pin = parse_fingerprint(fingerprint)
        except (ValueError, Refusal):
            logger.warning(
                "line of the known certificates is skipped %s",
                fields(path=path, line=number, expected="HOSTNAME FINGERPRINT"),
            )
            continue
        known[hostname] = known.get(hostname, frozenset()) | {pin}
    return known


def _check_pin(connection: Connection, host: Host, pins: frozenset[str]) -> None:
    certificate = connection.sock.getpeercert(binary_form=True) or b""
    presented = hashlib.sha256(certificate).hexdigest()
    if presented not in pins:
        raise NotTrusted(
            f"host {host.hostname} presented the certificate {presented}, "
            f"expected was {' or '.join(sorted(pins))}"
        )


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _text(error: OSError) -> str:
    return error.strerror or str(error)
