"""What only the admin socket can be asked, and what it replies."""

from __future__ import annotations

from collections import namedtuple

from ..errors import INVALID_REQUEST, Refusal
from .asked import without_options
from .hostadmin import HOST_PARSERS
from .parts import MAX_SECONDS, field, numbers, objects, optional
from .queueadmin import QUEUE_PARSERS
from .requests import build_request

GetDispatcherStatus = namedtuple("GetDispatcherStatus", ())
GetMetrics = namedtuple("GetMetrics", ())
Reload = namedtuple("Reload", ())
ReopenLogs = namedtuple("ReopenLogs", ())


class Stop(namedtuple("Stop", ("drain", "seconds"), defaults=(False, None))):
    """How the dispatcher is to stop.

    :ivar drain: let the jobs that run come to their end
    :ivar seconds: how long they may take; None: as long as they want
    """

    __slots__ = ()


class Degraded(namedtuple("Degraded", ("what", "since", "text"))):
    """Something that doesn't work as it should at the moment.

    :ivar what: name of the kind, for programs
    :ivar since: seconds since the epoch; None: not known
    :ivar text: for people
    """

    __slots__ = ()


class DispatcherStatus(
    namedtuple(
        "DispatcherStatus",
        (
            "version",
            "pid",
            "since",
            "queued",
            "running",
            "queues",
            "connections",
            "hosts",
            "free",
            "reserve",
            "stopping",
            "draining",
            "degraded",
        ),
    )
):
    """How the dispatcher is.

    :ivar since: its start, seconds since the epoch
    :ivar free: bytes free for the job log; None if the system doesn't say
    :ivar reserve: with fewer than that free, new calls are refused
    :ivar draining: jobs come to their end, and none is started
    :ivar degraded: list of :class:`Degraded`
    """

    __slots__ = ()


class Prune(namedtuple("Prune", ("age", "since"))):
    """Jobs that ended long ago are to be removed, some thousand.

    :ivar age: seconds; None: as configured
    :ivar since: where to go on, from the reply before; None: from the oldest
    """

    __slots__ = ()


class Metric(namedtuple("Metric", ("name", "type", "help", "samples"))):
    """A figure of the dispatcher, as Prometheus has it.

    :ivar type: ``gauge`` or ``counter``
    :ivar samples: pairs of labels, a dict, and value
    """

    __slots__ = ()


def build_get_dispatcher_status() -> dict:
    return build_request("status", True)


def build_stop(drain: bool = False, seconds: float | None = None) -> dict:
    request = build_request("stop", True, seconds=seconds)
    if drain:
        request["drain"] = True
    return request


def build_reload() -> dict:
    return build_request("reload", True)


def build_reopen_logs() -> dict:
    return build_request("reopen_logs", True)


def build_dispatcher_status(status: DispatcherStatus) -> dict:
    """The reply to ``status``."""
    degraded = [
        {**entry._asdict(), "since": None if entry.since is None else int(entry.since)}
        for entry in status.degraded
    ]
    return {**status._asdict(), "since": int(status.since), "degraded": degraded}


def parse_dispatcher_status(reply: dict) -> DispatcherStatus:
    """Return what :func:`build_dispatcher_status` was given. As all parsers of replies:

    :raises Refusal: if it isn't what such a reply is
    """
    for key in ("pid", "since", "queued", "running", "queues", "connections", "hosts"):
        field(reply, key, int)
    field(reply, "reserve", int)
    numbers(reply, "free")
    found = DispatcherStatus._make(map(reply.get, DispatcherStatus._fields))
    degraded = objects(reply, "degraded")
    for entry in degraded:
        numbers(entry, "since")
    return found._replace(
        degraded=[
            Degraded._make(map(entry.get, Degraded._fields)) for entry in degraded
        ]
    )


def build_stopping(pid: int) -> dict:
    return {"stopping": True, "pid": pid}


def parse_pid(reply: dict) -> int:
    """Return the process that a reply to ``status`` or ``stop`` is about."""
    return field(reply, "pid", int)


def build_reloaded(faults: list[str], restart: list[str]) -> dict:
    """The reply to ``reload``.

    :param faults: why all stays as it was; empty if it doesn't
    :param restart: keys that have changed and that a start alone applies
    """
    return {"reloaded": not faults, "faults": faults, "restart": restart}


def parse_reloaded(reply: dict) -> tuple[list[str], list[str]]:
    """Return what :func:`build_reloaded` was given."""
    return field(reply, "faults", list), field(reply, "restart", list)


def build_reopened(faults: list[str]) -> dict:
    """The reply to ``reopen_logs``."""
    return {"reopened": not faults, "faults": faults}


def parse_reopened(reply: dict) -> list[str]:
    """Return what :func:`build_reopened` was given."""
    return field(reply, "faults", list)


def build_prune(age: float | None = None, since: str | None = None) -> dict:
    return build_request("prune", True, age=age, since=since)


def build_pruned(jobs: int, size: int, since: str | None) -> dict:
    """The reply to ``prune``.

    :param jobs: how many were removed
    :param size: bytes that they had
    :param since: to be asked next; None: there is no more
    """
    return {"pruned": jobs, "bytes": size, "next": since}


def parse_pruned(reply: dict) -> tuple[int, int, str | None]:
    """Return what :func:`build_pruned` was given."""
    since = reply.get("next")
    if since is not None:
        since = field(reply, "next", str)
    return field(reply, "pruned", int), field(reply, "bytes", int), since


def _parse_prune(message: dict) -> Prune:
    without_options("prune", None)(message)
    age = optional(message, "age", (int, float))
    if age is not None and not 0 < age <= MAX_SECONDS:
        raise Refusal(INVALID_REQUEST, '"age" must be positive')
    return Prune(age, optional(message, "since", str))


def build_get_metrics() -> dict:
    return build_request("metrics", True)


def build_metrics(metrics: list[Metric]) -> dict:
    return {
        "metrics": [
            {
                "name": metric.name,
                "type": metric.type,
                "help": metric.help,
                "samples": [
                    {"labels": labels, "value": value}
                    for labels, value in metric.samples
                ],
            }
            for metric in metrics
        ]
    }


def parse_metrics(reply: dict) -> list[Metric]:
    """Return what :func:`build_metrics` was given."""
    return [
        Metric(
            field(entry, "name", str),
            field(entry, "type", str),
            field(entry, "help", str),
            [
                (field(sample, "labels", dict), field(sample, "value", (int, float)))
                for sample in objects(entry, "samples")
            ],
        )
        for entry in objects(reply, "metrics")
    ]


def _parse_stop(message: dict) -> Stop:
    without_options("stop", None)(message)
    drain = optional(message, "drain", bool) or False
    seconds = optional(message, "seconds", (int, float))
    if seconds is not None and not (drain and 0 < seconds <= MAX_SECONDS):
        raise Refusal(
            INVALID_REQUEST, '"seconds" must be positive, and beside "drain": true'
        )
    return Stop(drain, seconds)


ADMIN_PARSERS = {
    "status": without_options("status", GetDispatcherStatus()),
    "metrics": without_options("metrics", GetMetrics()),
    "prune": _parse_prune,
    "stop": _parse_stop,
    "reload": without_options("reload", Reload()),
    "reopen_logs": without_options("reopen_logs", ReopenLogs()),
    **HOST_PARSERS,
    **QUEUE_PARSERS,
}
"""For :func:`parse_request`: what the admin socket takes beside all else."""
