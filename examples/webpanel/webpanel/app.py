"""The application: finds the view for a request, lets in who may, and makes pages of
what goes wrong."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import harp
from harp.errors import Refusal

from . import groups, hosts, jobs, login, queues, show, stream, submit
from .markup import tag
from .page import Frame
from .sessions import Sessions
from .settings import Settings, SettingsError
from .users import Users
from .web import HttpError, Request, Response, redirect

logger = logging.getLogger(__name__)

_STATIC = Path(__file__).with_name("static")
_STATIC_TYPES = {
    "panel.css": "text/css; charset=utf-8",
    "panel.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

View = Callable[..., Response]

_ID = "{id}"  # in a path: a part that the view is given

ROUTES: dict[str, dict[str, View]] = {
    "/": {"GET": lambda panel, request: redirect(request.url("/jobs"))},
    "/login": {"GET": login.show, "POST": login.log_in},
    "/logout": {"POST": login.log_out},
    "/hosts": {"GET": hosts.show_all},
    "/host": {"GET": hosts.show},
    "/call": {"GET": submit.show, "POST": submit.submit},
    "/jobs": {"GET": jobs.show_all},
    "/jobs/{id}": {"GET": jobs.show},
    "/jobs/{id}/cancel": {"POST": jobs.cancel},
    "/jobs/{id}/again": {"GET": jobs.confirm_again, "POST": jobs.run_again},
    "/jobs/{id}/result.json": {"GET": jobs.download_result},
    "/jobs/{id}/packets": {"GET": stream.packets},
    "/jobs/{id}/events": {"GET": stream.events},
    "/jobs/{id}/stream.jsonl": {"GET": stream.download},
    "/group": {"GET": groups.show},
    "/group/cancel": {"POST": groups.cancel},
    "/group/again": {"POST": groups.run_again},
    "/queues": {"GET": queues.show_all},
    "/queue": {"GET": queues.show},
}
"""From a path and a method to a view: called with the panel, the request and what
stands in the path's place of ``{id}``."""

_OPEN = ("/login",)  # to everybody
_READING = ("GET", "HEAD")


class Panel:
    """The application, to be called by a WSGI server, in any number of threads and
    processes.

    :raises SettingsError: if the settings name something that can't be used
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        try:
            self.users = Users(settings.users_file, settings.login_delay)
        except OSError as error:
            text = f"{error.filename}: {error.strerror}"
            raise SettingsError(f"users_file: {text}") from None
        try:
            self.rpc = harp.HarpCaller(settings.dispatcher)
        except (ValueError, harp.ConfigurationError) as error:
            raise SettingsError(f"dispatcher: {error}") from None
        self.sessions = Sessions(
            settings.secret(),
            self.users,
            settings.session_hours,
            settings.secure_cookies,
        )
        self.frame = Frame(settings.title)
        self.turns = stream.Turns(settings.max_events if settings.events else 0)

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        request = Request(environ)
        try:
            response = self._answer(request)
        except HttpError as error:
            response = self._error(request, error)
        except harp.HarpException as error:
            response = self._error(request, explained(error))
        except Refusal as fault:  # of what takes replies apart
            title = "The dispatcher's reply can't be understood"
            response = self._error(request, HttpError(502, title, fault.message))
        except Exception:
            logger.exception("a page failed: %s %a", request.method, request.path)
            error = HttpError(500, "A fault of this panel", "Its log tells more.")
            response = self._error(request, error)
        body = response.start(start_response)
        if request.method != "HEAD":
            return body
        if hasattr(body, "close"):
            body.close()
        return []

    def page(self, request: Request, title: str, *content, **options) -> Response:
        """Return a page; see :meth:`Frame.page`."""
        return self.frame.page(request, title, *content, **options)

    def _answer(self, request: Request) -> Response:
        folder, _, name = request.path.rpartition("/")
        if folder == "/static" and name in _STATIC_TYPES and request.method in _READING:
            return _static(name)
        session = self.sessions.read(request.cookie(self.sessions.name))
        if session is not None:
            request.user = session.user
            request.csrf = self.sessions.csrf(session)
        views, parts = _find(request.path)
        method = "GET" if request.method in _READING else request.method
        if views is not None and method not in views:
            allowed = ", ".join(views)
            title = f"This can't be done by {request.method}"
            raise HttpError(405, title, headers=[("Allow", allowed)])
        if request.user is None and request.path not in _OPEN:
            if method != "GET":
                raise HttpError(403, "You are not logged in", "Log in, and try again.")
            return redirect(request.url("/login", next=request.own_url()))
        if views is None:
            raise HttpError(404, "There is no such page")
        if method == "POST":
            _check_token(request)
        return views[method](self, request, *parts)

    def _error(self, request: Request, error: HttpError) -> Response:
        links = []
        if request.user is not None:
            links = [tag.p(tag.a("To the jobs", href=request.url("/jobs")))]
        elif error.status == 403:
            links = [tag.p(tag.a("Log in", href=request.url("/login")))]
        return self.page(
            request,
            error.title,
            error.text and tag.p(show.with_links(request, error.text)),
            links,
            status=error.status,
            headers=error.headers,
        )


def _find(path: str) -> tuple[dict[str, View] | None, list[str]]:
    """Return the views of a path, None if there are none, and what they are given."""
    parts = path.split("/")
    if len(parts) > 2 and parts[1] == "jobs":
        pattern = "/".join(["", "jobs", _ID, *parts[3:]])
        return ROUTES.get(pattern), [parts[2]]
    return ROUTES.get(path), []


def _check_token(request: Request) -> None:
    given = request.field("csrf").encode("utf-8", "replace")
    if not request.csrf or not hmac.compare_digest(request.csrf.encode(), given):
        raise HttpError(
            403,
            "This form is not of your session",
            "Nothing was done. You may have logged in anew since it was shown: go "
            "back, load that page again, and send it once more.",
        )


def _static(name: str) -> Response:
    body = (_STATIC / name).read_bytes()
    headers = [
        ("Content-Type", _STATIC_TYPES[name]),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "public, max-age=300"),
    ]
    return Response(200, headers, [body])


def explained(error: harp.HarpException) -> HttpError:
    """Return the page's status and text for what the library raises."""
    text = str(error)
    again = [("Retry-After", "10")]
    if isinstance(error, harp.NoSuchCall):
        known = "It was never there, is too old, or is not for this panel to see."
        return HttpError(404, "There is no such job", known)
    if isinstance(error, harp.AccessDenied):
        return HttpError(403, "The dispatcher doesn't let this panel do that", text)
    if isinstance(error, harp.Unavailable):
        return HttpError(503, "The dispatcher can't do that now", text, again)
    if isinstance(error, harp.RequestRefused):
        return HttpError(400, "The dispatcher refuses that", text)
    if isinstance(error, harp.SubmissionLost):
        title = "Whether the call was accepted is not known"
        return HttpError(504, title, f"{text}. Look for it in the list of jobs.", again)
    if isinstance(error, harp.ReplyTimeout):
        return HttpError(504, "The dispatcher takes too long", text, again)
    if isinstance(error, harp.CommunicationError):
        return HttpError(503, "The dispatcher can't be reached", text, again)
    return HttpError(502, "That failed", text)
