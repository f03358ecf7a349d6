"""Logging in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import page
from .markup import Element, tag
from .users import TooMany
from .web import HttpError, Request, Response, redirect

if TYPE_CHECKING:
    from .app import Panel


def show(panel: Panel, request: Request) -> Response:
    target = request.get("next")
    if request.user is not None:
        return redirect(request.local(target))
    return _form(panel, request, target, 200)


def _form(
    panel: Panel,
    request: Request,
    target: str | None,
    status: int,
    fault: str | None = None,
) -> Response:
    headers = []
    if not request.csrf:
        # A session of nobody, so that this form has a token as all others have.
        session, cookie = panel.sessions.write(None)
        request.csrf = panel.sessions.csrf(session)
        headers = [_cookie(panel, request, cookie)]
    return panel.page(
        request,
        "Log in",
        fault and page.notice(tag.p(fault), kind="fault"),
        page.form(
            request,
            "/login",
            tag.input(type="hidden", name="next", value=target or ""),
            _line("User", "user", autocapitalize="none", spellcheck="false"),
            _line("Password", "password", type="password"),
            tag.p(tag.button("Log in")),
            class_="login",
        ),
        status=status,
        headers=headers,
    )


def _line(label: str, name: str, **attributes: str) -> Element:
    complete = "current-password" if name == "password" else "username"
    attributes |= {"id": name, "name": name, "autocomplete": complete}
    return tag.p(tag.label(label, for_=name), tag.input(required=True, **attributes))


def log_in(panel: Panel, request: Request) -> Response:
    user = request.field("user")
    password = request.form.get("password", [""])[-1]
    target = request.field("next")
    try:
        is_right = panel.users.log_in(user, password, request.address)
    except TooMany:
        text = "Too many are logging in: try again in a moment."
        raise HttpError(429, text, headers=[("Retry-After", "2")]) from None
    if not is_right:
        return _form(panel, request, target, 403, "User or password is wrong.")
    # A new session: a cookie that somebody has put here before is worth nothing.
    _, cookie = panel.sessions.write(user)
    return redirect(request.local(target), [_cookie(panel, request, cookie)])


def log_out(panel: Panel, request: Request) -> Response:
    return redirect(request.url("/login"), [_cookie(panel, request, "")])


def _cookie(panel: Panel, request: Request, value: str) -> tuple[str, str]:
    return panel.sessions.header(value, request.root, request.is_secure)
