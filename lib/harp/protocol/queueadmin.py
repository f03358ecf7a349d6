"""What the admin socket can be asked about a queue, and what it replies."""

from __future__ import annotations

from collections import namedtuple

from .parts import field
from .requests import build_request

ListQueue = namedtuple("ListQueue", ("name",))
CancelQueue = namedtuple("CancelQueue", ("name",))


def build_list_queue(name: dict) -> dict:
    return build_request("list_queue", name)


def build_cancel_queue(name: dict) -> dict:
    return build_request("cancel_queue", name)


def build_queue_jobs(running: list[str], waiting: list[str]) -> dict:
    """The reply to ``list_queue``: ids, each list in its order."""
    return {"running": running, "waiting": waiting}


def parse_queue_jobs(reply: dict) -> tuple[list[str], list[str]]:
    """Return what :func:`build_queue_jobs` was given."""
    return field(reply, "running", list), field(reply, "waiting", list)


def build_queue_cancelled(waiting: int, running: list[str]) -> dict:
    """The reply to ``cancel_queue``.

    :param waiting: how many waited; they have ended
    :param running: ids of those that ran; they have been told to end
    """
    return {"cancelled": waiting, "stopping": running}


def parse_queue_cancelled(reply: dict) -> tuple[int, list[str]]:
    """Return what :func:`build_queue_cancelled` was given."""
    return field(reply, "cancelled", int), field(reply, "stopping", list)


def build_cancelled_count(waiting: int, running: int) -> dict:
    """What ``harpcallerd queue-cancel`` prints: how many of the jobs that it cancelled
    waited, and how many ran."""
    return {"waiting": waiting, "running": running}


QUEUE_PARSERS = {
    "list_queue": lambda message: ListQueue(field(message, "list_queue", dict)),
    "cancel_queue": lambda message: CancelQueue(field(message, "cancel_queue", dict)),
}
"""For :data:`harp.protocol.admin.ADMIN_PARSERS`."""
