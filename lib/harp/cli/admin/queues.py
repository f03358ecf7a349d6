"""The actions of harpcallerd that list queues and cancel all jobs of one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import harp
from harp import config
from harp.protocol import listed, queueadmin

from .. import joblist, listings, output, table
from ..options import queue_name
from . import ask

_BATCH = 500  # jobs whose status is asked for at a time


def add_actions(add: Callable) -> None:
    """Add the actions of this module.

    :param add: called with name, function and text of an action, returns its parser
    """
    queues = add(
        "queue-list",
        _list,
        "print the queues there are; of one, its jobs: those that run, then those that "
        "wait, in the order in which they will start",
    )
    queues.add_argument(
        "queue",
        metavar="QUEUE",
        nargs="?",
        type=queue_name,
        help="its name, a JSON object",
    )
    table.add_option(queues)
    cancel = add(
        "queue-cancel",
        _cancel,
        "cancel all jobs of a queue: first those that wait, so that none of them "
        "starts meanwhile",
    )
    cancel.add_argument("queue", metavar="QUEUE", type=queue_name, help="its name")
    table.add_option(cancel)


def _list(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    dispatcher = ask.dispatcher(settings)
    if options.queue is None:
        listings.show_queues(dispatcher.queues(), options.json)
        return 0
    reply = ask.ask(settings, queueadmin.build_list_queue(options.queue))
    running, waiting = queueadmin.parse_queue_jobs(reply)
    joblist.show(_statuses(dispatcher, running + waiting), options.json)
    return 0


def _statuses(dispatcher: harp.HarpCaller, job_ids: list[str]) -> Iterator[dict]:
    """The status of jobs, in the order of their ids in the list."""
    for begin in range(0, len(job_ids), _BATCH):
        ids = job_ids[begin : begin + _BATCH]
        found = {
            listed.parse_full_status(status).job_id: status
            for status in dispatcher.jobs(ids=ids)
        }
        yield from (found[job_id] for job_id in ids if job_id in found)


def _cancel(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    dispatcher = ask.dispatcher(settings)
    reply = ask.ask(settings, queueadmin.build_cancel_queue(options.queue))
    waiting, told = queueadmin.parse_queue_cancelled(reply)
    # They have been told; this waits until they are gone.
    ends = [dispatcher.job(job_id).result() for job_id in told]
    running = sum(end is harp.CALL_CANCELLED for end in ends)
    if table.is_for_people(options.json):
        output.text(f"cancelled {waiting} jobs that waited and {running} that ran")
        if running < len(told):
            output.text(f"{len(told) - running} more came to their end by themselves")
    else:
        output.value(queueadmin.build_cancelled_count(waiting, running))
    return 0
