"""What only the admin socket can be asked, and what it replies."""

from __future__ import annotations

from collections import namedtuple

from .requests import build_request, without_options

GetDispatcherStatus = namedtuple("GetDispatcherStatus", ())
Stop = namedtuple("Stop", ())


def build_get_dispatcher_status() -> dict:
    return build_request("status", True)


def build_stop() -> dict:
    return build_request("stop", True)


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


ADMIN_PARSERS = {
    "status": without_options("status", GetDispatcherStatus()),
    "stop": without_options("stop", Stop()),
}
"""For :func:`parse_request`: what the admin socket takes beside all else."""
