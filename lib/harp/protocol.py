"""Every message of both protocols: built and parsed here, and nowhere else are their
keys spelled. Pure functions; the text that they follow is doc/protocol.rst."""

from __future__ import annotations

import json
from collections import namedtuple

from .errors import INVALID_PROTOCOL, INVALID_REQUEST, Refusal

CLIENT_PORT = 3502
DAEMON_PORT = 4306
VERSION = 1

MAX_SECONDS = MAX_CONCURRENCY = 1_000_000_000
"""The largest duration and concurrency that a request may ask for."""

# How a job may end: the key of its end message.
RESULT = "result"
EXCEPTION = "exception"
CANCELLED = "cancelled"
ERROR = "error"
OUTCOMES = (RESULT, EXCEPTION, CANCELLED, ERROR)

# Whether the procedure can have had an effect.
RAN_NO = "no"
RAN_MAYBE = "maybe"
RAN_YES = "yes"

STATES = QUEUED, RUNNING, DONE = ("queued", "running", "done")


# --- what is asked of the dispatcher -------------------------------------------------


class Queue(namedtuple("Queue", ("name", "concurrency"))):
    """A queue as a call names it: any JSON object, and how many of its jobs may run at
    once."""

    __slots__ = ()


class Call(
    namedtuple(
        "Call",
        (
            "host",
            "procedure",
            "arguments",
            "timeout",
            "max_exec_time",
            "queue",
            "info",
            "job_id",
            "group",
            "on_behalf_of",
            "secret",
        ),
        defaults=(None, None, None, None, None, None, None, ()),
    )
):
    """A call to be submitted.

    :ivar arguments: list (positional) or dict (named)
    :ivar timeout: seconds, positive; None: as configured
    :ivar max_exec_time: seconds, positive; None: as configured
    :ivar queue: :class:`Queue` or None
    :ivar info: anything JSON, kept with the job
    :ivar job_id: id made by the client, not checked yet; None: none
    :ivar group: the caller's name for calls that belong together, or None
    :ivar on_behalf_of: person whom the caller says it acts for, or None
    :ivar secret: names or positions of arguments that listings mask
    """

    __slots__ = ()


# Job ids in these are of any type: what isn't one is an unknown one.
Cancel = namedtuple("Cancel", ("job_id",))
GetResult = namedtuple("GetResult", ("job_id", "wait"))
GetStatus = namedtuple("GetStatus", ("job_id",))
FollowStream = namedtuple("FollowStream", ("job_id", "since", "recent"))
ReadStream = namedtuple("ReadStream", ("job_id", "since", "recent", "limit"))
ListJobs = namedtuple("ListJobs", ("filters",))
ListQueues = namedtuple("ListQueues", ())
ListHosts = namedtuple("ListHosts", ())
# On the admin socket only.
GetDispatcherStatus = namedtuple("GetDispatcherStatus", ())
Stop = namedtuple("Stop", ())

_FILTERS = {
    "host": str,
    "procedure": str,
    "state": str,
    "outcome": str,
    "queue": dict,
    "group": str,
    "submitted_by": str,
    "ids": list,
    "from": (int, float),
    "to": (int, float),
    "limit": int,
    "before": str,
}
LIST_LIMIT = 1000


def build_call(call: Call) -> dict:
    request = _request()
    request["host"] = call.host
    request["procedure"] = call.procedure
    request["arguments"] = call.arguments
    for key in ("timeout", "max_exec_time", "job_id", "group", "on_behalf_of"):
        value = getattr(call, key)
        if value is not None:
            request[key] = value
    if call.queue is not None:
        request["queue"] = _queue_object(call.queue)
    if call.info is not None:
        request["info"] = call.info
    if call.secret:
        request["secret"] = list(call.secret)
    return request


def build_cancel(job_id: str) -> dict:
    return _request("cancel", job_id)


def build_get_result(job_id: str, wait: bool) -> dict:
    request = _request("get_result", job_id)
    request["wait"] = wait
    return request


def build_get_status(job_id: str) -> dict:
    return _request("get_status", job_id)


def build_follow_stream(
    job_id: str, since: int | None = None, recent: int | None = None
) -> dict:
    return _request("follow_stream", job_id, since=since, recent=recent)


def build_read_stream(
    job_id: str,
    since: int | None = None,
    recent: int | None = None,
    limit: int | None = None,
) -> dict:
    return _request("read_stream", job_id, since=since, recent=recent, limit=limit)


def build_list_jobs(**filters) -> dict:
    """Filters are those of the protocol; ``from_`` and ``to`` are submission times."""
    if "from_" in filters:
        filters["from"] = filters.pop("from_")
    return _request(
        "list_jobs", {key: value for key, value in filters.items() if value is not None}
    )


def build_list_queues() -> dict:
    return _request("list_queues", True)


def build_list_hosts() -> dict:
    return _request("list_hosts", True)


def build_get_dispatcher_status() -> dict:
    return _request("status", True)


def build_stop() -> dict:
    return _request("stop", True)


def _request(operation: str | None = None, value=None, **options) -> dict:
    request: dict = {"harpcaller": VERSION}
    if operation is not None:
        request[operation] = value
    for key, option in options.items():
        if option is not None:
            request[key] = option
    return request


def parse_request(message: dict, admin: bool = False):
    """Return what a request to the dispatcher asks for: one of the classes above.

    :param admin: True if it came over the admin socket
    :raises Refusal: ``invalid_protocol`` or ``invalid_request``
    """
    if not _is_int(message.get("harpcaller")) or message["harpcaller"] != VERSION:
        raise Refusal(
            INVALID_PROTOCOL, f'"harpcaller" is not {VERSION}: other protocol version?'
        )
    parsers = _PARSERS | _ADMIN_PARSERS if admin else _PARSERS
    operations = [key for key in parsers if key in message]
    if any(key in message for key in ("host", "procedure", "arguments")):
        operations.append("call")
    if len(operations) != 1:
        raise Refusal(
            INVALID_REQUEST,
            "request asks for two operations: " + ", ".join(operations)
            if operations
            else "request asks for no operation that is known",
        )
    return parsers.get(operations[0], _parse_call)(message)


def _parse_call(message: dict) -> Call:
    call = Call(
        _field(message, "host", str),
        _field(message, "procedure", str),
        _field(message, "arguments", (list, dict)),
        _count(message, "timeout", MAX_SECONDS),
        _count(message, "max_exec_time", MAX_SECONDS),
        _parse_queue(message),
        message.get("info"),
        message.get("job_id"),
        _optional(message, "group", str),
        _optional(message, "on_behalf_of", str),
        tuple(_optional(message, "secret", list) or ()),
    )
    for name in call.secret:
        if not isinstance(name, str) and not (_is_int(name) and name >= 0):
            raise Refusal(
                INVALID_REQUEST, '"secret" holds something else than argument names'
            )
    return call


def _parse_queue(message: dict) -> Queue | None:
    queue = _optional(message, "queue", dict)
    if queue is None:
        return None
    name = _field(queue, "name", dict, "queue.")
    return Queue(name, _count(queue, "concurrency", MAX_CONCURRENCY, "queue.") or 1)


def _parse_get_result(message: dict) -> GetResult:
    wait = message.get("wait", True)
    if not isinstance(wait, bool):
        raise Refusal(INVALID_REQUEST, '"wait" must be true or false')
    return GetResult(message["get_result"], wait)


def _parse_follow_stream(message: dict) -> FollowStream:
    since, recent = _parse_position(message)
    if since is None and recent is None:
        recent = 0
    return FollowStream(message["follow_stream"], since, recent)


def _parse_read_stream(message: dict) -> ReadStream:
    since, recent = _parse_position(message)
    if since is None and recent is None:
        since = 0
    limit = _count(message, "limit", None)
    return ReadStream(message["read_stream"], since, recent, limit)


def _parse_position(message: dict) -> tuple[int | None, int | None]:
    if "since" in message and "recent" in message:
        raise Refusal(INVALID_REQUEST, '"since" and "recent" exclude each other')
    return _natural(message, "since"), _natural(message, "recent")


def _parse_list_jobs(message: dict) -> ListJobs:
    filters = _field(message, "list_jobs", dict)
    for key in filters:
        if key not in _FILTERS:
            raise Refusal(INVALID_REQUEST, f'"list_jobs" has no filter {key[:100]!a}')
        _field(filters, key, _FILTERS[key], "list_jobs.")
    if filters.get("state", QUEUED) not in STATES:
        raise Refusal(INVALID_REQUEST, f'"state" must be one of {", ".join(STATES)}')
    if filters.get("outcome", RESULT) not in OUTCOMES:
        raise Refusal(
            INVALID_REQUEST, f'"outcome" must be one of {", ".join(OUTCOMES)}'
        )
    _count(filters, "limit", LIST_LIMIT, "list_jobs.")
    return ListJobs(filters)


def _without_options(operation: str, request):
    def parse(message: dict):
        if message[operation] is not True:
            raise Refusal(INVALID_REQUEST, f'"{operation}" must be true')
        return request

    return parse


_PARSERS = {
    "cancel": lambda message: Cancel(message["cancel"]),
    "get_result": _parse_get_result,
    "get_status": lambda message: GetStatus(message["get_status"]),
    "follow_stream": _parse_follow_stream,
    "read_stream": _parse_read_stream,
    "list_jobs": _parse_list_jobs,
    "list_queues": _without_options("list_queues", ListQueues()),
    "list_hosts": _without_options("list_hosts", ListHosts()),
}
_ADMIN_PARSERS = {
    "status": _without_options("status", GetDispatcherStatus()),
    "stop": _without_options("stop", Stop()),
}


# --- what the dispatcher replies -----------------------------------------------------


class End(namedtuple("End", ("outcome", "value"))):
    """How a job ended: one of the outcomes, and what stands beside its key."""

    __slots__ = ()


def build_end(end: End) -> dict:
    return {end.outcome: end.value}


def error_end(type: str, message: str, ran: str, data: object = None) -> End:
    return End(ERROR, _error_object(type, message, data, ran))


def build_refusal(type: str, message: str) -> dict:
    return {"harpcaller": VERSION, ERROR: _error_object(type, message)}


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
        "queue": None if call.queue is None else _queue_object(call.queue),
        "state": state,
        "outcome": outcome,
        "packets": packets,
        "timeout": timeout,
        "max_exec_time": max_exec_time,
        "group": call.group,
        "submitted_by": submitted_by,
        "on_behalf_of": call.on_behalf_of,
    }


def build_job_list(statuses: list[dict], next_before: str | None) -> dict:
    return {"jobs": statuses, "next": next_before}


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


def canonical(value: object) -> str:
    """Return the canonical text of a JSON value: keys sorted, no blanks. Two values
    are the same to us if their texts are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


# --- between dispatcher or direct client and daemon ----------------------------------


class DaemonCall(
    namedtuple("DaemonCall", ("procedure", "arguments", "user", "password", "job_id"))
):
    """A request to a daemon.

    :ivar arguments: list (positional) or dict (named)
    :ivar job_id: any string, or None
    """

    __slots__ = ()


class Acknowledgement(namedtuple("Acknowledgement", ("stream_result",))):
    __slots__ = ()


class StreamValue(namedtuple("StreamValue", ("value",))):
    __slots__ = ()


def build_daemon_call(call: DaemonCall) -> dict:
    request = {
        "harp": VERSION,
        "procedure": call.procedure,
        "arguments": call.arguments,
        "auth": {"user": call.user, "password": call.password},
    }
    if call.job_id is not None:
        request["job_id"] = call.job_id
    return request


def parse_daemon_call(message: dict) -> DaemonCall:
    """Return what a request to a daemon asks for.

    :raises Refusal: ``invalid_protocol`` or ``invalid_request``
    """
    if not _is_int(message.get("harp")) or message["harp"] != VERSION:
        raise Refusal(
            INVALID_PROTOCOL, f'"harp" is not {VERSION}: other protocol version?'
        )
    auth = _field(message, "auth", dict)
    return DaemonCall(
        _field(message, "procedure", str),
        _field(message, "arguments", (list, dict)),
        _field(auth, "user", str, "auth."),
        _field(auth, "password", str, "auth."),
        _optional(message, "job_id", str),
    )


def build_acknowledgement(stream_result: bool) -> dict:
    return {"harp": VERSION, "stream_result": stream_result}


def build_stream(value: object) -> dict:
    return {"stream": value}


STREAM_PREFIX = b'{"stream":'
"""What the line of a streamed value begins with, as we encode it."""


def build_result(value: object) -> dict:
    return {RESULT: value}


def build_exception(type: str, message: str, data: object = None) -> dict:
    return {EXCEPTION: _error_object(type, message, data)}


def build_daemon_error(type: str, message: str, data: object = None) -> dict:
    return {"harp": VERSION, ERROR: _error_object(type, message, data)}


def parse_daemon_message(message: dict) -> Acknowledgement | StreamValue | End:
    """Return what a daemon's message says.

    :raises Refusal: ``invalid_protocol`` or ``invalid_request`` if it is none of the
        protocol's
    """
    if "stream" in message:
        return StreamValue(message["stream"])
    if RESULT in message:
        return End(RESULT, message[RESULT])
    if EXCEPTION in message:
        return End(EXCEPTION, _parse_error_object(message, EXCEPTION))
    if not _is_int(message.get("harp")) or message["harp"] != VERSION:
        raise Refusal(
            INVALID_PROTOCOL, f'message has no known key, or "harp" is not {VERSION}'
        )
    if ERROR in message:
        return End(ERROR, _parse_error_object(message, ERROR))
    return Acknowledgement(_field(message, "stream_result", bool))


def _parse_error_object(message: dict, key: str) -> dict:
    value = _field(message, key, dict)
    _field(value, "type", str, key + ".")
    _field(value, "message", str, key + ".")
    return {name: value[name] for name in ("type", "message", "data") if name in value}


# --- parts of messages ---------------------------------------------------------------

_KINDS = {
    str: "a string",
    dict: "an object",
    list: "an array",
    bool: "true or false",
    int: "an integer",
    (list, dict): "an array or an object",
    (int, float): "a number",
}


def _error_object(
    type: str, message: str, data: object = None, ran: str | None = None
) -> dict:
    error: dict = {"type": type, "message": message}
    if data is not None:
        error["data"] = data
    if ran is not None:
        error["ran"] = ran
    return error


def _queue_object(queue: Queue) -> dict:
    return {"name": queue.name, "concurrency": queue.concurrency}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _field(message: dict, key: str, kind, prefix: str = ""):
    if key not in message:
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" is missing')
    value = message[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" must be {_KINDS[kind]}')
    return value


def _optional(message: dict, key: str, kind, prefix: str = ""):
    return _field(message, key, kind, prefix) if key in message else None


def _count(message: dict, key: str, most: int | None, prefix: str = "") -> int | None:
    """A positive integer, None if absent."""
    value = _optional(message, key, int, prefix)
    if value is not None and value < 1:
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" must be positive')
    if value is not None and most is not None and value > most:
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" must be at most {most}')
    return value


def _natural(message: dict, key: str) -> int | None:
    """A non-negative integer, None if absent."""
    value = _optional(message, key, int)
    if value is not None and value < 0:
        raise Refusal(INVALID_REQUEST, f'"{key}" must not be negative')
    return value
