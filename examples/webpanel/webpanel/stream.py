"""What a job streams: on its page, and as it grows. A browser goes on at the number of
the packet that is next: it polls, which works everywhere, or gets server-sent events,
which hold a thread of the server's each."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import harp
from harp import protocol
from harp.protocol.listed import FullStatus

from . import show
from .markup import Element, tag
from .web import HttpError, Request, Response, answer, answer_json

if TYPE_CHECKING:
    from .app import Panel

_SHOWN = 200  # packets that a page shows, and that one poll gets at most
_LONGEST = 5000  # characters of a packet that a page shows
_READ = 20_000_000  # characters of packets that are read for a page
_BEAT = 10.0  # s between two signs of life, which notice that nobody listens any more
_LONGEST_EVENTS = 300.0  # s; then the browser comes again, and who it is is looked at


# --- on the page ---------------------------------------------------------------------


def section(panel: Panel, request: Request, status: FullStatus) -> Element:
    """Return a job's stream: the last packets, or those from the address's ``since``
    on."""
    count = status.packets or 0
    since = request.number("since")
    grows = since is None and status.state != protocol.DONE
    first = max(0, count - _SHOWN) if since is None else since
    texts, _ = _texts(panel.rpc.job(status.job_id), first)
    items = [_item(number, text) for number, text in enumerate(texts, first)]
    nothing = "Nothing has come so far." if grows else "It has streamed nothing."
    whole = request.url(f"/jobs/{status.job_id}/stream.jsonl")
    following = first + len(items)
    return tag.section(
        tag.h2("Stream"),
        _pages(request, first, following, count) if count else None,
        tag.ol(
            items,
            class_="stream",
            id="stream",
            start=first,
            tabindex=0,
            aria_label="Stream",
            data_next=following,
            **(_growing(panel, request, status) if grows else {}),
        ),
        tag.p(nothing, class_="empty", id="nothing", hidden=bool(items)),
        tag.p(tag.a("All of it, as JSON", href=whole)) if count else None,
        id="output",
        hidden=status.state == protocol.DONE and not count,
    )


def _growing(panel: Panel, request: Request, status: FullStatus) -> dict[str, str]:
    """Where the script asks for what is new."""
    path = f"/jobs/{status.job_id}"
    addresses = {"data_packets": request.url(f"{path}/packets")}
    if panel.turns.most:
        addresses["data_events"] = request.url(f"{path}/events")
    return addresses


def _texts(job: harp.RemoteCall, since: int) -> tuple[list[str], bool]:
    """Return the texts of packets from a number on, and whether these were all, the job
    having ended. They are read one by one: some may be large."""
    texts, length = [], 0
    with job.stream(since) as values:
        for data in values:
            text = show.plain(data)
            texts.append(_cut(text))
            length += len(text)
            if len(texts) == _SHOWN or length >= _READ:
                return texts, False
    return texts, values.result() is not harp.CALL_NOT_FINISHED


def _item(number: int, text: str) -> Element:
    return tag.li(text, value=number, class_="packet")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _pages(request: Request, first: int, following: int, count: int) -> Element | None:
    wanted = {}
    if first > 0:
        wanted["« earlier"] = max(0, first - _SHOWN)
    if following < count:
        wanted["later »"] = following
    if request.get("since"):
        wanted["newest"] = None
    links = [
        tag.a(text, href=request.own_url(since=since, refresh=None))
        for text, since in wanted.items()
    ]
    return tag.nav(links, class_="pages", aria_label="Stream") if links else None


# --- as it grows ---------------------------------------------------------------------


def packets(panel: Panel, request: Request, job_id: str) -> Response:
    """What has come since a number: the texts, the number to go on from, and whether
    the job has ended and these were all."""
    since = request.number("since") or 0
    texts, ended = _texts(panel.rpc.job(job_id), since)
    return answer_json(
        {"packets": texts, "next": since + len(texts), "ended": ended}
    )


class Turns:
    """How many may hold a thread at a time. Any thread may ask.

    :param most: in this process; 0: none
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._free = threading.BoundedSemaphore(most) if most else None

    def take(self) -> bool:
        """Take a turn, if there is one; whoever has it gives it back."""
        return self._free is not None and self._free.acquire(blocking=False)

    def give_back(self) -> None:
        self._free.release()


def events(panel: Panel, request: Request, job_id: str) -> Response:
    """The same as an event for each packet, its number being the event's id, so that a
    browser whose connection breaks goes on behind the last one that it has got."""
    last = request.header("Last-Event-ID") or ""
    since = request.number("since") or 0
    if last.isascii() and last.isdigit() and len(last) <= 15:
        since = int(last) + 1
    job = panel.rpc.job(job_id)
    job.status()  # an unknown one gets a page of its own
    if not panel.turns.take():
        text = "All threads for events are in use, or there are none: poll."
        raise HttpError(503, "No events now", text, [("Retry-After", "10")])
    body = _Events(panel, job, since)
    return answer(body, "text/event-stream", headers=[("X-Accel-Buffering", "no")])


class _Events:
    """The body of such a response. It has a turn until it is closed, which the server
    does also where it was never iterated over."""

    def __init__(self, panel: Panel, job: harp.RemoteCall, since: int) -> None:
        self._turns = panel.turns
        self._parts = _event_parts(job, since)
        self._is_open = True

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        try:
            self._parts.close()
        finally:
            if self._is_open:
                self._is_open = False
                self._turns.give_back()


def _event_parts(job: harp.RemoteCall, since: int) -> Iterator[bytes]:
    deadline = time.monotonic() + _LONGEST_EVENTS
    yield b"retry: 2000\n\n"
    try:
        with job.follow(since=since, numbered=True, timeout=_BEAT) as values:
            while time.monotonic() < deadline:
                try:
                    number, data = next(values)
                except harp.ReplyTimeout:
                    yield b": still there\n\n"
                    continue
                except StopIteration:
                    yield b"event: end\ndata: {}\n\n"
                    return
                # JSON, because a line break would end the event.
                text = json.dumps(_cut(show.plain(data)))
                yield f"id: {number}\ndata: {text}\n\n".encode()
    except harp.HarpException:
        return  # the browser comes again, and is told then


def download(panel: Panel, request: Request, job_id: str) -> Response:
    """All that has come until now, a line of JSON for each packet."""
    job = panel.rpc.job(job_id)
    job.status()  # an unknown one gets a page of its own
    values = job.stream(numbered=True)
    name = f'attachment; filename="{job_id}.jsonl"'
    headers = [("Content-Disposition", name)]
    return answer(_Lines(values), "application/jsonl", headers=headers)


class _Lines:
    """The body of a download."""

    def __init__(self, values: harp.StreamIterator) -> None:
        self._values = values

    def __iter__(self) -> Iterator[bytes]:
        try:
            for number, data in self._values:
                line = {"packet": number, "time": self._values.time, "data": data}
                yield json.dumps(line).encode() + b"\n"
        except harp.HarpException as error:
            # What has been sent can't be taken back, and must not look whole.
            yield json.dumps({"error": str(error)}).encode() + b"\n"

    def close(self) -> None:
        with contextlib.suppress(harp.HarpException):
            self._values.close()
