"""Listings that both commands print."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from harp import protocol
from harp.protocol.listed import parse_queue_entry

from . import output, table


def show(
    options: argparse.Namespace, rows: Iterable, show_rows: Callable[..., None]
) -> None:
    """Print a listing as ``--json`` and ``--jsonl`` say.

    :param show_rows: prints it, called with the rows and whether JSON is wanted
    """
    if options.json:
        output.value(list(rows))
    else:
        show_rows(rows, options.jsonl)


def show_queues(queues: Iterable[dict], as_json: bool) -> None:
    table.show(queues, _QUEUE, as_json, parse_queue_entry)


def show_hosts(hosts: Iterable[dict], as_json: bool) -> None:
    table.show(hosts, HOST, as_json)


_QUEUE = [
    table.Column("QUEUE", lambda queue: protocol.canonical(queue.name)),
    table.Column("CONCURRENCY", lambda queue: queue.concurrency),
    table.Column("RUNNING", lambda queue: queue.running),
    table.Column("WAITING", lambda queue: queue.waiting),
    table.Column("NEXT", lambda queue: queue.oldest, whole=True),
]
HOST = [
    table.Column(key.upper(), lambda host, key=key: host.get(key))
    for key in protocol.build_host_entry("", "", 0)
]
