"""What dispatcher, or direct client, and daemon say to each other."""

from __future__ import annotations

from collections import namedtuple

from ..errors import INVALID_PROTOCOL, Refusal
from .parts import (
    ERROR,
    EXCEPTION,
    End,
    RESULT,
    VERSION,
    credentials_object,
    error_object,
    field,
    is_of_version,
    objects,
    optional,
    parse_credentials,
    parse_error_object,
)


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
    procedure = job_id = None  # for who doesn't care which of the requests it is


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
        "auth": credentials_object(call.user, call.password),
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
    if not is_of_version(message, "harp"):
        raise Refusal(
            INVALID_PROTOCOL, f'"harp" is not {VERSION}: other protocol version?'
        )
    return parse_credentials(field(message, "auth", dict))


def build_list_procedures(request: ListProcedures) -> dict:
    return {
        "harp": VERSION,
        "procedures": True,
        "auth": credentials_object(request.user, request.password),
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
        lower case) and, as source text, ``default`` and ``annotation``, if any
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
    procedures = objects(message, "procedures")
    for procedure in procedures:
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
    return {EXCEPTION: error_object(type, message, data)}


def build_daemon_error(type: str, message: str, data: object = None) -> dict:
    return {"harp": VERSION, ERROR: error_object(type, message, data)}


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
        return End(EXCEPTION, parse_error_object(message, EXCEPTION))
    if not is_of_version(message, "harp"):
        raise Refusal(
            INVALID_PROTOCOL, f'message has no known key, or "harp" is not {VERSION}'
        )
    if ERROR in message:
        return End(ERROR, parse_error_object(message, ERROR))
    return Acknowledgement(field(message, "stream_result", bool))
