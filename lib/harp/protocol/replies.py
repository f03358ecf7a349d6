"""What the dispatcher replies."""

from __future__ import annotations

from collections import namedtuple

from ..errors import INVALID_REQUEST, Refusal
from .parts import (
    CANCELLED,
    DONE,
    ERROR,
    EXCEPTION,
    End,
    OUTCOMES,
    VERSION,
    canonical,
    error_object,
    field,
    natural,
    parse_error_object,
)
from .requests import Call, queue_object


def build_end(end: End) -> dict:
    return {end.outcome: end.value}


def error_end(type: str, message: str, ran: str, data: object = None) -> End:
    return End(ERROR, error_object(type, message, data, ran))


def with_ran(end: End, ran: str) -> End:
    """Return an end of the outcome error, saying whether the procedure ran."""
    return End(end.outcome, {**end.value, "ran": ran})


def build_refusal(type: str, message: str) -> dict:
    return {"harpcaller": VERSION, ERROR: error_object(type, message)}


def build_job_id(job_id: str) -> dict:
    return {"harpcaller": VERSION, "job_id": job_id}


def build_cancelled(cancelled: bool) -> dict:
    return {CANCELLED: cancelled}


def build_no_result() -> dict:
    return {"no_result": True}


def build_continue() -> dict:
    return {"continue": True}


def build_packet(number: int, time: float, data: object) -> dict:
    return {"packet": number, "time": time, "data": data}


PACKET_PREFIX = b'{"packet":'
"""What a packet's line begins with, as we encode it."""


def build_status(
    *,
    job_id: str,
    call: Call,
    submit: float,
    start: float | None,
    end: float | None,
    state: str,
    outcome: str | None,
    packets: int,
    timeout: int,
    max_exec_time: int,
    submitted_by: str | None,
) -> dict:
    """The reply to ``get_status``.

    :param timeout: seconds, as it applies to the job
    :param max_exec_time: seconds, as it applies to the job
    """
    return {
        "call": {
            "host": call.host,
            "procedure": call.procedure,
            "arguments": call.arguments,
        },
        "time": {
            "submit": int(submit),
            "start": None if start is None else int(start),
            "end": None if end is None else int(end),
        },
        "info": call.info,
        "job_id": job_id,
        "queue": None if call.queue is None else queue_object(call.queue),
        "state": state,
        "outcome": outcome,
        "packets": packets,
        "timeout": timeout,
        "max_exec_time": max_exec_time,
        "group": call.group,
        "submitted_by": submitted_by,
        "on_behalf_of": call.on_behalf_of,
    }


_LISTED_ARGUMENTS = 1000  # characters of a call's arguments that a listing shows
_LISTED_ARGUMENT = 100  # of one of them, if all are more than that


def cut_arguments(status: dict) -> dict:
    """Return a status as listings show it: long arguments are cut, the marks being a
    closing ellipsis and ``"cut": true``."""
    arguments = status["call"]["arguments"]
    if len(canonical(arguments)) <= _LISTED_ARGUMENTS:
        return status
    most = _LISTED_ARGUMENTS // _LISTED_ARGUMENT
    if isinstance(arguments, dict):
        cut: object = {
            key: _cut(value) for key, value in list(arguments.items())[:most]
        }
    else:
        cut = [_cut(value) for value in arguments[:most]]
    return {**status, "call": {**status["call"], "arguments": cut, "cut": True}}


def _cut(value: object) -> object:
    text = value if isinstance(value, str) else canonical(value)
    return value if len(text) <= _LISTED_ARGUMENT else text[:_LISTED_ARGUMENT] + "…"


def build_job_list(statuses: list[dict], next_before: str | None) -> dict:
    return {"jobs": statuses, "next": next_before}


def parse_job_list(message: dict) -> tuple[list[dict], str | None]:
    """Return the statuses in a reply to ``list_jobs``, and where to go on."""
    return message["jobs"], message["next"]


def has_ended(status: dict) -> bool:
    return status["state"] == DONE


def build_queue_list(queues: list[dict]) -> dict:
    return {"queues": queues}


def build_queue_entry(
    name: dict, concurrency: int, running: int, waiting: int, oldest: str | None
) -> dict:
    return {
        "name": name,
        "concurrency": concurrency,
        "running": running,
        "waiting": waiting,
        "oldest": oldest,
    }


def build_host_list(hosts: list[dict]) -> dict:
    return {"hosts": hosts}


def build_host_entry(hostname: str, address: str, port: int) -> dict:
    return {"hostname": hostname, "address": address, "port": port}


def refusal_of(message: dict) -> dict | None:
    """Return the error object of a reply that refuses the request, None for any other
    reply."""
    error = message.get(ERROR)
    return error if "harpcaller" in message and isinstance(error, dict) else None


def parse_end(message: dict) -> End | None:
    """Return the end that a dispatcher's message reports, None if it reports none."""
    for outcome in OUTCOMES:
        if outcome in message:
            return End(outcome, message[outcome])
    return None


def parse_job_id(message: dict) -> str:
    """Return the id that the reply to a call holds. As all parsers of replies:

    :raises Refusal: if it isn't what such a reply is
    """
    return field(message, "job_id", str)


def parse_cancelled(message: dict) -> bool:
    return field(message, CANCELLED, bool)


def parse_result_reply(message: dict) -> End | None:
    """Return the end that the reply to ``get_result`` holds; None: there is none yet."""
    return None if message.get("no_result") is True else parse_reply_end(message)


class Packet(namedtuple("Packet", ("number", "data"))):
    """A streamed value, as clients get it."""

    __slots__ = ()


def parse_stream_reply(message: dict) -> Packet | End | None:
    """Return what a line of a stream holds; None: these were all, the job goes on."""
    if "packet" in message:
        if "data" not in message:
            raise Refusal(INVALID_REQUEST, '"data" is missing')
        return Packet(natural(message, "packet"), message["data"])
    return None if message.get("continue") is True else parse_reply_end(message)


def parse_reply_end(message: dict) -> End:
    """Return the end that a reply holds, or the refusal that it is."""
    end = parse_end(message)
    if end is None:
        raise Refusal(INVALID_REQUEST, "message has no key that is known")
    if end.outcome == CANCELLED and end.value is not True:
        raise Refusal(INVALID_REQUEST, '"cancelled" must be true')
    if end.outcome == EXCEPTION:
        return End(EXCEPTION, parse_error_object(message, EXCEPTION))
    if end.outcome == ERROR:
        return End(ERROR, parse_error_object(message, ERROR, "ran"))
    return end


class Status(
    namedtuple(
        "Status",
        ("host", "procedure", "arguments", "submit", "start", "end", "info"),
    )
):
    """What the reply to ``get_status`` always holds.

    :ivar start: seconds since the epoch, as all times; None: not yet
    """

    __slots__ = ()


def parse_status(message: dict) -> Status:
    call = field(message, "call", dict)
    time = field(message, "time", dict)
    return Status(
        field(call, "host", str, "call."),
        field(call, "procedure", str, "call."),
        field(call, "arguments", (list, dict), "call."),
        field(time, "submit", int, "time."),
        *(
            None if time.get(key) is None else field(time, key, int, "time.")
            for key in ("start", "end")
        ),
        message.get("info"),
    )
