"""The list of jobs, and one job: what it is at, how it ended, what can be done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import harp
from harp import protocol
from harp.cli import why
from harp.protocol.explain import parse_explanation
from harp.protocol.listed import FullStatus, parse_full_status

from . import hosts, page, show as shown, stream
from .markup import Element, tag
from .web import HttpError, Request, Response, answer, redirect

if TYPE_CHECKING:
    from .app import Panel

_PAGE = 50  # jobs

_STATES = {
    "": "all",
    protocol.QUEUED: "that wait",
    protocol.RUNNING: "that run",
    protocol.DONE: "that have ended",
    protocol.RESULT: "that succeeded",
    protocol.EXCEPTION: "that raised",
    protocol.ERROR: "that failed",
    protocol.CANCELLED: "that were cancelled",
}


# --- many ----------------------------------------------------------------------------


def listed(
    panel: Panel, filters: dict, limit: int, before: str | None = None
) -> tuple[list[FullStatus], str | None]:
    """Return jobs, newest first, and where to go on, None if these were all. They may
    be fewer than asked for, even none, with more to come: the dispatcher looks for a
    second only.

    :param filters: as for :meth:`harp.HarpCaller.jobs`
    """
    request = protocol.build_list_jobs(**filters, limit=limit, before=before)
    reply = panel.rpc.request(request, hosts.REPLY_SECONDS)
    found, following = protocol.parse_job_list(reply)
    return [parse_full_status(status) for status in found], following


def table(
    request: Request,
    statuses: Iterable[FullStatus],
    but: str = "",
    **attributes: object,
) -> Element:
    """Return a table of jobs.

    :param but: title of a column that is left out
    """
    columns = {
        "Procedure": lambda job: shown.job_link(request, job.job_id, job.procedure),
        "Host": lambda job: tag.a(job.host, href=request.url("/host", name=job.host)),
        "State": shown.state,
        "Submitted": lambda job: shown.moment(job.submit),
        "Ran": shown.lasted,
        "For": shown.who,
        "Arguments": lambda job: tag.code(shown.brief(shown.arguments(job))),
    }
    columns.pop(but, None)
    rows = [[cell(status) for cell in columns.values()] for status in statuses]
    return page.table(
        "Jobs", list(columns), rows, "There is no such job.", **attributes
    )


def show_all(panel: Panel, request: Request) -> Response:
    state = request.get("state") or ""
    if state not in _STATES:
        raise HttpError(400, "Wrong address", "There is no such state.")
    filters: dict[str, Any] = {
        name: request.get(name) for name in ("host", "procedure", "group")
    }
    filters["outcome" if state in protocol.OUTCOMES else "state"] = state or None
    before = request.get("before")
    statuses, following = listed(panel, filters, _PAGE, before)
    links = [
        before and tag.a("« newest", href=request.own_url(before=None), rel="first"),
        following
        and tag.a("older »", href=request.own_url(before=following), rel="next"),
    ]
    searching = following and len(statuses) < _PAGE
    return panel.page(
        request,
        "Jobs",
        _filter(request, state),
        table(request, statuses, id="jobs", data_refresh=None if before else "5"),
        searching and tag.p("There may be more: the search has not come to its end."),
        tag.nav([links], class_="pages", aria_label="Pages") if any(links) else None,
        page.reload_links(request),
        reload_every=page.reload_every(request),
    )


def _filter(request: Request, state: str) -> Element:
    options = [
        tag.option(text, value=value, selected=value == state)
        for value, text in _STATES.items()
    ]
    texts = [
        tag.span(
            tag.label(name.capitalize(), for_=name),
            tag.input(id=name, name=name, value=request.get(name), spellcheck="false"),
        )
        for name in ("host", "procedure", "group")
    ]
    return tag.form(
        tag.p(
            tag.span(
                tag.label("Jobs", for_="state"),
                tag.select(options, id="state", name="state"),
            ),
            texts,
            tag.button("Show"),
        ),
        class_="filter",
        role="search",
    )


# --- one -----------------------------------------------------------------------------


def show(panel: Panel, request: Request, job_id: str) -> Response:
    job = panel.rpc.job(job_id)
    status = parse_full_status(job.status())
    has_ended = status.state == protocol.DONE
    reload = not has_ended and page.reload_links(request)
    return panel.page(
        request,
        f"{status.procedure} on {status.host}",
        # What changes by itself: the script puts what it is now in its place.
        tag.section(
            tag.p(shown.state(status), " ", tag.code(job_id), class_="identity"),
            _explanation(request, job),
            _actions(request, status),
            id="now",
            data_ended=has_ended,
        ),
        tag.p(id="said", role="status", class_="unseen"),
        tag.section(_end(request, job) if has_ended else None, id="end"),
        stream.section(panel, request, status),
        tag.section(tag.h2("The call"), _facts(request, status), id="facts"),
        reload,
        reload_every=None if has_ended else page.reload_every(request),
    )


def _explanation(request: Request, job: harp.RemoteCall) -> list:
    try:
        lines = why.sentences(parse_explanation({"explain": job.explain()}))
    except harp.RequestRefused:
        return []  # it is gone meanwhile, or this dispatcher can't
    # Its own id stands above.
    lines = [line.strip().replace(f"Job {job.id()} ", "The job ") for line in lines]
    return [tag.p(shown.with_links(request, line)) for line in lines]


def _facts(request: Request, status: FullStatus) -> Element:
    queue = group = None
    if status.queue is not None:
        queue = [
            shown.queue_link(request, status.queue.name),
            f", {status.queue.concurrency} at a time",
        ]
    if status.group is not None:
        group = tag.a(status.group, href=request.url("/group", id=status.group))
    info = None if status.info is None else tag.code(shown.brief(status.info))
    host = tag.a(status.host, href=request.url("/host", name=status.host))
    return page.facts(
        [
            ("Host", host),
            ("Submitted", shown.moment(status.submit)),
            ("Started", shown.moment(status.start)),
            ("Ended", shown.moment(status.end)),
            ("Ran", shown.lasted(status)),
            ("For", status.on_behalf_of),
            ("By", status.submitted_by),
            ("Group", group),
            ("Queue", queue),
            ("Limits", _limits(status)),
            ("Info", info),
            ("Arguments", _arguments(status)),
        ]
    )


def _limits(status: FullStatus) -> str:
    return (
        f"{shown.span(status.timeout)} between messages, "
        f"{shown.span(status.max_exec_time)} altogether"
    )


def _arguments(status: FullStatus) -> Element | None:
    given = status.arguments
    if not given:
        return tag.span("none")
    pairs = given.items() if isinstance(given, dict) else enumerate(given, 1)
    items = [
        tag.li(tag.span(f"{name}: "), tag.code(shown.brief(value)))
        for name, value in pairs
    ]
    return tag.ul(items, class_="arguments")


def _actions(request: Request, status: FullStatus) -> list:
    path = f"/jobs/{status.job_id}"
    if status.state != protocol.DONE:
        button = tag.button("Cancel", class_="danger")
        return [page.form(request, f"{path}/cancel", button, class_="actions")]
    like = request.url(
        "/call", host=status.host, procedure=status.procedure, like=status.job_id
    )
    again = tag.a("Run again", href=request.url(f"{path}/again"), class_="button")
    return [
        tag.p(
            None if status.secret else again,
            tag.a("Change, and run again", href=like, class_="button"),
            class_="actions",
        )
    ]


def _end(request: Request, job: harp.RemoteCall) -> list:
    end = job.result(wait=False)
    if isinstance(end, harp.RemoteException):
        heading = f"It raised {end.type}"
        content = [shown.full(end.message)]
    elif isinstance(end, harp.RemoteError):
        heading = f"It failed: {end.type}"
        ran = shown.RAN.get(end.ran or "")
        content = [tag.p(end.message), ran and tag.p(tag.strong(ran))]
    elif end is harp.CALL_CANCELLED:
        return [tag.h2("Cancelled")]
    elif end is harp.CALL_NOT_FINISHED:
        return []
    else:
        heading = "Result"
        content = shown.full(end)
    data = getattr(end, "data", None) if isinstance(end, harp.HarpException) else None
    if data is not None:
        content = [content, tag.h3("Details"), shown.full(data)]
    whole = request.url(f"/jobs/{job.id()}/result.json")
    link = tag.p(tag.a("As JSON", href=whole))
    return [tag.h2(heading), content, link]


def download_result(panel: Panel, request: Request, job_id: str) -> Response:
    end = panel.rpc.job(job_id).result(wait=False)
    if end is harp.CALL_NOT_FINISHED:
        raise HttpError(404, "There is no result yet", "The job has not ended.")
    if end is harp.CALL_CANCELLED:
        value: object = {protocol.CANCELLED: True}
    elif isinstance(end, (harp.RemoteException, harp.RemoteError)):
        value = {"type": end.type, "message": end.message, "data": end.data}
    else:
        value = end
    # In one line: others take many times the memory, where there is much.
    body = json.dumps(value).encode()
    return answer(body, "application/json", headers=[_as_file(f"{job_id}.json")])


def _as_file(name: str) -> tuple[str, str]:
    return "Content-Disposition", f'attachment; filename="{name}"'


# --- what can be done ----------------------------------------------------------------


def cancel(panel: Panel, request: Request, job_id: str) -> Response:
    job = panel.rpc.job(job_id)
    job.status()  # an unknown one is told from one that has ended
    job.cancel(on_behalf_of=request.user)
    return redirect(request.url(f"/jobs/{job_id}"))


def confirm_again(panel: Panel, request: Request, job_id: str) -> Response:
    job = panel.rpc.job(job_id)
    status, end = _ended(job)
    ran = shown.ran_of(end)
    back = tag.a("Leave it", href=request.url(f"/jobs/{job_id}"), class_="button")
    text = shown.RAN[ran] if isinstance(end, harp.RemoteError) else None
    if end is harp.CALL_CANCELLED:
        text = "It was cancelled, and may have run until then."
    return panel.page(
        request,
        f"Run {status.procedure} on {status.host} again?",
        page.facts(
            [
                ("It", shown.state(status)),
                ("Ended", shown.moment(status.end)),
                ("Arguments", _arguments(status)),
            ]
        ),
        tag.p(text or "The procedure ran: it can have had an effect."),
        page.form(
            request,
            f"/jobs/{job_id}/again",
            tag.button("Run again", class_="main"),
            back,
            class_="actions",
        ),
    )


def run_again(panel: Panel, request: Request, job_id: str) -> Response:
    status, _ = _ended(panel.rpc.job(job_id))
    queue = status.queue
    server = panel.rpc.host(
        status.host,
        queue=queue and queue.name,
        concurrency=queue and queue.concurrency,
        timeout=status.timeout,
        max_exec_time=status.max_exec_time,
        info=status.info,
        group=status.group,
        on_behalf_of=request.user,
    )
    positional, named = status.arguments, {}
    if isinstance(status.arguments, dict):
        positional, named = [], status.arguments
    again = server[status.procedure](*positional, **named)
    return redirect(request.url(f"/jobs/{again.id()}"))


def _ended(job: harp.RemoteCall) -> tuple[FullStatus, object]:
    """Return the status and the end of a job that can be run again."""
    status = parse_full_status(job.status())
    if status.secret:
        raise HttpError(
            409,
            "It had secret arguments",
            "Nobody is shown those: change it, and give them anew.",
        )
    end = job.result(wait=False)
    if end is harp.CALL_NOT_FINISHED:
        raise HttpError(409, "It has not ended", "Cancel it first.")
    return status, end
