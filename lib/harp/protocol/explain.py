"""The reply to ``explain``: why a job waits, what it is at, or how it ended."""

from __future__ import annotations

from collections import namedtuple
from types import NoneType

from ..errors import INVALID_REQUEST, Refusal
from .parts import DONE, QUEUED, RUNNING, field, numbers, objects

# Why a queued job has not been started.
QUEUE_IS_FULL = "queue"
DISPATCHER_IS_FULL = "max_running"
DISPATCHER_STOPS = "stopping"
NO_THREAD = "threads"
ABOUT_TO_START = "starting"

# What a job was at when it ended without a result, or what it is at.
STEP_QUEUED = "queued"
STEP_CONNECTING = "connecting"
STEP_CERTIFICATE = "certificate"
STEP_SENDING = "sending"
STEP_ACKNOWLEDGEMENT = "acknowledgement"
STEP_RUNNING = "running"
STEP_STORING = "storing"


class Holder(namedtuple("Holder", ("job_id", "host", "procedure", "start"))):
    """A job that runs and keeps others waiting.

    :ivar start: when it left its queue, seconds since the epoch
    """

    __slots__ = ()


class Queued(
    namedtuple(
        "Queued",
        (
            "job_id",
            "reason",
            "position",
            "queue",
            "concurrency",
            "running",
            "running_count",
            "all_running",
            "max_running",
        ),
    )
):
    """A job that waits.

    :ivar reason: one of those above
    :ivar position: 1: it is the next of its queue; None: it is about to leave it
    :ivar queue: name, an object, or None
    :ivar concurrency: of the queue, or None
    :ivar running: jobs of the queue that run: those that the asker may see, the first
        of them
    :ivar running_count: how many these are altogether
    :ivar all_running: jobs of the dispatcher that run
    :ivar max_running: how many may
    """

    __slots__ = ()
    state = QUEUED


class Running(
    namedtuple(
        "Running",
        (
            "job_id",
            "step",
            "host",
            "address",
            "port",
            "start",
            "packets",
            "last_packet",
            "last_heard",
            "timeout_left",
            "max_exec_time_left",
            "stopping",
            "queue",
            "behind",
            "next",
        ),
    )
):
    """A job that runs.

    :ivar step: ``connecting`` or ``running``
    :ivar address: that it is connected to; None: to none yet
    :ivar start: when it left its queue, seconds since the epoch
    :ivar last_packet: number of the last packet, None if there is none
    :ivar last_heard: when something was last recorded of it: the last packet, or that
        the request was about to be sent; None: nothing yet
    :ivar timeout_left: seconds until ``timeout`` cuts it off if nothing comes; None: it
        doesn't count yet
    :ivar max_exec_time_left: seconds until ``max_exec_time`` does
    :ivar stopping: why it is being stopped, or None
    :ivar behind: how many jobs of its queue wait
    :ivar next: id of the first of them, or None, also if the asker may not see it
    """

    __slots__ = ()
    state = RUNNING


class Ended(
    namedtuple(
        "Ended",
        (
            "job_id",
            "outcome",
            "step",
            "host",
            "address",
            "port",
            "submit",
            "start",
            "end",
            "packets",
            "type",
            "message",
            "ran",
        ),
    )
):
    """A job that has ended.

    :ivar step: at which it ended; None: it came to its result
    :ivar address: that it was sent to; None: it was not sent
    :ivar type: of the error or exception; None: neither
    :ivar message: its text, cut if it is long
    :ivar ran: for an error, whether the procedure can have had an effect
    """

    __slots__ = ()
    state = DONE


_NUMBERS = (
    *("position", "concurrency", "running_count", "all_running", "max_running"),
    *("submit", "start", "end", "packets", "last_packet", "last_heard", "behind"),
    *("timeout_left", "max_exec_time_left"),
)


def build_explanation(found: Queued | Running | Ended) -> dict:
    entry = {"state": found.state, **found._asdict()}
    if isinstance(found, Queued):
        entry["running"] = [holder._asdict() for holder in found.running]
    return {"explain": entry}


def parse_explanation(message: dict) -> Queued | Running | Ended:
    """Return what the reply to ``explain`` says; what it leaves out is None.

    :raises Refusal: if it isn't such a reply
    """
    entry = field(message, "explain", dict)
    numbers(entry, *_NUMBERS)
    for name in ("reason", "step", "ran"):
        if not isinstance(entry.get(name, ""), (str, NoneType)):
            raise Refusal(INVALID_REQUEST, f'"explain.{name}" must be a string or null')
    for kind in (Queued, Running, Ended):
        if entry.get("state") == kind.state:
            found = kind._make(entry.get(name) for name in kind._fields)
            break
    else:
        raise Refusal(INVALID_REQUEST, '"explain.state" is none that is known')
    if isinstance(found, Queued):
        holders = [
            Holder._make(holder.get(name) for name in Holder._fields)
            for holder in (objects(entry, "running") if found.running else ())
        ]
        for holder in holders:
            numbers(holder._asdict(), "start")
        found = found._replace(running=holders)
    return found
