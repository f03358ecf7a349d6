"""The file of known certificates: lines of ``HOSTNAME FINGERPRINT``, a remark behind
``#`` if wanted, several lines for a host with several certificates."""

from __future__ import annotations

from typing import NamedTuple

from .. import certificate


class KnownCertificate(NamedTuple):
    """A line of the file.

    :ivar sha256: fingerprint in lower-case hex
    :ivar remark: what stands behind ``#``; may be empty
    """

    hostname: str
    sha256: str
    remark: str


def parse_line(line: str) -> KnownCertificate | None:
    """Return what a line says; None if it is empty or a remark.

    :raises ValueError: if it is neither
    """
    text, _, remark = line.partition("#")
    words = text.split()
    if not words:
        return None
    if len(words) != 2:
        raise ValueError("must be HOSTNAME FINGERPRINT")
    hostname, fingerprint = words
    pin = certificate.parse_fingerprint(fingerprint)
    return KnownCertificate(hostname, pin, remark.strip())


def build_line(known: KnownCertificate) -> str:
    """Return the line that says it."""
    remark = " ".join(known.remark.split())
    return f"{known.hostname} {known.sha256}" + (f"  # {remark}" if remark else "")
