"""How times, values and states look."""

from __future__ import annotations

import json
import re
import time

import harp
from harp import protocol
from harp.protocol.listed import FullStatus

from .markup import Element, tag
from .web import Request

_LONGEST = 100_000  # characters of a value that a page shows
_LONGEST_CELL = 200

_JOB_ID = re.compile(
    "([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})"
)

STATES = {
    protocol.QUEUED: "queued",
    protocol.RUNNING: "running",
    protocol.RESULT: "succeeded",
    protocol.EXCEPTION: "raised",
    protocol.ERROR: "failed",
    protocol.CANCELLED: "cancelled",
}
"""What a job is at, or how it ended, in a word."""


def moment(seconds: float | None) -> Element | None:
    """Return a time in the server's time zone; None: there is none."""
    if seconds is None:
        return None
    try:
        local = time.localtime(seconds)
    except (ValueError, OverflowError, OSError):
        return tag.span(str(seconds))  # beyond what a calendar holds
    is_today = local[:3] == time.localtime()[:3]
    text = time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M", local)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S%z", local)
    title = time.strftime("%Y-%m-%d %H:%M:%S %Z", local)
    return tag.time(text, datetime=whole, title=title)


def span(seconds: float | None) -> str | None:
    """Return a duration in its two largest units: ``2 h 05 min``."""
    if seconds is None:
        return None
    left = max(0, round(seconds))
    for size, unit, smaller_size, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if left >= size:
            return f"{left // size} {unit} {left % size // smaller_size:02} {smaller}"
    return f"{left} s"


def lasted(status: FullStatus) -> str | None:
    """Return how long a job ran, or has run until now."""
    if status.start is None:
        return None
    end = status.end
    if end is None:
        end = time.time() if status.state == protocol.RUNNING else status.start
    return span(end - status.start)


def state(status: FullStatus) -> Element:
    name = status.outcome or status.state
    # Named after what we know, not after what came.
    known = name if name in STATES else "other"
    return tag.span(STATES.get(name, name), class_=f"state {known}")


def plain(value: object) -> str:
    """Return a value as text: strings as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def brief(value: object) -> str:
    """Return a value for a cell of a table."""
    text = plain(value)
    return text if len(text) <= _LONGEST_CELL else text[:_LONGEST_CELL] + "…"


def full(value: object) -> list[Element]:
    """Return a value for a page of its own, cut where it is very long."""
    text = value if isinstance(value, str) else _written(value)
    shown = tag.pre(text[:_LONGEST], class_="value", tabindex=0)
    if len(text) <= _LONGEST:
        return [shown]
    return [shown, tag.p(f"These were the first {_LONGEST:,} characters.")]


def _written(value: object) -> str:
    """Return JSON over several lines, not much longer than is shown."""
    parts, length = [], 0
    for part in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
        parts.append(part)
        length += len(part)
        if length > _LONGEST:
            break
    return "".join(parts)


def arguments(status: FullStatus) -> str:
    """Return a job's arguments in a line, as Python would write the call."""
    given = status.arguments
    if isinstance(given, dict):
        return ", ".join(f"{name}={_one(value)}" for name, value in given.items())
    return ", ".join(map(_one, given))


def _one(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def job_link(request: Request, job_id: str, text: str | None = None) -> Element:
    # The end tells ids of one day apart, the beginning doesn't.
    shown = text or f"…{job_id[-8:]}"
    return tag.a(shown, href=request.url(f"/jobs/{job_id}"), title=job_id)


def with_links(request: Request, line: str) -> list:
    """Return a text with its job ids as links."""
    parts: list = _JOB_ID.split(line)
    parts[1::2] = [job_link(request, job_id) for job_id in parts[1::2]]
    return parts


def queue_link(request: Request, name: dict) -> Element:
    text = protocol.canonical(name)
    return tag.a(tag.code(text), href=request.url("/queue", name=text))


def who(status: FullStatus) -> str | None:
    """Return for whom a job was submitted, as far as known."""
    return status.on_behalf_of or status.submitted_by


RAN = {
    protocol.RAN_NO: "The procedure did not run: it is safe to run it again.",
    protocol.RAN_MAYBE: "Whether the procedure ran is not known.",
    protocol.RAN_YES: "The procedure was running: it can have had an effect.",
}


def ran_of(end: object) -> str | None:
    """Return whether the procedure of a job that ended can have had an effect: one of
    :data:`harp.protocol.RAN_NO` and so on; None: it hasn't ended."""
    if end is harp.CALL_NOT_FINISHED:
        return None
    if isinstance(end, harp.RemoteError):
        return end.ran or protocol.RAN_MAYBE
    if end is harp.CALL_CANCELLED:
        return protocol.RAN_MAYBE
    return protocol.RAN_YES
