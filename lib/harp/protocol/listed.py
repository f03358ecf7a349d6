"""Entries of listings, taken apart for whoever shows them. What an entry leaves out is
None."""

from __future__ import annotations

from collections import namedtuple

from .parts import field
from .requests import Queue


class FullStatus(
    namedtuple(
        "FullStatus",
        (
            "job_id",
            "host",
            "procedure",
            "arguments",
            "secret",
            "submit",
            "start",
            "end",
            "state",
            "outcome",
            "packets",
            "queue",
            "timeout",
            "max_exec_time",
            "info",
            "group",
            "submitted_by",
            "on_behalf_of",
        ),
    )
):
    """A job's status.

    :ivar secret: names or positions of the arguments that are masked
    :ivar submit: seconds since the epoch, as all times
    :ivar queue: :class:`Queue` or None
    """

    __slots__ = ()


class QueueEntry(
    namedtuple("QueueEntry", ("name", "concurrency", "running", "waiting", "oldest"))
):
    """A queue.

    :ivar oldest: id of the job that is next, None if none waits
    """

    __slots__ = ()


def parse_full_status(message: dict) -> FullStatus:
    """Raises Refusal if ``message`` isn't a status."""
    call = field(message, "call", dict)
    time = field(message, "time", dict)
    queue = message.get("queue")
    rest = FullStatus._fields[8:]
    found = FullStatus(
        field(message, "job_id", str),
        field(call, "host", str, "call."),
        field(call, "procedure", str, "call."),
        field(call, "arguments", (list, dict), "call."),
        call.get("secret", []),
        field(time, "submit", int, "time."),
        time.get("start"),
        time.get("end"),
        *(message.get(name) for name in rest),
    )
    if queue is None:
        return found
    name = field(queue, "name", dict, "queue.")
    return found._replace(queue=Queue(name, queue.get("concurrency")))


def parse_queue_entry(message: dict) -> QueueEntry:
    """Raises Refusal if ``message`` isn't a queue of the list of them."""
    field(message, "name", dict)
    return QueueEntry._make(message.get(name) for name in QueueEntry._fields)
