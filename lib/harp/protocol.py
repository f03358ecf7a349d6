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
ListQueues = namedtuple("ListQueues", ())
ListHosts = namedtuple("ListHosts", ())
# On the admin socket only.
GetDispatcherStatus = namedtuple("GetDispatcherStatus", ())
Stop = namedtuple("Stop", ())


class ListJobs(namedtuple("ListJobs", ("filters",))):
    """Jobs to be listed.

    :ivar filters: object, as in the request
    """

    __slots__ = ()

    @property
    def ids(self) -> list | None:
        """Only these; of any type each."""
        return self.filters.get("ids")

    @property
    def before(self) -> str | None:
        """Id to go on from; of any form."""
        return self.filters.get("before")

    @property
    def limit(self) -> int | None:
        return self.filters.get("limit")

    def matches(self, status: dict) -> bool:
        """Tell whether a status, as :func:`build_status` makes it, is one of those
        that are wanted, if its id is."""
        wanted = self.filters
        queue = status["queue"]
        return (
            all(
                found == wanted.get(key, found)
                for found, key in (
                    (status["call"]["host"], "host"),
                    (status["call"]["procedure"], "procedure"),
                    (status["state"], "state"),
                    (status["outcome"], "outcome"),
                    (status["group"], "group"),
                    (status["submitted_by"], "submitted_by"),
                )
            )
            and wanted.get("from", 0) <= status["time"]["submit"]
            and status["time"]["submit"] <= wanted.get("to", float("inf"))
            and (
                "queue" not in wanted
                or queue is not None
                and canonical(wanted["queue"]) == canonical(queue["name"])
            )
        )


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
        field(message, "host", str),
        field(message, "procedure", str),
        field(message, "arguments", (list, dict)),
        _count(message, "timeout", MAX_SECONDS),
        _count(message, "max_exec_time", MAX_SECONDS),
        _parse_queue(message),
        message.get("info"),
        message.get("job_id"),
        optional(message, "group", str),
        optional(message, "on_behalf_of", str),
        tuple(optional(message, "secret", list) or ()),
    )
    for name in call.secret:
        if not isinstance(name, str) and not (_is_int(name) and name >= 0):
            raise Refusal(
                INVALID_REQUEST, '"secret" holds something else than argument names'
            )
    return call


def _parse_queue(message: dict) -> Queue | None:
    queue = optional(message, "queue", dict)
    if queue is None:
        return None
    name = field(queue, "name", dict, "queue.")
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
    filters = field(message, "list_jobs", dict)
    for key in filters:
        if key not in _FILTERS:
            raise Refusal(INVALID_REQUEST, f'"list_jobs" has no filter {key[:100]!a}')
        field(filters, key, _FILTERS[key], "list_jobs.")
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


def with_ran(end: End, ran: str) -> End:
    """Return an end of the outcome error, saying whether the procedure ran."""
    return End(end.outcome, {**end.value, "ran": ran})


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


def build_dispatcher_status(
    *,
    version: str,
    pid: int,
    since: float,
    queued: int,
    running: int,
    queues: int,
    connections: int,
    hosts: int,
    free: int | None,
    stopping: bool,
) -> dict:
    """The reply to ``status``.

    :param since: start of the dispatcher, seconds since the epoch
    :param free: bytes free for the job log; None if the system doesn't say
    """
    return {
        "version": version,
        "pid": pid,
        "since": int(since),
        "queued": queued,
        "running": running,
        "queues": queues,
        "connections": connections,
        "hosts": hosts,
        "free": free,
        "stopping": stopping,
    }


def build_stopping(pid: int) -> dict:
    return {"stopping": True, "pid": pid}


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
        return Packet(_natural(message, "packet"), message["data"])
    return None if message.get("continue") is True else parse_reply_end(message)


def parse_reply_end(message: dict) -> End:
    """Return the end that a reply holds, or the refusal that it is."""
    end = parse_end(message)
    if end is None:
        raise Refusal(INVALID_REQUEST, "message has no key that is known")
    if end.outcome == CANCELLED and end.value is not True:
        raise Refusal(INVALID_REQUEST, '"cancelled" must be true')
    if end.outcome == EXCEPTION:
        return End(EXCEPTION, _parse_error_object(message, EXCEPTION))
    if end.outcome == ERROR:
        return End(ERROR, _parse_error_object(message, ERROR, "ran"))
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


class ListProcedures(namedtuple("ListProcedures", ("user", "password"))):
    """A request to a daemon: what may that user call?"""

    __slots__ = ()
    procedure = None
    job_id = None


class ProcedureList(namedtuple("ProcedureList", ("procedures", "version", "digest"))):
    """What a daemon offers.

    :ivar procedures: objects as :func:`build_procedure` makes them
    :ivar version: the daemon's
    :ivar digest: of the source of its procedures
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


def parse_daemon_request(message: dict) -> DaemonCall | ListProcedures:
    """Return what a request to a daemon asks for.

    :raises Refusal: ``invalid_protocol`` or ``invalid_request``
    """
    if message.get("procedures") is True and "procedure" not in message:
        return ListProcedures(*_parse_auth(message))
    return parse_daemon_call(message)


def parse_daemon_call(message: dict) -> DaemonCall:
    """Return the call that a daemon is asked for. Errors as for
    :func:`parse_daemon_request`."""
    user, password = _parse_auth(message)
    return DaemonCall(
        field(message, "procedure", str),
        field(message, "arguments", (list, dict)),
        user,
        password,
        optional(message, "job_id", str),
    )


def _parse_auth(message: dict) -> tuple[str, str]:
    """Return user and password of a request of our version."""
    if not _is_int(message.get("harp")) or message["harp"] != VERSION:
        raise Refusal(
            INVALID_PROTOCOL, f'"harp" is not {VERSION}: other protocol version?'
        )
    auth = field(message, "auth", dict)
    return field(auth, "user", str, "auth."), field(auth, "password", str, "auth.")


def build_list_procedures(request: ListProcedures) -> dict:
    return {
        "harp": VERSION,
        "procedures": True,
        "auth": {"user": request.user, "password": request.password},
    }


def build_procedure(
    *,
    name: str,
    doc: str | None,
    parameters: list[dict],
    streaming: bool,
    timeout: float | None,
    concurrency: int | None,
) -> dict:
    """A procedure in a list of them.

    :param parameters: objects with ``name``, ``kind`` (as ``inspect`` calls them, in
        lower case) and, as source text, ``default`` and ``annotation`` if there are such
    :param timeout: seconds that a call may take; None: for ever
    :param concurrency: calls of it at a time; None: no limit of its own
    """
    return {
        "name": name,
        "doc": doc,
        "parameters": parameters,
        "streaming": streaming,
        "timeout": timeout,
        "concurrency": concurrency,
    }


def build_procedure_list(found: ProcedureList) -> dict:
    return {"harp": VERSION, **found._asdict()}


def parse_procedure_list(message: dict) -> ProcedureList:
    """Return what a daemon replies to :class:`ListProcedures`, if it is no error.

    :raises Refusal: if it isn't such a reply
    """
    procedures = field(message, "procedures", list)
    for procedure in procedures:
        if not isinstance(procedure, dict):
            raise Refusal(INVALID_REQUEST, '"procedures" must be an array of objects')
        field(procedure, "name", str, "procedures.")
    return ProcedureList(
        procedures,
        field(message, "version", str),
        field(message, "digest", str),
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


# A daemon relays the lines of a call's process without parsing them. These are the
# beginnings of the other lines as we encode them.
ACKNOWLEDGEMENT_PREFIX = b'{"harp":1,"stream_result":'
_DAEMON_ENDS = {
    b'{"result":': RESULT,
    b'{"exception":': EXCEPTION,
    b'{"harp":1,"error":': ERROR,
}
MAX_PREFIX = max(map(len, _DAEMON_ENDS))


def daemon_end(line: bytes) -> str | None:
    """Return which outcome a daemon's line reports, as we encode it; None if the call
    goes on after it.

    :param line: at least :data:`MAX_PREFIX` bytes of it
    """
    for prefix, outcome in _DAEMON_ENDS.items():
        if line.startswith(prefix):
            return outcome
    return None


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
    return Acknowledgement(field(message, "stream_result", bool))


def daemon_refusal(message: dict) -> str | None:
    """Return the text of a daemon's error, None for any other message: what a client
    hears that takes a daemon for a dispatcher."""
    error = message.get(ERROR)
    if "harp" not in message or not isinstance(error, dict):
        return None
    return str(error.get("message"))


def _parse_error_object(message: dict, key: str, *more: str) -> dict:
    value = field(message, key, dict)
    field(value, "type", str, key + ".")
    field(value, "message", str, key + ".")
    known = ("type", "message", "data", *more)
    return {name: value[name] for name in known if name in value}


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


def field(message: dict, key: str, kind, prefix: str = ""):
    """Return the value of a key.

    :param kind: type, or tuple of types, that it must have
    :param prefix: what the key stands under, for the error's text
    :raises Refusal: ``invalid_request`` if it is missing or of another type
    """
    if key not in message:
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" is missing')
    value = message[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" must be {_KINDS[kind]}')
    return value


def optional(message: dict, key: str, kind, prefix: str = ""):
    """Return the value of a key as :func:`field` does, None if it is missing."""
    return field(message, key, kind, prefix) if key in message else None


def _count(message: dict, key: str, most: int | None, prefix: str = "") -> int | None:
    """A positive integer, None if absent."""
    value = optional(message, key, int, prefix)
    if value is not None and value < 1:
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" must be positive')
    if value is not None and most is not None and value > most:
        raise Refusal(INVALID_REQUEST, f'"{prefix}{key}" must be at most {most}')
    return value


def _natural(message: dict, key: str) -> int | None:
    """A non-negative integer, None if absent."""
    value = optional(message, key, int)
    if value is not None and value < 0:
        raise Refusal(INVALID_REQUEST, f'"{key}" must not be negative')
    return value
