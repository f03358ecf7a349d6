"""Who it is that asks: a signed cookie, and nothing kept in the server, so that any
process may answer. It ends after some hours, and when the user's password is changed or
the user removed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from .users import Users

_NAME = "webpanel"


class Session(NamedTuple):
    """Who asks.

    :ivar user: None: nobody has logged in
    :ivar nonce: of this session; its forms' token is made from it
    """

    user: str | None
    nonce: str


class Sessions:
    """Reads and writes the cookie. Any thread may ask.

    :param secret: signs it
    :param is_secure: True: for HTTPS only; None: if it was asked for so
    :param clock: tells the time, in seconds since the epoch
    """

    def __init__(
        self,
        secret: bytes,
        users: Users,
        hours: float,
        is_secure: bool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secret = secret
        self._users = users
        self._seconds = hours * 3600
        self._is_secure = is_secure
        self._clock = clock

    def read(self, cookie: str | None) -> Session | None:
        """Return the session that a cookie says; None: it is none of ours, or over."""
        payload, _, signature = (cookie or "").partition(".")
        try:
            encoded = base64.urlsafe_b64decode(payload)
            user, nonce, until = json.loads(encoded)
        except (ValueError, binascii.Error, TypeError, RecursionError):
            return None
        if not (isinstance(user, str) and isinstance(nonce, str)):
            return None
        expected = self._sign(b"session", payload, user)
        if expected is None or not hmac.compare_digest(
            expected.encode(), signature.encode("utf-8", "replace")
        ):
            return None
        if not self._clock() < until:
            return None
        return Session(user or None, nonce)

    def write(self, user: str | None) -> tuple[Session, str]:
        """Return a new session, and its cookie's value."""
        nonce = secrets.token_urlsafe(18)
        until = int(self._clock() + self._seconds)
        encoded = json.dumps([user or "", nonce, until]).encode()
        payload = base64.urlsafe_b64encode(encoded).decode()
        signature = self._sign(b"session", payload, user or "")
        return Session(user, nonce), f"{payload}.{signature}"

    def csrf(self, session: Session) -> str:
        """Return the token that all forms of a session hold."""
        return self._digest(b"form", session.nonce.encode("utf-8", "replace"))

    def header(self, value: str, root: str, is_secure: bool) -> tuple[str, str]:
        """Return the header that sets the cookie.

        :param value: empty: remove it
        :param root: path of the application
        :param is_secure: the request came by HTTPS
        """
        parts = [f"{_NAME}={value}", f"Path={root}", "HttpOnly", "SameSite=Lax"]
        if not value:
            parts.append("Max-Age=0")
        if is_secure if self._is_secure is None else self._is_secure:
            parts.append("Secure")
        return "Set-Cookie", "; ".join(parts)

    name = _NAME

    def _sign(self, purpose: bytes, payload: str, user: str) -> str | None:
        """None: there is no such user, now."""
        fingerprint = self._users.fingerprint(user) if user else b""
        if fingerprint is None:
            return None
        return self._digest(purpose, fingerprint + payload.encode("utf-8", "replace"))

    def _digest(self, purpose: bytes, data: bytes) -> str:
        keyed = hmac.new(self._secret, purpose + b"\0" + data, hashlib.sha256)
        return base64.urlsafe_b64encode(keyed.digest()).decode().rstrip("=")
