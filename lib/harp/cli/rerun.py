"""The command that makes a call again, or those calls of a group that have failed. What
may have had an effect is not repeated unasked."""

from __future__ import annotations

import argparse
import sys

import harp
from harp import protocol

from . import calls, output
from . import options as cli_options


def add_rerun(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_rerun)
    parser.add_argument("job_id", metavar="JOB", nargs="?", help="a call's id")
    option = parser.add_argument
    option(
        "--failed",
        metavar="GROUP",
        help="in place of a JOB: calls of a group that have failed, as a new group",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--yes",
        action="store_true",
        help="don't ask, also where the procedure ran or may have run",
    )
    which.add_argument(
        "--not-run",
        action="store_true",
        help="don't ask: those only where it has certainly not run",
    )
    option("--detach", action="store_true", help="print the new id and leave it alone")
    calls.add_following(parser)


COMMANDS = {"rerun": add_rerun}


def _rerun(options: argparse.Namespace) -> int:
    if (options.job_id is None) == (options.failed is None):
        raise output.UsageError("name either a JOB or --failed GROUP")
    with cli_options.caller(options) as caller:
        if options.failed is not None:
            return _rerun_failed(options, caller)
        return _rerun_one(options, caller)


# --- one call ------------------------------------------------------------------------


def _rerun_one(options: argparse.Namespace, caller: harp.HarpCaller) -> int:
    job = caller.job(options.job_id)
    call = protocol.parse_call_of_status(job.status())
    if call.secret:
        text = f"{options.job_id}: had secret arguments, which nobody is shown"
        return output.fail(output.NOT_CARRIED_OUT, text)
    end = job.result(wait=False)
    if end is harp.CALL_NOT_FINISHED:
        text = f"{options.job_id}: has not ended; cancel it first"
        return output.fail(output.NOT_FINISHED, text)
    if getattr(end, "ran", None) != protocol.RAN_NO:
        what = f"{call.procedure} on {call.host}"
        if options.not_run or not _is_wanted(options, f"{what} {_has_run(end)}", what):
            return output.fail(output.NOT_CARRIED_OUT, "nothing was called")
    server = caller.host(
        call.host,
        queue=call.queue and call.queue.name,
        concurrency=call.queue and call.queue.concurrency,
        timeout=call.timeout,
        max_exec_time=call.max_exec_time,
        info=call.info,
        group=call.group,
        on_behalf_of=call.on_behalf_of,
    )
    positional, named = call.arguments, {}
    if isinstance(call.arguments, dict):
        positional, named = [], call.arguments
    return calls.submit(options, server[call.procedure], positional, named)


def _has_run(end: object) -> str:
    if end is harp.CALL_CANCELLED:
        return "was cancelled, and may have run until then"
    if isinstance(end, harp.RemoteError) and end.ran != protocol.RAN_YES:
        return f"may have run ({end.type})"
    problem = output.describe(end)
    return "has run" if problem is None else f"has run: {problem}"


# --- a group -------------------------------------------------------------------------


def _rerun_failed(options: argparse.Namespace, caller: harp.HarpCaller) -> int:
    from . import many  # here, because one call needs none of it

    group = caller.group(options.failed)
    ends = group.results(wait=False)
    if not ends:
        text = f"there is no call of group {options.failed}"
        return output.fail(output.NOT_CARRIED_OUT, text)
    failed = [
        end
        for end in ends.values()
        if isinstance(end, (harp.RemoteError, harp.RemoteException))
    ]
    have_run = [
        end for end in failed if getattr(end, "ran", None) != protocol.RAN_NO
    ]
    if not failed:
        text = f"no call of group {options.failed} has failed"
        return output.fail(output.NOT_CARRIED_OUT, text)
    ran = protocol.RAN
    if have_run and not options.yes:
        ran = _ask_which(options, len(failed), len(have_run))
    if len(have_run) == len(failed) and ran == (protocol.RAN_NO,):
        return output.fail(output.NOT_CARRIED_OUT, "nothing was called")
    try:
        again = group.run_again(ran)
    except ValueError as error:
        return output.fail(output.NOT_CARRIED_OUT, str(error))
    return many.submitted(options, caller, again)


def _ask_which(options: argparse.Namespace, failed: int, have_run: int) -> tuple:
    """Return which calls to make again, by whether they have run."""
    if options.not_run:
        return (protocol.RAN_NO,)
    fact = f"{have_run} of {failed} calls that failed have run, or may have"
    question = "these, too; n: the others only"
    return protocol.RAN if _is_wanted(options, fact, question) else (protocol.RAN_NO,)


# --- asking --------------------------------------------------------------------------


def _is_wanted(options: argparse.Namespace, fact: str, what: str) -> bool:
    """Ask whether to call again; raises UsageError if there is nobody to be asked."""
    if options.yes:
        return True
    if not output.is_terminal(sys.stdin):
        raise output.UsageError(f"{fact}: say --yes or --not-run")
    output.note(fact)
    return output.confirms(f"call {what}? [y/n] ")
