"""Jobs as people see them: columns of a listing, filters from the command line, and
what is known of one."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

from harp import protocol
from harp.protocol.listed import FullStatus, parse_full_status

from . import output, table
from .options import argument, count, queue_name
from .times import parse_time


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which jobs are listed."""
    option = parser.add_argument
    option("--queue", metavar="JSON", type=queue_name, help="name of their queue")
    option("--host", help="where they are called")
    option("--state", choices=protocol.STATES)
    option("--outcome", choices=protocol.OUTCOMES)
    option("--procedure")
    option("--group", help="the group that they were submitted in")
    time_help = (
        "of submission: 2026-11-23, 2026-11-23T18:30 (a Z behind it: UTC), or how long "
        "ago, as 2h or 30d"
    )
    option(
        "--from",
        metavar="TIME",
        dest="from_",
        type=argument(parse_time),
        help=f"earliest time {time_help}",
    )
    option(
        "--to",
        metavar="TIME",
        type=argument(lambda text: parse_time(text, is_end=True)),
        help="latest one",
    )
    option("--limit", metavar="N", type=count, help="as many at most")


def filters(options: argparse.Namespace) -> dict:
    """Return the filters that these options are, for :meth:`HarpCaller.jobs`."""
    names = ("queue", "host", "state", "outcome", "procedure", "group", "from_", "to")
    return {name: getattr(options, name) for name in (*names, "limit")}


def show(statuses: Iterable[dict], as_json: bool) -> None:
    """Print a listing of jobs."""
    table.show(statuses, _COLUMNS, as_json, parse_full_status)


def show_one(message: dict, as_json: bool) -> None:
    """Print all that a status says."""
    if not table.is_for_people(as_json):
        output.value(message)
        return
    status = parse_full_status(message)
    table.show_fields(
        [
            ("job", status.job_id),
            ("state", status.state),
            ("outcome", status.outcome),
            ("host", status.host),
            ("procedure", status.procedure),
            ("arguments", _json(status.arguments)),
            ("secret", ", ".join(map(str, status.secret)) or None),
            ("submitted", table.moment(status.submit)),
            ("started", table.moment(status.start)),
            ("ended", table.moment(status.end)),
            ("packets", status.packets),
            ("queue", status.queue and _json(status.queue.name)),
            ("concurrency", status.queue and status.queue.concurrency),
            ("timeout", table.span(status.timeout)),
            ("max_exec_time", table.span(status.max_exec_time)),
            ("info", None if status.info is None else _json(status.info)),
            ("group", status.group),
            ("submitted by", status.submitted_by),
            ("on behalf of", status.on_behalf_of),
        ]
    )


def _took(status: FullStatus) -> str | None:
    """How long it ran, or has been running."""
    if status.start is None:
        return None
    return table.span((status.end or time.time()) - status.start)


_COLUMNS = [
    table.Column("JOB", lambda status: status.job_id, whole=True),
    table.Column("STATE", lambda status: status.outcome or status.state, whole=True),
    table.Column("HOST", lambda status: status.host),
    table.Column("PROCEDURE", lambda status: status.procedure),
    table.Column("SUBMITTED", lambda status: table.moment(status.submit), whole=True),
    table.Column("TOOK", _took, whole=True),
    table.Column("BY", lambda status: status.submitted_by),
    table.Column("QUEUE", lambda status: status.queue and _json(status.queue.name)),
]


def _json(value: object) -> str:
    return protocol.canonical(value)
