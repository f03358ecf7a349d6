"""Requests and responses, on top of WSGI."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, NamedTuple

MAX_BODY = 4 * 1024 * 1024  # bytes; arguments may have 1 MiB, and encoding triples some
MAX_FIELDS = 10_000

Fields = dict[str, list[str]]

# Sent with everything. Pages hold no script or style, and load what is ours alone.
_HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
]


class HttpError(Exception):
    """Raised to answer with an error's page.

    :ivar status: HTTP's
    :ivar title: what is wrong
    :ivar text: more about it, or what to do
    :ivar headers: to be sent with it
    """

    def __init__(
        self, status: int, title: str, text: str = "", headers: Iterable = ()
    ) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.text = text
        self.headers = list(headers)


class Response(NamedTuple):
    """What is answered.

    :ivar body: its parts; where it has a ``close``, the server calls that
    """

    status: int
    headers: list[tuple[str, str]]
    body: Iterable[bytes]

    def start(self, start_response: Callable) -> Iterable[bytes]:
        phrase = HTTPStatus(self.status).phrase
        start_response(f"{self.status} {phrase}", _HEADERS + self.headers)
        return self.body


def answer(
    body: bytes | Iterable[bytes],
    content_type: str = "text/html; charset=utf-8",
    status: int = 200,
    headers: Iterable[tuple[str, str]] = (),
) -> Response:
    """Return a response that no cache keeps."""
    if isinstance(body, bytes):
        headers = [*headers, ("Content-Length", str(len(body)))]
        body = [body]
    kept = [("Content-Type", content_type), ("Cache-Control", "no-store")]
    return Response(status, [*kept, *headers], body)


def answer_json(value: object) -> Response:
    body = json.dumps(value).encode()
    return answer(body, "application/json")


def redirect(location: str, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """Return a response that leads on, with GET.

    :param location: a path of this site, from :meth:`Request.url`
    """
    return answer(b"", status=303, headers=[("Location", location), *headers])


class Request:
    """What is asked.

    :ivar method: ``GET``, ``POST``, …
    :ivar path: below the application
    :ivar user: who asks, once that is known; None: nobody who is logged in
    :ivar csrf: token that forms of this session hold
    """

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO", "") or "/"
        self.user: str | None = None
        self.csrf = ""
        self._root = urllib.parse.quote(environ.get("SCRIPT_NAME", "").rstrip("/"))
        self._query: Fields | None = None
        self._form: Fields | None = None

    @property
    def address(self) -> str:
        """Where it comes from; behind a proxy, that."""
        return self._environ.get("REMOTE_ADDR", "") or "unknown"

    @property
    def is_secure(self) -> bool:
        return self._environ.get("wsgi.url_scheme") == "https"

    @property
    def root(self) -> str:
        """Path that cookies are for."""
        return self._root or "/"

    def header(self, name: str) -> str | None:
        return self._environ.get("HTTP_" + name.upper().replace("-", "_"))

    def cookie(self, name: str) -> str | None:
        """Return a cookie's value, whatever other applications have put beside it."""
        found = None
        for part in self._environ.get("HTTP_COOKIE", "").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                found = value.strip('"')
        return found

    # --- addresses ---

    def url(self, path: str, **query: object) -> str:
        """Return the address of a page of ours; what is None is left out."""
        given = {key: value for key, value in query.items() if value is not None}
        text = urllib.parse.urlencode(given, doseq=True, errors="replace")
        return self._root + path + (f"?{text}" if text else "")

    def own_url(self, **changes: object) -> str:
        """Return this page's address with some of its query changed."""
        return self.url(self.path, **({**self.query} | changes))

    def local(self, target: str | None) -> str:
        """Return where a form wants to lead to if it is on this site, else the first
        page's address."""
        if target and target.startswith(self._root + "/"):
            if not target.startswith(("//", "/\\")) and target.isprintable():
                return urllib.parse.quote(
                    target, safe="/?&=%+#:;,.~-_", errors="replace"
                )
        return self.url("/")

    # --- what comes with it ---

    @property
    def query(self) -> Fields:
        if self._query is None:
            text = self._environ.get("QUERY_STRING", "")
            self._query = _parse_fields(text)
        return self._query

    def get(self, name: str) -> str | None:
        """Return a field of the query; None: it isn't there or empty."""
        return self.query.get(name, [""])[-1] or None

    def need(self, name: str) -> str:
        """As :meth:`get`.

        :raises HttpError: if it isn't there
        """
        value = self.get(name)
        if value is None:
            raise HttpError(400, "Incomplete address", f"It names no {name}.")
        return value

    def number(self, name: str) -> int | None:
        """Return a field of the query that is a natural number.

        :raises HttpError: if it is something else
        """
        value = self.get(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit()) or len(value) > 15:
            raise HttpError(400, "Wrong address", f"{name} is no number.")
        return int(value)

    @property
    def form(self) -> Fields:
        """Fields of the form that was sent.

        :raises HttpError: if it is none
        """
        if self._form is None:
            self._form = self._read_form()
        return self._form

    def field(self, name: str) -> str:
        """Return a field of the form, without blanks around it."""
        return self.form.get(name, [""])[-1].strip()

    def _read_form(self) -> Fields:
        kind = self._environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise HttpError(
                415, "Not a form", "What was sent is no form of this panel."
            )
        length = self._environ.get("CONTENT_LENGTH") or ""
        if not (length.isascii() and length.isdigit() and len(length) <= 15):
            raise HttpError(411, "Length unknown", "What was sent has no length.")
        if int(length) > MAX_BODY:
            text = f"A form may have {MAX_BODY // 1024 // 1024} MiB."
            raise HttpError(413, "Too much", text)
        body = self._environ["wsgi.input"].read(int(length))
        if len(body) < int(length):
            raise HttpError(400, "Incomplete", "The form was not sent as a whole.")
        try:
            return _parse_fields(body.decode("ascii"))
        except UnicodeDecodeError:
            raise HttpError(400, "Not a form", "It is not encoded as one.") from None


def _parse_fields(text: str) -> Fields:
    try:
        return urllib.parse.parse_qs(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:  # UnicodeDecodeError is one
        text = "It is no UTF-8, or has too many fields."
        raise HttpError(400, "Can't be read", text) from None
