"""The hosts, and what may be called on each."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, NamedTuple

import harp
from harp import protocol
from harp.errors import INVALID_REQUEST, UNKNOWN_HOST
from harp.protocol.listed import ListedProcedure, parse_procedure

from . import jobs, page
from .markup import tag
from .web import HttpError, Request, Response

if TYPE_CHECKING:
    from .app import Panel

REPLY_SECONDS = 60.0
_RECENT = 10  # jobs of a host that its page shows


class Host(NamedTuple):
    """A host that the dispatcher knows."""

    name: str
    address: str


def known_hosts(panel: Panel) -> list[Host]:
    """Return the hosts that the dispatcher knows, by name."""
    reply = panel.rpc.request(protocol.build_list_hosts(), REPLY_SECONDS)
    return sorted(
        Host(protocol.host_name(entry), f"{entry.get('address')}:{entry.get('port')}")
        for entry in protocol.parse_host_list(reply)
    )


def procedures_of(panel: Panel, host: str) -> list[ListedProcedure]:
    """Return what may be called on a host, asking that.

    :raises HttpError: if there is no such host, or it doesn't answer
    """
    try:
        found = panel.rpc.procedures(host)
    except (harp.AccessDenied, harp.Unavailable):
        raise
    except harp.RemoteError as error:
        if error.type == UNKNOWN_HOST:
            raise HttpError(404, f"There is no host {host}", error.message) from None
        if error.type == INVALID_REQUEST:
            raise
        raise HttpError(502, f"{host} can't be asked", str(error)) from None
    return sorted(map(parse_procedure, found))


def show_all(panel: Panel, request: Request) -> Response:
    pattern = request.get("match")
    hosts = known_hosts(panel)
    shown = [host for host in hosts if matches(host.name, pattern or "*")]
    rows = [
        (
            tag.a(host.name, href=request.url("/host", name=host.name)),
            tag.code(host.address),
            tag.a("jobs", href=request.url("/jobs", host=host.name)),
        )
        for host in shown
    ]
    label = tag.label("Name", for_="match")
    field = tag.input(
        id="match", name="match", type="search", value=pattern, placeholder="web*"
    )
    return panel.page(
        request,
        "Hosts",
        tag.form(
            tag.p(label, field, tag.button("Show")), class_="filter", role="search"
        ),
        page.table(
            "Hosts",
            ("Name", "Address", "Jobs"),
            rows,
            "There is no such host." if hosts else "The dispatcher knows no host.",
        ),
        tag.p(f"{len(shown)} of {len(hosts)} hosts", class_="count"),
    )


def matches(name: str, patterns: str) -> bool:
    """Tell whether a name is one of those that patterns, with ``*`` and ``?``, and with
    blanks or commas between them, stand for."""
    return any(
        fnmatch.fnmatchcase(name, pattern)
        for pattern in patterns.replace(",", " ").split()
    )


def show(panel: Panel, request: Request) -> Response:
    host = request.need("name")
    status = 200
    try:
        content = _procedures(request, host, procedures_of(panel, host))
    except HttpError as error:
        if error.status != 502:
            raise
        # What ran there before can be seen all the same.
        status = error.status
        content = page.notice(
            tag.p(f"{error.title}: {error.text}"),
            tag.p(tag.a("Try again", href=request.own_url())),
            kind="fault",
        )
    recent, following = jobs.listed(panel, {"host": host}, _RECENT)
    more = following and tag.p(
        tag.a("All its jobs", href=request.url("/jobs", host=host))
    )
    return panel.page(
        request,
        host,
        tag.h2("Procedures"),
        content,
        tag.h2("What it did lately"),
        jobs.table(request, recent, but="Host"),
        more,
        status=status,
    )


def _procedures(request: Request, host: str, found: list[ListedProcedure]):
    rows = [
        (
            tag.a(
                procedure.name,
                href=request.url("/call", host=host, procedure=procedure.name),
            ),
            (procedure.doc or "").strip().partition("\n\n")[0] or None,
            tag.code(signature(procedure)),
        )
        for procedure in found
    ]
    titles = ("Name", "What it does", "Arguments")
    return page.table("Procedures", titles, rows, "This panel may call nothing there.")


def signature(procedure: ListedProcedure) -> str:
    """Return a procedure's parameters as Python has them."""
    texts = []
    for parameter in procedure.parameters:
        stars = {"var_positional": "*", "var_keyword": "**"}.get(parameter.kind, "")
        text = stars + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None:
            text += (
                f" = {parameter.default}" if ": " in text else f"={parameter.default}"
            )
        texts.append(text)
    return "(" + ", ".join(texts) + ")"
