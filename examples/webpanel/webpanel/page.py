"""What all pages share: their frame, tables, forms, messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .markup import Element, document, tag
from .web import Request, Response, answer

_MENU = (("/jobs", "Jobs"), ("/hosts", "Hosts"), ("/queues", "Queues"))


class Frame(NamedTuple):
    """What stands around each page.

    :ivar site: name of this panel
    """

    site: str

    def page(
        self,
        request: Request,
        title: str,
        *content: object,
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (),
        reload_every: int | None = None,
    ) -> Response:
        """Return a page.

        :param title: its heading, too
        :param reload_every: seconds after which a browser asks again; None: never
        """
        head = tag.head(
            tag.meta(charset="utf-8"),
            tag.meta(name="viewport", content="width=device-width, initial-scale=1"),
            reload_every and tag.meta(http_equiv="refresh", content=str(reload_every)),
            tag.title(f"{title} · {self.site}"),
            tag.link(rel="icon", href=request.url("/static/icon.svg")),
            tag.link(rel="stylesheet", href=request.url("/static/panel.css")),
            tag.script(src=request.url("/static/panel.js"), defer=True),
        )
        main = tag.main(tag.h1(title), *content, id="main", tabindex=-1)
        body = tag.body(
            tag.a("Skip to the content", href="#main", class_="skip"),
            self._header(request),
            main,
        )
        return answer(document(head, body), status=status, headers=headers)

    def _header(self, request: Request) -> Element:
        if request.user is None:
            return tag.header(tag.span(self.site, class_="site"))
        links = [
            tag.a(
                text,
                href=request.url(path),
                aria_current="page" if request.path == path else None,
            )
            for path, text in _MENU
        ]
        return tag.header(
            tag.a(self.site, href=request.url("/"), class_="site"),
            tag.nav(links, aria_label="Main"),
            form(
                request,
                "/logout",
                tag.span(request.user, class_="user"),
                tag.button("Log out", class_="plain"),
                class_="logout",
            ),
        )


def form(
    request: Request, path: str, *content: object, **attributes: object
) -> Element:
    """Return a form that is sent by POST to a path of ours, with the session's token."""
    token = tag.input(type="hidden", name="csrf", value=request.csrf)
    action = request.url(path)
    return tag.form(token, *content, method="post", action=action, **attributes)


def table(
    caption: str,
    titles: Sequence[str],
    rows: Iterable[Sequence[object]],
    empty: str = "There is none.",
    **attributes: object,
) -> Element:
    """Return a table; on a narrow screen each row is a block of its own.

    :param caption: what it is, for those who can't see it
    :param rows: cells each; None is an empty one
    :param empty: said in its place if there is no row
    """
    made = [_row(titles, cells) for cells in rows]
    if not made:
        return tag.p(empty, class_="empty", **attributes)
    # The roles are those that the elements have; a browser forgets them where the
    # style sheet makes blocks of them.
    heads = [tag.th(title, scope="col", role="columnheader") for title in titles]
    return tag.table(
        tag.caption(caption, class_="unseen"),
        tag.thead(tag.tr(heads, role="row"), role="rowgroup"),
        tag.tbody(made, role="rowgroup"),
        role="table",
        **attributes,
    )


def _row(titles: Sequence[str], cells: Sequence[object]) -> Element:
    made = []
    for position, (title, cell) in enumerate(zip(titles, cells, strict=True)):
        if position == 0:
            made.append(tag.th(cell, scope="row", role="rowheader"))
        else:
            hollow = cell is None or cell == ""
            made.append(
                tag.td(
                    cell,
                    role="cell",
                    data_title=title,
                    class_="hollow" if hollow else None,
                )
            )
    return tag.tr(made, role="row")


def facts(pairs: Iterable[tuple[str, object]], **attributes: object) -> Element:
    """Return what is known of one thing; what is None is left out."""
    made = [
        tag.div(tag.dt(name), tag.dd(value))
        for name, value in pairs
        if value is not None
    ]
    return tag.dl(made, class_="facts", **attributes)


def notice(*content: object, kind: str = "note") -> Element:
    """Return what is to be noticed.

    :param kind: ``note``, or ``fault``, which is read out at once
    """
    role = "alert" if kind == "fault" else None
    return tag.div(*content, class_=f"notice {kind}", role=role)


def reload_links(request: Request, seconds: int = 5) -> Element:
    """Return links for those who have no JavaScript, which hides them."""
    every = request.own_url(refresh=str(seconds))
    once = request.own_url(refresh=None)
    return tag.p(
        tag.a("Reload", href=once),
        " · ",
        tag.a(f"reload every {seconds} seconds", href=every),
        class_="scriptless",
    )


def reload_every(request: Request) -> int | None:
    """Return what such a link has asked for."""
    seconds = request.number("refresh")
    return seconds if seconds is not None and 1 <= seconds <= 3600 else None
