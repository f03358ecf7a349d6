"""What the dispatcher replies."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Collection

from ..errors import INVALID_REQUEST, Refusal
from .parts import (
    CANCELLED,
    ERROR,
    EXCEPTION,
    End,
    OUTCOMES,
    RAN,
    VERSION,
    canonical,
    error_object,
    field,
    natural,
    numbers,
    objects,
    optional,
    parse_error_object,
)
from .requests import Call, Queue, masked_arguments, queue_object, secret_arguments

# For type checkers only, which know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .daemon import ProcedureList


END_PREFIXES = {outcome: f'{{"{outcome}":'.encode() for outcome in OUTCOMES}
"""What the line of an end begins with, by its outcome."""


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
    secret_names: Collection[str] = (),
) -> dict:
    """The reply to ``get_status``. Secret arguments are masked, and named.

    :param secret_names: of arguments that are secret in every call
    :param timeout: seconds, as it applies to the job
    :param max_exec_time: seconds, as it applies to the job
    """
    shown = {
        "host": call.host,
        "procedure": call.procedure,
        "arguments": masked_arguments(call, secret_names),
    }
    if shown["arguments"] is not call.arguments:
        shown["secret"] = secret_arguments(call, secret_names)
    return {
        "call": shown,
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
    statuses = objects(message, "jobs")
    for status in statuses:
        parse_job_entry(status)
    next_before = message.get("next")
    if next_before is not None and not isinstance(next_before, str):
        raise Refusal(INVALID_REQUEST, '"next" must be a string or null')
    return statuses, next_before


def build_queue_list(queues: list[dict], next_after: dict | None = None) -> dict:
    """:param next_after: name of the last queue, if there are more"""
    reply: dict = {"queues": queues}
    if next_after is not None:
        reply["next"] = next_after
    return reply


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


def parse_host_list(message: dict) -> list[dict]:
    """Return the entries in a reply to ``list_hosts``."""
    return objects(message, "hosts")


def host_name(entry: dict) -> str:
    """Return the name of a host in a list of them."""
    return field(entry, "hostname", str, "hosts.")


def build_host_procedures(
    found: ProcedureList,
    *,
    address: str,
    port: int,
    seconds: float,
    cert_sha256: str,
    cert_expires: int | None,
) -> dict:
    """The reply to ``list_procedures``: what the daemon answered, and how it was
    reached.

    :param seconds: that all of it took, connecting included
    :param cert_sha256: fingerprint of its certificate, in hex
    :param cert_expires: seconds since the epoch; None: it doesn't say
    """
    return {
        **found._asdict(),
        "address": address,
        "port": port,
        "seconds": seconds,
        "cert_sha256": cert_sha256,
        "cert_expires": cert_expires,
    }


def keep_procedures(reply: dict, is_wanted: Callable[[str], bool]) -> dict:
    """Return such a reply with those procedures only whose names are wanted."""
    kept = [entry for entry in reply["procedures"] if is_wanted(entry["name"])]
    return {**reply, "procedures": kept}


def parse_host_procedures(message: dict) -> list[dict]:
    """Return the procedures in a reply to ``list_procedures``."""
    from .daemon import parse_procedure_list  # here: see the package's top

    return parse_procedure_list(message).procedures


class Reached(
    namedtuple(
        "Reached",
        ("address", "port", "seconds", "cert_sha256", "cert_expires", "version")
        + ("digest",),
    )
):
    """How a host was reached, and what its daemon says of itself; None: not known.

    :ivar seconds: that all of it took
    :ivar cert_expires: seconds since the epoch
    """

    __slots__ = ()


def parse_reached(message: dict) -> Reached:
    """Return what else a reply to ``list_procedures`` says."""
    numbers(message, "seconds", "cert_expires")
    return Reached._make(message.get(name) for name in Reached._fields)


def parse_explain(message: dict) -> dict:
    """Return what a reply to ``explain`` says, as it stands there."""
    return field(message, "explain", dict)


def refusal_of(message: dict) -> dict | None:
    """Return the error object of a reply that refuses the request, None for any other
    reply."""
    error = message.get(ERROR)
    return error if "harpcaller" in message and isinstance(error, dict) else None


def daemon_refusal(message: dict) -> str | None:
    """Return the text of a daemon's error, None for any other message: what a client
    hears that takes a daemon for a dispatcher."""
    error = message.get(ERROR)
    if "harp" not in message or not isinstance(error, dict):
        return None
    return str(error.get("message"))


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
    """Return the end that the reply to ``get_result`` holds; None: there is none."""
    return None if message.get("no_result") is True else parse_reply_end(message)


class Packet(namedtuple("Packet", ("number", "data", "time"), defaults=(None,))):
    """A streamed value, as clients get it.

    :ivar time: when the dispatcher got it, seconds since the epoch; None: not told
    """

    __slots__ = ()


def parse_stream_reply(message: dict) -> Packet | End | None:
    """Return what a line of a stream holds; None: these were all, the job goes on."""
    if "packet" in message:
        if "data" not in message:
            raise Refusal(INVALID_REQUEST, '"data" is missing')
        number = message["packet"]
        if type(number) is not int or number < 0:
            raise Refusal(INVALID_REQUEST, '"packet" must be a non-negative integer')
        return Packet(number, message["data"], message.get("time"))
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
        if daemon_refusal(message) is not None:
            raise Refusal(INVALID_REQUEST, "it is a daemon's error")
        error = parse_error_object(message, ERROR, "ran")
        if error.get("ran") not in (None, *RAN):
            raise Refusal(INVALID_REQUEST, '"error.ran" must be no, maybe or yes')
        return End(ERROR, error)
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


def packets_of(status: dict) -> int | None:
    """Return how many packets a status says that there are; None: it doesn't."""
    return natural(status, "packets")


def parse_job_entry(status: dict) -> tuple[str, str, str | None]:
    """Return what tells one status in a list from others: job id, host, and outcome,
    None if it hasn't ended."""
    how = status.get("outcome")
    if how is not None and how not in OUTCOMES:
        raise Refusal(INVALID_REQUEST, '"outcome" must be how a call ends, or null')
    return (
        field(status, "job_id", str),
        field(field(status, "call", dict), "host", str, "call."),
        how,
    )


def parse_call_of_status(status: dict) -> Call:
    """Return the call that a status tells of, without its id. Secret arguments are
    masked in it."""
    call = field(status, "call", dict)
    queue = status.get("queue")
    if queue is not None:
        queue = field(status, "queue", dict)
        queue = Queue(
            field(queue, "name", dict, "queue."),
            field(queue, "concurrency", int, "queue."),
        )
    return Call(
        field(call, "host", str, "call."),
        field(call, "procedure", str, "call."),
        field(call, "arguments", (list, dict), "call."),
        status.get("timeout"),
        status.get("max_exec_time"),
        queue,
        status.get("info"),
        None,
        status.get("group"),
        status.get("on_behalf_of"),
        tuple(field(call, "secret", list, "call.") if "secret" in call else ()),
    )


def parse_queue_list(message: dict) -> tuple[list[dict], dict | None]:
    """Return the queues in a reply to ``list_queues``, and the name of the one to go
    on after, None if these are all."""
    return objects(message, "queues"), optional(message, "next", dict)
