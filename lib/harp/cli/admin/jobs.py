"""The actions of harpcallerd that list jobs, show and cancel them. Listings are JSON, a
line for each entry."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from harp import config, protocol

from .. import output
from . import ask


def add_actions(add: Callable) -> None:
    """Add the actions of this module.

    :param add: called with name, function and text of an action, returns its parser
    """
    jobs = add("list", _list, "print the jobs that have not ended, newest first")
    jobs.add_argument("--all", action="store_true", help="those that have ended too")
    info = add("info", _info, "print the status of a job")
    info.add_argument("job_id", metavar="JOB")
    cancel = add("cancel", _cancel, "cancel jobs")
    cancel.add_argument("job_ids", metavar="JOB", nargs="+")


def _list(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    dispatcher = ask.dispatcher(settings)
    before = None
    while True:
        request = protocol.build_list_jobs(before=before, limit=protocol.LIST_LIMIT)
        jobs, before = protocol.parse_job_list(dispatcher.request(request))
        for job in jobs:
            if options.all or not protocol.has_ended(job):
                output.value(job)
        if before is None:
            return 0


def _info(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    output.value(ask.dispatcher(settings).job(options.job_id).status())
    return 0


def _cancel(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    dispatcher = ask.dispatcher(settings)
    status = 0
    for job_id in options.job_ids:
        if not dispatcher.job(job_id).cancel():
            output.note(f"harpcallerd: {job_id}: nothing to cancel")
            status = output.NOT_CARRIED_OUT
    return status
