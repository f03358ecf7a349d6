"""What a certificate says: fingerprint, names and dates, read from its DER form
(RFC 5280, 4.1). ``ssl`` shows them of verified certificates only, and it is the others
that people have to be told about. Nothing here is a check of anything."""

from __future__ import annotations

import calendar
import datetime
import hashlib
import re
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

_FINGERPRINT = re.compile("[0-9a-f]{64}")

_SEQUENCE = 0x30
_VERSION = 0xA0
_EXTENSIONS = 0xA3
_DNS_NAME = 0x82
_IP_ADDRESS = 0x87
_ALTERNATIVE_NAMES = b"\x55\x1d\x11"  # 2.5.29.17
_TIMES = {
    0x17: re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z"),  # UTCTime
    0x18: re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z"),  # GeneralizedTime
}
_ENCODINGS = {0x14: "latin-1", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}  # others: UTF-8
_ATTRIBUTES = {
    b"\x55\x04\x03": "CN",
    b"\x55\x04\x06": "C",
    b"\x55\x04\x07": "L",
    b"\x55\x04\x08": "ST",
    b"\x55\x04\x0a": "O",
    b"\x55\x04\x0b": "OU",
}
_MOST_IDENTIFIER = 64  # bytes of an object identifier
_MOST_CHARACTERS = 200  # of what a certificate calls somebody, when people are told


class Certificate(NamedTuple):
    """A certificate's content.

    :ivar sha256: fingerprint in lower-case hex
    :ivar subject: whom it is for, like ``CN=web01, O=Example``; empty: it doesn't say
    :ivar issuer: who made it, in the same form
    :ivar names: host names and addresses that it is for (subjectAltName)
    :ivar not_before: valid from, seconds since the epoch
    :ivar not_after: valid until, seconds since the epoch
    """

    sha256: str
    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: int
    not_after: int


def fingerprint(encoded: bytes) -> str:
    """Return the SHA-256 fingerprint of a certificate in DER form, in lower-case
    hex."""
    return hashlib.sha256(encoded).hexdigest()


def parse_fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint as lower-case hex. Colons between the bytes, as
    ``openssl x509 -fingerprint`` writes them, are taken.

    :raises ValueError: if it is none
    """
    found = text.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(found):
        raise ValueError(f"a SHA-256 fingerprint has 64 hex digits: {text[:80]!a}")
    return found


def parse_certificate(encoded: bytes) -> Certificate:
    """Return what a certificate in DER form says.

    :raises ValueError: if it isn't one
    """
    signed, *_ = _sequence(encoded)
    fields = list(_elements(_of(*signed)))
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    if len(fields) < 6:
        raise ValueError("no certificate: fields are missing")
    _, _, issuer, validity, subject, _, *more = fields
    not_before, not_after = map(_time, _elements(_of(*validity)))
    extensions = [content for tag, content in more if tag == _EXTENSIONS]
    return Certificate(
        fingerprint(encoded),
        _name(_of(*subject)),
        _name(_of(*issuer)),
        tuple(_alternative_names(extensions[0])) if extensions else (),
        not_before,
        not_after,
    )


def describe(encoded: bytes) -> str:
    """Say on a line what a certificate in DER form says, whatever it is."""
    if not encoded:
        return "no certificate"
    try:
        found = parse_certificate(encoded)
    except ValueError:
        return f"one that can't be read, SHA-256 {fingerprint(encoded)}"
    names = _cut(" ".join(found.names)) or "no name"
    return (
        f"one for {names} (subject {_cut(found.subject) or 'empty'}; issuer "
        f"{_cut(found.issuer) or 'empty'}; {date(found.not_before)} to "
        f"{date(found.not_after)}; SHA-256 {found.sha256})"
    )


def date(seconds: float) -> str:
    """Return the day of a time, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "..."


# --- DER ----------------------------------------------------------------------------


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of the elements that follow each other in ``data``."""
    at = 0
    while at < len(data):
        header = data[at : at + 2]
        at += 2
        if len(header) < 2 or header[0] & 0x1F == 0x1F:
            raise ValueError("no certificate: not DER")
        tag, length = header
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4:
                raise ValueError("no certificate: not DER")
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("no certificate: cut off")
        yield tag, data[at : at + length]
        at += length


def _of(tag: int, content: bytes) -> bytes:
    """Return what a sequence holds."""
    if tag != _SEQUENCE:
        raise ValueError("no certificate: not the structure of one")
    return content


def _time(element: tuple[int, bytes]) -> int:
    tag, content = element
    match = _TIMES[tag].fullmatch(content) if tag in _TIMES else None
    if match is None:
        raise ValueError("no certificate: not a time")
    year, *rest = map(int, match.groups())
    if year < 100:  # RFC 5280, 4.1.2.5.1
        year += 2000 if year < 50 else 1900
    return calendar.timegm(datetime.datetime(year, *rest).timetuple())


def _name(content: bytes) -> str:
    """Return a distinguished name as people write it, most specific part last, as it
    stands there."""
    parts = []
    for _, group in _elements(content):
        for tag, attribute in _elements(group):
            pair = list(_elements(_of(tag, attribute)))
            if len(pair) != 2:
                raise ValueError("no certificate: not a name")
            (_, kind), (encoding, value) = pair
            text = value.decode(_ENCODINGS.get(encoding, "utf-8"), "replace")
            parts.append(f"{_ATTRIBUTES.get(kind) or _dotted(kind)}={text}")
    return ", ".join(parts)


def _dotted(identifier: bytes) -> str:
    """Return an object identifier in numbers (X.690, 8.19)."""
    if len(identifier) > _MOST_IDENTIFIER:
        raise ValueError("no certificate: not an object identifier")
    numbers, number = [], 0
    for byte in identifier:
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            numbers.append(number)
            number = 0
    if not numbers:
        raise ValueError("no certificate: not an object identifier")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def _alternative_names(extensions: bytes) -> Iterator[str]:
    for element in _sequence(extensions):
        (_, kind), *_, (_, value) = _elements(_of(*element))
        if kind != _ALTERNATIVE_NAMES:
            continue
        for tag, name in _sequence(value):
            if tag == _DNS_NAME:
                yield name.decode("ascii", "replace")
            elif tag == _IP_ADDRESS and len(name) in (4, 16):
                family = socket.AF_INET if len(name) == 4 else socket.AF_INET6
                yield socket.inet_ntop(family, name)


def _sequence(data: bytes) -> list[tuple[int, bytes]]:
    """Return the elements of the one sequence that ``data`` is."""
    [element] = _elements(data)
    return list(_elements(_of(*element)))
