"""The queues, and who waits there for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import harp
from harp import protocol
from harp.arguments import parse_value
from harp.protocol.explain import Holder, Queued, parse_explanation
from harp.protocol.listed import QueueEntry, parse_queue_entry

from . import jobs, page, show as shown
from .markup import Element, tag
from .web import HttpError, Request, Response

if TYPE_CHECKING:
    from .app import Panel

_EXPLAINED = 50  # queues of which the list shows whom they wait for
_MOST = 500  # waiting jobs that a queue's page shows


def show_all(panel: Panel, request: Request) -> Response:
    found = [parse_queue_entry(entry) for entry in panel.rpc.queues()]
    found.sort(key=lambda queue: (-queue.waiting, protocol.canonical(queue.name)))
    rows = [
        (
            shown.queue_link(request, queue.name),
            f"{queue.running} of {queue.concurrency}",
            queue.waiting,
            queue.oldest and shown.job_link(request, queue.oldest),
            _holders(panel, request, queue) if number < _EXPLAINED else None,
        )
        for number, queue in enumerate(found)
    ]
    titles = ("Queue", "Running", "Waiting", "Next", "Which waits for")
    empty = "There is no queue: one is there as long as a job is in it."
    return panel.page(
        request,
        "Queues",
        page.table("Queues", titles, rows, empty, id="queues", data_refresh="5"),
        page.reload_links(request),
        reload_every=page.reload_every(request),
    )


def _holders(panel: Panel, request: Request, queue: QueueEntry) -> Element | None:
    """Return the jobs that the next of a queue waits for."""
    if queue.oldest is None:
        return None
    try:
        found = parse_explanation({"explain": panel.rpc.job(queue.oldest).explain()})
    except harp.RequestRefused:
        return None  # removed meanwhile
    if not isinstance(found, Queued):
        return None
    items = [tag.li(_holder(request, holder)) for holder in found.running]
    hidden = (found.running_count or 0) - len(items)
    if hidden > 0:
        items.append(tag.li(f"{hidden} more"))
    return tag.ul(items, class_="holders") if items else None


def _holder(request: Request, holder: Holder) -> list:
    text = f"{holder.procedure} on {holder.host}"
    link = shown.job_link(request, holder.job_id, text)
    return [link, ", since ", shown.moment(holder.start)]


def name_of(text: str) -> dict | None:
    """Return a queue's name that is written as a JSON object; None: it is none."""
    try:
        name = parse_value(text)
    except ValueError:
        return None
    return name if isinstance(name, dict) else None


def show(panel: Panel, request: Request) -> Response:
    name = name_of(request.need("name"))
    if name is None:
        raise HttpError(400, "Wrong address", "The queue's name is no JSON object.")
    running, _ = jobs.listed(panel, {"queue": name, "state": protocol.RUNNING}, _MOST)
    waiting, more = jobs.listed(panel, {"queue": name, "state": protocol.QUEUED}, _MOST)
    concurrency = next(
        (job.queue.concurrency for job in running + waiting if job.queue), None
    )
    limit = concurrency and f"At most {concurrency} of these run at a time."
    return panel.page(
        request,
        f"Queue {protocol.canonical(name)}",
        tag.section(
            tag.h2(f"{len(running)} running"),
            limit and tag.p(limit),
            jobs.table(request, running),
            tag.h2(f"{len(waiting)}{' and more' if more else ''} waiting for them"),
            more and tag.p(f"These are the {len(waiting)} that came last."),
            jobs.table(request, reversed(waiting)),
            id="queue",
            data_refresh="5",
        ),
        page.reload_links(request),
        reload_every=page.reload_every(request),
    )
