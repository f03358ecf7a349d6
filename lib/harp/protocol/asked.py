"""What is asked of the dispatcher, as it reads that. Loaded when it is first needed,
because clients never do."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping

from ..errors import INVALID_PROTOCOL, INVALID_REQUEST, Refusal
from .parts import (
    MAX_CONCURRENCY,
    MAX_SECONDS,
    OUTCOMES,
    QUEUED,
    RESULT,
    STATES,
    VERSION,
    canonical,
    count,
    field,
    is_int,
    is_of_version,
    natural,
    optional,
    parse_credentials,
)
from .requests import LIST_LIMIT, Call, Queue

# Job ids in these are of any type: what isn't one is an unknown one.
Cancel = namedtuple("Cancel", ("job_id", "on_behalf_of"), defaults=(None,))
GetResult = namedtuple("GetResult", ("job_id", "wait"))
GetStatus = namedtuple("GetStatus", ("job_id",))
FollowStream = namedtuple("FollowStream", ("job_id", "since", "recent"))
ReadStream = namedtuple("ReadStream", ("job_id", "since", "recent", "limit"))
ListQueues = namedtuple("ListQueues", ("after",), defaults=(None,))
ListHosts = namedtuple("ListHosts", ())
ListHostProcedures = namedtuple("ListHostProcedures", ("host",))
Explain = namedtuple("Explain", ("job_id",))


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

    @property
    def state(self) -> str | None:
        return self.filters.get("state")

    @property
    def group(self) -> str | None:
        return self.filters.get("group")

    @property
    def since(self) -> float | None:
        """The earliest submission, in seconds since the epoch."""
        return self.filters.get("from")

    @property
    def until(self) -> float | None:
        """The latest submission, in seconds since the epoch."""
        return self.filters.get("to")

    @property
    def texts(self) -> list[str]:
        """Strings that stand in what was submitted with each job that matches."""
        wanted = ("host", "procedure", "group", "submitted_by")
        return [self.filters[key] for key in wanted if key in self.filters]

    def only_of(self, user: str) -> ListJobs:
        """Return the same for the jobs of one user alone."""
        if self.filters.get("submitted_by", user) != user:
            return ListJobs({**self.filters, "ids": []})
        return ListJobs({**self.filters, "submitted_by": user})

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


def parse_request(message: dict, more: Mapping[str, Callable] | None = None):
    """Return what a request to the dispatcher asks for: one of the classes above.

    :param more: parsers of further operations that are allowed, by their key
    :raises Refusal: ``invalid_protocol`` or ``invalid_request``
    """
    if not is_of_version(message, "harpcaller"):
        raise Refusal(
            INVALID_PROTOCOL, f'"harpcaller" is not {VERSION}: other protocol version?'
        )
    parsers = {**_PARSERS, **(more or {})}
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


class Auth(namedtuple("Auth", ("user", "password"))):
    """Who a client says it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Auth({self.user!r})"


def parse_auth(message: dict) -> Auth | None:
    """Return who sends a request, None if it doesn't say.

    :raises Refusal: ``invalid_request``
    """
    auth = optional(message, "auth", dict)
    return None if auth is None else Auth(*parse_credentials(auth))


def _parse_call(message: dict) -> Call:
    call = Call(
        field(message, "host", str),
        field(message, "procedure", str),
        field(message, "arguments", (list, dict)),
        count(message, "timeout", MAX_SECONDS),
        count(message, "max_exec_time", MAX_SECONDS),
        _parse_queue(message),
        message.get("info"),
        message.get("job_id"),
        optional(message, "group", str),
        optional(message, "on_behalf_of", str),
        tuple(optional(message, "secret", list) or ()),
    )
    for name in call.secret:
        if not isinstance(name, str) and not (is_int(name) and name >= 0):
            raise Refusal(
                INVALID_REQUEST, '"secret" holds something else than argument names'
            )
    return call


def _parse_queue(message: dict) -> Queue | None:
    queue = optional(message, "queue", dict)
    if queue is None:
        return None
    name = field(queue, "name", dict, "queue.")
    return Queue(name, count(queue, "concurrency", MAX_CONCURRENCY, "queue.") or 1)


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
    limit = count(message, "limit", None)
    return ReadStream(message["read_stream"], since, recent, limit)


def _parse_position(message: dict) -> tuple[int | None, int | None]:
    if "since" in message and "recent" in message:
        raise Refusal(INVALID_REQUEST, '"since" and "recent" exclude each other')
    return natural(message, "since"), natural(message, "recent")


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
    count(filters, "limit", LIST_LIMIT, "list_jobs.")
    return ListJobs(filters)


def _parse_list_queues(message: dict) -> ListQueues:
    value = message["list_queues"]
    if value is True:
        return ListQueues()
    if not isinstance(value, dict):
        raise Refusal(INVALID_REQUEST, '"list_queues" must be true or an object')
    return ListQueues(field(value, "after", dict, "list_queues."))


def without_options(operation: str, request):
    """Return the parser of an operation whose value is always true."""

    def parse(message: dict):
        if message[operation] is not True:
            raise Refusal(INVALID_REQUEST, f'"{operation}" must be true')
        return request

    return parse


_PARSERS = {
    "cancel": lambda message: Cancel(
        message["cancel"], optional(message, "on_behalf_of", str)
    ),
    "get_result": _parse_get_result,
    "get_status": lambda message: GetStatus(message["get_status"]),
    "follow_stream": _parse_follow_stream,
    "read_stream": _parse_read_stream,
    "list_jobs": _parse_list_jobs,
    "list_queues": _parse_list_queues,
    "list_hosts": without_options("list_hosts", ListHosts()),
    "list_procedures": lambda message: ListHostProcedures(
        field(message, "list_procedures", str)
    ),
    "explain": lambda message: Explain(message["explain"]),
}
