"""What a call must be like to be accepted, and which calls are the same. Nothing is
kept here."""

from __future__ import annotations

import time

from .. import jobid, protocol, wire
from ..errors import INVALID_REQUEST, Refusal
from ..kinds import LEAST_AGE

REPEAT_SECONDS = LEAST_AGE
"""How far the time inside a client's job id may be from ours, either way; no id
younger than that is ever pruned, so that repeating a call finds it."""

# Half of what the daemon allows around the arguments; the rest is for what we add.
_MAX_REST = wire.WRAPPING_BYTES // 2


def check_size(call: protocol.Call, most: int) -> None:
    """See whether a call can be sent to a daemon.

    :param most: bytes that its arguments may have, and its info
    :raises Refusal: ``invalid_request`` if it is too large or too deep
    """
    whole = wire.encode(protocol.build_call(call))
    brackets = whole.count(b"[") + whole.count(b"{")
    if len(whole) <= min(most, _MAX_REST) and brackets <= wire.MAX_DEPTH:
        return  # as nearly all are; no part of it is larger or deeper
    for name, value in (("arguments", call.arguments), ("info", call.info)):
        wire.check_depth(value, wire.MAX_DEPTH)
        _check_bytes(name, value, most, " (limits.arguments)")
    if call.queue is not None:
        wire.check_depth(call.queue.name, wire.MAX_DEPTH)
    rest = protocol.build_call(call._replace(arguments=[], info=None))
    _check_bytes("all but arguments and info", rest, _MAX_REST)


def _check_bytes(name: str, value: object, most: int, key: str = "") -> None:
    size = len(wire.encode(value)) - 1
    if size > most:
        raise Refusal(
            INVALID_REQUEST, f"{name} of {size} bytes; the limit is {most}{key}"
        )


def check_job_id(value: object) -> str:
    """Return an id that a client made for its call.

    :param value: of any type
    :raises Refusal: ``invalid_request`` if it isn't one, or not of these days
    """
    if not jobid.is_valid(value):
        raise Refusal(INVALID_REQUEST, "job_id is not a UUID of version 7")
    if abs(jobid.time_of(value) - time.time()) > REPEAT_SECONDS:
        raise Refusal(
            INVALID_REQUEST,
            "the time inside job_id is more than a day from the dispatcher's",
        )
    return value


def identity(call: protocol.Call, submitted_by: str | None) -> str:
    """Return the text that two submissions of the same call share."""
    return protocol.canonical(
        [
            call.host,
            call.procedure,
            call.arguments,
            call.queue,
            call.info,
            call.timeout,
            call.max_exec_time,
            submitted_by,
        ]
    )
