"""Passwords as they are stored, and users who have them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

_MAX_SCRYPT_MEMORY = 256 * 1024 * 1024
_SHA256_BYTES = 32
_SCRYPT = (1 << 14, 8, 1)  # N, r, p: 16 MiB and some 50 ms


class Secret(NamedTuple):
    """A stored password.

    :ivar digest: what is compared
    :ivar make_digest: the same of a password that is offered
    """

    digest: bytes
    make_digest: Callable[[bytes], bytes]

    def matches(self, password: str) -> bool:
        """Tell whether this is it, in a time that doesn't depend on how much of it
        is right."""
        offered = self.make_digest(_encode(password))
        return hmac.compare_digest(self.digest, offered)


def _encode(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


def _sha256(password: bytes) -> bytes:
    return hashlib.sha256(password).digest()


def parse(text: str, allow_plain: bool) -> Secret:
    """Return the secret that is written as ``plain:PASSWORD``, ``sha256:HEX`` or
    ``scrypt:N:r:p:SALT:HASH``, the last two in Base64.

    :param allow_plain: False: plain ones are refused
    :raises ValueError: if it isn't; the text says why, without the secret
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "plain" and colon and allow_plain:
        # Hashed, so that comparing takes the same time for every length.
        return Secret(_sha256(_encode(rest)), _sha256)
    if scheme == "sha256":
        return _parse_sha256(rest)
    if scheme == "scrypt":
        return _parse_scrypt(rest)
    known = '"plain:…", "sha256:…"' if allow_plain else '"sha256:…"'
    raise ValueError(f'password must be written as {known} or "scrypt:…"')


def _parse_sha256(text: str) -> Secret:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != _SHA256_BYTES:
        raise ValueError("sha256: must be followed by 64 hex digits")
    return Secret(digest, _sha256)


def _parse_scrypt(text: str) -> Secret:
    try:
        numbers = [int(number) for number in text.split(":")[:3]]
        n, r, p = numbers
        salt, digest = (
            base64.b64decode(part, validate=True) for part in text.split(":")[3:]
        )
    except (ValueError, binascii.Error):
        raise ValueError("scrypt: must be followed by N:r:p:SALT:HASH") from None
    if not digest or n < 2 or n & (n - 1) or r < 1 or p < 1:
        raise ValueError("scrypt: N must be a power of 2, r and p positive")
    if 128 * r * (n + p) > _MAX_SCRYPT_MEMORY:
        raise ValueError("scrypt: N, r and p need more than 256 MiB")
    if r == 1 and n >= 1 << 16:  # RFC 7914, 2; of larger r it would take more memory
        raise ValueError("scrypt: N must be below 65536 if r is 1")

    def make_digest(password: bytes) -> bytes:
        return hashlib.scrypt(
            password,
            salt=salt,
            n=n,
            r=r,
            p=p,
            maxmem=2 * _MAX_SCRYPT_MEMORY,
            dklen=len(digest),
        )

    return Secret(digest, make_digest)


def write_random(secret: str) -> str:
    """Return what :func:`parse` reads, of a secret that nobody could guess."""
    return f"sha256:{_sha256(_encode(secret)).hex()}"


def write_chosen(password: str) -> str:
    """Return what :func:`parse` reads, of a password that somebody has chosen: made
    so that guessing takes long."""
    salt = os.urandom(16)
    n, r, p = _SCRYPT
    digest = hashlib.scrypt(
        _encode(password), salt=salt, n=n, r=r, p=p, maxmem=_MAX_SCRYPT_MEMORY
    )
    encoded = (base64.b64encode(part).decode() for part in (salt, digest))
    return ":".join(["scrypt", str(n), str(r), str(p), *encoded])


class Users:
    """Users with their passwords, several for one user perhaps.

    :param entries: name and secret of each
    """

    def __init__(self, entries: Iterable[tuple[str, Secret]]) -> None:
        self._secrets: dict[str, list[Secret]] = {}
        for name, secret in entries:
            self._secrets.setdefault(name, []).append(secret)

    def __len__(self) -> int:
        return len(self._secrets)

    def version(self) -> object:
        """These never change."""
        return ""

    def authenticate(self, user: str, password: str) -> bool:
        """Tell whether the password is one of that user's. An unknown user costs what
        the first one costs."""
        secrets = self._secrets.get(user)
        if secrets is None:
            for decoy in next(iter(self._secrets.values()), ()):
                decoy.matches(password)
            return False
        # All of them, so that the time doesn't tell which.
        return any([secret.matches(password) for secret in secrets])
