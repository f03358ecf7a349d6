"""A group: the same procedure on many hosts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import harp
from harp import protocol
from harp.protocol.listed import FullStatus

from . import jobs, page, show as shown
from .markup import Element, tag
from .web import HttpError, Request, Response, redirect

if TYPE_CHECKING:
    from .app import Panel

_MOST = 1000  # jobs that a page shows
_SECONDS = 5.0  # that it looks for them among all others
_SAID = 100  # jobs of which it shows what came last: each is a request of its own


def show(panel: Panel, request: Request) -> Response:
    group_id = request.need("id")
    statuses, is_whole = _members(panel, group_id)
    if not statuses and not is_whole:
        text = f"Its jobs were not found within {_SECONDS:g} seconds among all others."
        raise HttpError(503, "Not found in time", text)
    if not statuses:
        text = "It was never there, is too old, or is not for this panel to see."
        raise HttpError(404, "There is no such group", text)
    ended = sum(status.state == protocol.DONE for status in statuses)
    goes_on = ended < len(statuses)
    procedures = sorted({status.procedure for status in statuses})
    return panel.page(
        request,
        f"{', '.join(procedures)} on {len(statuses)} hosts",
        tag.section(
            tag.p(tag.code(group_id), class_="identity"),
            _progress(statuses, ended),
            _actions(request, group_id, statuses, goes_on),
            _table(panel, request, statuses),
            not is_whole and tag.p("These are its newest jobs; there may be more."),
            id="group",
            data_refresh="2" if goes_on else None,
        ),
        goes_on and page.reload_links(request),
        reload_every=page.reload_every(request) if goes_on else None,
    )


def _members(panel: Panel, group_id: str) -> tuple[list[FullStatus], bool]:
    """Return the jobs of a group, in the order of submission, and whether these are
    all."""
    found: list[FullStatus] = []
    before = None
    deadline = time.monotonic() + _SECONDS
    while len(found) < _MOST and time.monotonic() < deadline:
        some, before = jobs.listed(panel, {"group": group_id}, _MOST, before)
        found += some
        if before is None:
            break
    return found[::-1], before is None


def _progress(statuses: list[FullStatus], ended: int) -> list:
    counts: dict[str, int] = {}
    for status in statuses:
        name = status.outcome or status.state
        counts[name] = counts.get(name, 0) + 1
    words = [
        tag.li(tag.span(f"{counts[name]} {text}", class_=f"state {name}"))
        for name, text in shown.STATES.items()
        if name in counts
    ]
    return [
        tag.p(
            tag.progress(
                f"{ended} of {len(statuses)}",
                value=ended,
                max=len(statuses),
                aria_label="calls that have ended",
            ),
            f" {ended} of {len(statuses)} have ended",
        ),
        tag.ul(words, class_="counts"),
    ]


def _actions(
    request: Request, group_id: str, statuses: list[FullStatus], goes_on: bool
) -> Element | None:
    hidden = tag.input(type="hidden", name="id", value=group_id)
    if goes_on:
        button = tag.button("Cancel all", class_="danger")
        return page.form(request, "/group/cancel", hidden, button, class_="actions")
    failed = sum(status.outcome in protocol.FAILURES for status in statuses)
    cancelled = sum(status.outcome == protocol.CANCELLED for status in statuses)
    if not failed and not cancelled:
        return None
    options = [
        ("no", "that certainly did not run"),
        ("failed", f"that failed, also where the procedure ran ({failed})"),
        ("all", f"that failed or were cancelled ({failed + cancelled})"),
    ]
    choice = tag.select(
        [tag.option(text, value=value) for value, text in options],
        id="which",
        name="which",
    )
    label = tag.label("Run again those", for_="which")
    parts = (hidden, label, choice, tag.button("Run again"))
    return page.form(request, "/group/again", *parts, class_="actions")


def _table(panel: Panel, request: Request, statuses: list[FullStatus]) -> Element:
    speaking = [
        status
        for status in statuses
        if status.packets or status.outcome in protocol.FAILURES
    ]
    said = {status.job_id: _said(panel, status) for status in speaking[:_SAID]}
    rows = [
        (
            shown.job_link(request, status.job_id, status.host),
            shown.state(status),
            shown.lasted(status),
            status.packets or None,
            said.get(status.job_id),
        )
        for status in statuses
    ]
    titles = ("Host", "State", "Ran", "Packets", "What came last")
    return page.table("Calls of this group", titles, rows)


def _said(panel: Panel, status: FullStatus) -> str | None:
    """Return why a job failed, or what it streamed last."""
    job = panel.rpc.job(status.job_id)
    try:
        if status.outcome in protocol.FAILURES:
            return shown.brief(str(job.result(wait=False)))
        packets = job.poll(status.packets - 1, 1).packets
    except harp.RequestRefused:
        return None  # removed meanwhile
    return shown.brief(packets[0]) if packets else None


def cancel(panel: Panel, request: Request) -> Response:
    group_id = request.field("id")
    panel.rpc.group(group_id).cancel(on_behalf_of=request.user)
    return redirect(request.url("/group", id=group_id))


def run_again(panel: Panel, request: Request) -> Response:
    which = request.field("which")
    ran = (protocol.RAN_NO,)
    if which in ("failed", "all"):
        ran = (protocol.RAN_NO, protocol.RAN_MAYBE, protocol.RAN_YES)
    try:
        group = panel.rpc.group(request.field("id")).run_again(
            ran, cancelled=which == "all", on_behalf_of=request.user
        )
    except ValueError as error:
        # There is none, or one has secret arguments.
        raise HttpError(409, "Nothing was run again", str(error)) from None
    return redirect(request.url("/group", id=group.id()))
