"""The commands that look at calls, wait for them, or cancel them."""

from __future__ import annotations

import argparse
import itertools
import time

import harp
from harp import protocol

from . import joblist, listings, output
from . import options as cli_options

_MOST = 100  # calls that are listed unless asked for otherwise


def add_result(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_result)
    cli_options.add_job(parser)
    parser.add_argument(
        "--no-wait", action="store_true", help="exit with 75 if the call has not ended"
    )
    _add_patience(parser)
    cli_options.add_formats(parser)


def add_status(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_status)
    cli_options.add_job(parser)
    cli_options.add_formats(parser)


def add_wait(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_wait)
    _add_jobs(parser, "wait for the calls of a group, and print how they end")
    _add_patience(parser)
    cli_options.add_timestamps(parser)
    cli_options.add_interrupt(parser)
    cli_options.add_formats(parser)


def add_cancel(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_cancel)
    _add_jobs(parser, "cancel all calls of a group, those first that wait")


def add_why(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_why)
    cli_options.add_job(parser)
    cli_options.add_formats(parser)


def add_list(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_list)
    joblist.add_filters(parser)
    parser.add_argument(
        "--all", action="store_true", help=f"not only the newest {_MOST}"
    )
    cli_options.add_formats(parser)


def add_queues(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_queues)
    cli_options.add_formats(parser)


COMMANDS = {
    "result": add_result,
    "status": add_status,
    "wait": add_wait,
    "cancel": add_cancel,
    "why": add_why,
    "list": add_list,
    "queues": add_queues,
}


def _add_jobs(parser: argparse.ArgumentParser, group_help: str) -> None:
    parser.add_argument("job_ids", metavar="JOB", nargs="*", help="a call's id")
    parser.add_argument("--group", metavar="GROUP", help=group_help)


def _add_patience(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=cli_options.natural,
        help="exit with 75 if it takes longer",
    )


# --- one call ------------------------------------------------------------------------


def _result(options: argparse.Namespace) -> int:
    with cli_options.caller(options) as caller:
        job = caller.job(options.job_id)
        result = job.result(wait=not options.no_wait, timeout=options.timeout)
    if not (options.json or options.jsonl):
        return output.outcome(result)
    output.value({"job_id": options.job_id} | output.as_message(result))
    if (problem := output.describe(result)) is not None:
        output.fail(output.status_of(result), problem)
    return output.status_of(result)


def _status(options: argparse.Namespace) -> int:
    with cli_options.caller(options) as caller:
        status = caller.job(options.job_id).status()
    joblist.show_one(status, options.json or options.jsonl)
    return 0


def _why(options: argparse.Namespace) -> int:
    from . import why  # here, because no other command needs it

    request = protocol.build_explain(options.job_id)
    with cli_options.caller(options) as caller:
        reply = caller.request(request, cli_options.REPLY_SECONDS)
    why.show(reply, options.json or options.jsonl)
    return 0


# --- several -------------------------------------------------------------------------


def _check_jobs(options: argparse.Namespace) -> None:
    if bool(options.job_ids) == (options.group is not None):
        raise output.UsageError("name either one JOB or more, or a --group")


def _wait(options: argparse.Namespace) -> int:
    _check_jobs(options)
    with cli_options.caller(options) as caller:
        if options.group is not None:
            from . import many

            return many.wait(options, caller)
        if len(options.job_ids) == 1:
            status, _ = _await(options, caller, options.job_ids[0], options.timeout)
            return status
        return _wait_for_several(options, caller)


def _wait_for_several(options: argparse.Namespace, caller: harp.HarpCaller) -> int:
    end = None if options.timeout is None else time.monotonic() + options.timeout
    documents = []
    statuses = set()
    for job_id in options.job_ids:
        left = None if end is None else max(0.0, end - time.monotonic())
        status, document = _await(options, caller, job_id, left)
        statuses.add(status)
        documents.append(document)
    if options.json:
        output.value(documents)
    if output.NOT_FINISHED in statuses:
        return output.NOT_FINISHED
    return output.SOME_FAILED if statuses != {0} else 0


def _await(
    options: argparse.Namespace,
    caller: harp.HarpCaller,
    job_id: str,
    timeout: float | None,
) -> tuple[int, dict]:
    """Wait for a call; return the exit status, and what ``--json`` is to print."""
    try:
        result = caller.job(job_id).result(timeout=timeout)
    except harp.RequestRefused as refusal:
        result = refusal  # it says nothing of the other calls
    except KeyboardInterrupt:
        cli_options.leave_at_next_interrupt()
        if options.cancel_on_interrupt:
            output.note("cancelling; Ctrl-C once more leaves at once")
            for other in options.job_ids:
                caller.job(other).cancel()
        raise
    if (problem := output.describe(result)) is not None:
        output.note(f"{job_id}: {problem}")
    document = {"job_id": job_id} | output.as_message(result)
    if options.jsonl or (options.json and len(options.job_ids) == 1):
        output.value(document)
    return output.status_of(result), document


def _cancel(options: argparse.Namespace) -> int:
    _check_jobs(options)
    with cli_options.caller(options) as caller:
        if options.group is not None:
            # By threads of its own, which would be waited for.
            cli_options.leave_at_next_interrupt()
            count = caller.group(options.group).cancel()
            if not count:
                text = f"nothing to cancel in group {options.group}"
                return output.fail(output.NOT_CARRIED_OUT, text)
            output.note(f"cancelled {count} calls")
            return 0
        status = 0
        for job_id in options.job_ids:
            if not caller.job(job_id).cancel():
                text = "nothing to cancel: the call has ended, or there is no such call"
                status = output.fail(output.NOT_CARRIED_OUT, f"{job_id}: {text}")
        return status


# --- listings ------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    wanted = joblist.filters(options)
    most = options.limit
    if most is None and not options.all:
        most = _MOST
    with cli_options.caller(options) as caller:
        # One more, to see whether that is all.
        found = caller.jobs(**{**wanted, "limit": None if most is None else most + 1})
        listings.show(options, itertools.islice(found, most), joblist.show)
        if options.limit is None and most is not None and next(found, None):
            output.note(f"the newest {most}; there are more: --limit N, or --all")
    return 0


def _queues(options: argparse.Namespace) -> int:
    with cli_options.caller(options) as caller:
        listings.show(options, caller.queues(), listings.show_queues)
    return 0
