"""The actions of harpcallerd for the job log and the dispatcher's figures: check it,
remove old jobs, print metrics."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from harp import config
from harp.duration import parse_duration
from harp.protocol import admin

from .. import output, table
from . import exposition
from .ask import ask
from .say import fail, say

FAULTS = 1
"""Exit status of ``check-log`` if it found some."""


def add_actions(add: Callable) -> None:
    """Add the actions of this module.

    :param add: called with name, function and text of an action, returns its parser
    """
    check = add("check-log", _check_log, "check the job log; changes nothing")
    check.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        help="a job log (default: the one that is configured)",
    )
    check.set_defaults(needs_config=lambda options: options.directory is None)
    table.add_option(check)
    prune = add("prune-jobs", _prune, "remove jobs that ended long ago")
    prune.add_argument(
        "--age",
        type=_age,
        metavar="AGE",
        help='older than that, like "30d" (default: max_age as configured)',
    )
    table.add_option(prune)
    metrics = add("metrics", _metrics, "print figures, as Prometheus reads them")
    metrics.add_argument("--json", action="store_true", help="a line for each sample")


def _age(text: str) -> float:
    try:
        return parse_duration(text)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- check-log ----------------------------------------------------------------------


def _check_log(
    options: argparse.Namespace, settings: config.DispatcherConfig | None
) -> int:
    # Here, because whoever asks something else need not load it.
    from harp.dispatcher.checklog import LogCheck

    directory = options.directory or settings.stream_directory
    try:
        check = LogCheck(directory)
    except OSError as error:
        return fail(f"{directory}: {error.strerror}")
    if check.holder is not None:
        say(
            f"the dispatcher, process {check.holder}, is at work there: "
            "jobs in active change while they are read"
        )
    for_people = table.is_for_people(options.json)
    count = 0
    for fault in check.faults():
        count += 1
        if for_people:
            place = "" if fault.offset is None else f" byte {fault.offset}:"
            output.text(f"{fault.path}:{place} {fault.text}")
        else:
            output.value(fault._asdict())
    say(f"{directory}: {check.jobs} jobs, {count} faults")
    return FAULTS if count else 0


# --- prune-jobs ---------------------------------------------------------------------


def _prune(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    jobs = size = 0
    for_people = table.is_for_people(options.json)
    since = None
    while True:
        reply = ask(settings, admin.build_prune(options.age, since))
        more, more_size, since = admin.parse_pruned(reply)
        jobs += more
        size += more_size
        if for_people:
            # In place of what was there: it goes on for a while.
            end = "\n" if since is None else "\r"
            print(f"{jobs} jobs removed, {size} bytes", end=end, flush=True)
        if since is None:
            break
    if not for_people:
        output.value({"pruned": jobs, "bytes": size})
    return 0


# --- metrics ------------------------------------------------------------------------


def _metrics(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    metrics = admin.parse_metrics(ask(settings, admin.build_get_metrics()))
    if options.json:
        for metric in metrics:
            for labels, value in metric.samples:
                output.value(
                    {
                        "name": metric.name,
                        "type": metric.type,
                        "labels": labels,
                        "value": value,
                    }
                )
    else:
        # In UTF-8, whatever the locale is.
        output.line(exposition.render(metrics).encode(errors="backslashreplace"))
    return 0
