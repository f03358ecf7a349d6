"""The actions of harpcallerd that list jobs, show, explain and cancel them."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

from harp import config, protocol

from .. import joblist, table, why
from . import ask
from .say import fail


def add_actions(add: Callable) -> None:
    """Add the actions of this module.

    :param add: called with name, function and text of an action, returns its parser
    """
    jobs = add("list", _list, "print the jobs that run, then those that wait")
    jobs.add_argument(
        "--all",
        action="store_true",
        help="all there are, newest first; as with --state and --outcome",
    )
    joblist.add_filters(jobs)
    table.add_option(jobs)
    for name, run, text in (
        ("info", _info, "print all that is known of a job"),
        ("why", _why, "tell why a job waits, what it is at, or how it ended"),
    ):
        action = add(name, run, text)
        action.add_argument("job_id", metavar="JOB")
        table.add_option(action)
    cancel = add("cancel", _cancel, "cancel jobs")
    cancel.add_argument("job_ids", metavar="JOB", nargs="+")


def _list(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    dispatcher = ask.dispatcher(settings)
    wanted = joblist.filters(options)
    if options.all or options.state or options.outcome:
        found = dispatcher.jobs(**wanted)
    else:
        found = itertools.chain.from_iterable(
            dispatcher.jobs(**{**wanted, "state": state})
            for state in (protocol.RUNNING, protocol.QUEUED)
        )
    joblist.show(itertools.islice(found, options.limit), options.json)
    return 0


def _info(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    status = ask.dispatcher(settings).job(options.job_id).status()
    joblist.show_one(status, options.json)
    return 0


def _why(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    reply = ask.ask(settings, protocol.build_explain(options.job_id))
    why.show(reply, options.json)
    return 0


def _cancel(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    dispatcher = ask.dispatcher(settings)
    status = 0
    for job_id in options.job_ids:
        if not dispatcher.job(job_id).cancel():
            status = fail(f"{job_id}: nothing to cancel")
    return status
