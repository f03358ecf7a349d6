"""Entries of listings, taken apart for whoever shows them. What an entry leaves out is
None."""

from __future__ import annotations

from collections import namedtuple

from .parts import field, numbers, objects, optional
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

    :ivar oldest: id of the job that is next; None: none waits, or it isn't for the
        asker
    """

    __slots__ = ()


def parse_full_status(message: dict) -> FullStatus:
    """Raises Refusal if ``message`` isn't a status."""
    call = field(message, "call", dict)
    time = field(message, "time", dict)
    queue = message.get("queue")
    rest = FullStatus._fields[8:]
    numbers(time, "start", "end")
    numbers(message, "packets", "timeout", "max_exec_time")
    found = FullStatus(
        field(message, "job_id", str),
        field(call, "host", str, "call."),
        field(call, "procedure", str, "call."),
        field(call, "arguments", (list, dict), "call."),
        optional(call, "secret", list, "call.") or [],
        field(time, "submit", int, "time."),
        time.get("start"),
        time.get("end"),
        *(message.get(name) for name in rest),
    )
    if queue is None:
        return found
    queue = field(message, "queue", dict)
    name = field(queue, "name", dict, "queue.")
    return found._replace(queue=Queue(name, queue.get("concurrency")))


def parse_queue_entry(message: dict) -> QueueEntry:
    """Raises Refusal if ``message`` isn't a queue of the list of them."""
    field(message, "name", dict)
    numbers(message, "concurrency", "running", "waiting")
    return QueueEntry._make(message.get(name) for name in QueueEntry._fields)


# What a parameter can be, as ``inspect`` has it.
POSITIONAL_ONLY = "positional_only"
VAR_POSITIONAL = "var_positional"
KEYWORD_ONLY = "keyword_only"
VAR_KEYWORD = "var_keyword"


class ListedProcedure(
    namedtuple(
        "ListedProcedure",
        ("name", "doc", "parameters", "streaming", "timeout", "concurrency"),
    )
):
    """A procedure that may be called on a host.

    :ivar doc: its docstring
    :ivar parameters: list of :class:`Parameter`
    :ivar timeout: seconds that a call may take; None: for ever
    :ivar concurrency: calls of it at a time; None: no limit of its own
    """

    __slots__ = ()


class Parameter(namedtuple("Parameter", ("name", "kind", "default", "annotation"))):
    """A parameter of a procedure.

    :ivar default: source text, as the annotation is; None: there is none
    """

    __slots__ = ()


def parse_procedure(message: dict) -> ListedProcedure:
    """Raises Refusal if ``message`` isn't a procedure of the list of them."""
    field(message, "name", str)
    found = ListedProcedure._make(map(message.get, ListedProcedure._fields))
    numbers(message, "timeout", "concurrency")
    parameters = []
    for entry in objects(message, "parameters"):
        field(entry, "name", str, "parameters.")
        optional(entry, "kind", str, "parameters.")
        parameters.append(Parameter._make(map(entry.get, Parameter._fields)))
    doc = None if found.doc is None else str(found.doc)
    return found._replace(parameters=parameters, doc=doc)
