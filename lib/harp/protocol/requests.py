"""What is asked of the dispatcher, as its clients say it."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Collection

from .parts import VERSION, credentials_object


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


MASK = "***"


def masked_arguments(call: Call, names: Collection[str] = ()) -> list | dict:
    """Return a call's arguments as listings and logs show them: without those that the
    caller has named as secret.

    :param names: of arguments that are secret in every call
    """
    masked = {*secret_arguments(call, names)}
    if not masked:
        return call.arguments
    if isinstance(call.arguments, dict):
        return call.arguments | dict.fromkeys(masked, MASK)
    return [
        MASK if position in masked else value
        for position, value in enumerate(call.arguments)
    ]


def secret_arguments(call: Call, names: Collection[str] = ()) -> list:
    """Return names or positions of a call's arguments that are secret."""
    secret = {*call.secret}  # both may be long
    if isinstance(call.arguments, dict):
        secret.update(names)
        return [key for key in call.arguments if key in secret]
    return [n for n in range(len(call.arguments)) if n in secret]


LIST_LIMIT = 1000


def build_call(call: Call) -> dict:
    request = build_request()
    request["host"] = call.host
    request["procedure"] = call.procedure
    request["arguments"] = call.arguments
    for key in ("timeout", "max_exec_time", "job_id", "group", "on_behalf_of"):
        value = getattr(call, key)
        if value is not None:
            request[key] = value
    if call.queue is not None:
        request["queue"] = queue_object(call.queue)
    if call.info is not None:
        request["info"] = call.info
    if call.secret:
        request["secret"] = list(call.secret)
    return request


def with_auth(request: dict, user: str, password: str) -> dict:
    """Return a request that says who asks, as the first one of a connection may."""
    return {**request, "auth": credentials_object(user, password)}


def build_cancel(job_id: str, on_behalf_of: str | None = None) -> dict:
    return build_request("cancel", job_id, on_behalf_of=on_behalf_of)


def build_get_result(job_id: str, wait: bool) -> dict:
    request = build_request("get_result", job_id)
    request["wait"] = wait
    return request


def build_get_status(job_id: str) -> dict:
    return build_request("get_status", job_id)


def build_follow_stream(
    job_id: str, since: int | None = None, recent: int | None = None
) -> dict:
    return build_request("follow_stream", job_id, since=since, recent=recent)


def build_read_stream(
    job_id: str,
    since: int | None = None,
    recent: int | None = None,
    limit: int | None = None,
) -> dict:
    return build_request("read_stream", job_id, since=since, recent=recent, limit=limit)


def build_list_jobs(**filters) -> dict:
    """Filters are those of the protocol; ``from_`` and ``to`` are submission times."""
    if "from_" in filters:
        filters["from"] = filters.pop("from_")
    return build_request(
        "list_jobs", {key: value for key, value in filters.items() if value is not None}
    )


def build_list_queues(after: dict | None = None) -> dict:
    """:param after: name of the queue to go on after"""
    return build_request("list_queues", True if after is None else {"after": after})


def build_list_hosts() -> dict:
    return build_request("list_hosts", True)


def build_list_host_procedures(host: str) -> dict:
    return build_request("list_procedures", host)


def build_explain(job_id: str) -> dict:
    return build_request("explain", job_id)


def build_request(operation: str | None = None, value=None, **options) -> dict:
    """Return a request; options that are None are left out."""
    request: dict = {"harpcaller": VERSION}
    if operation is not None:
        request[operation] = value
    for key, option in options.items():
        if option is not None:
            request[key] = option
    return request


def queue_object(queue: Queue) -> dict:
    return {"name": queue.name, "concurrency": queue.concurrency}
