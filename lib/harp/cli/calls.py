"""The commands that make one call and follow what it streams. Several hosts at once are
in ``many``."""

from __future__ import annotations

import argparse

import harp
from harp import protocol
from harp.calls import make_call
from harp.secret import split_arguments

from . import hostnames, output
from . import options as cli_options
from .report import Report


def add_call(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=call)
    parser.add_argument(
        "host",
        metavar="HOST[,HOST...]",
        help="its name; 'web*' stands for all that the dispatcher knows",
    )
    parser.add_argument("procedure", metavar="PROCEDURE")
    cli_options.add_arguments(parser)
    cli_options.add_call(parser)
    option = parser.add_argument
    option(
        "--job-id",
        metavar="ID",
        type=cli_options.new_job_id,
        help="its id, a new UUID of version 7: the same call under the same id is run "
        "once, however often it is submitted",
    )
    option(
        "--at-a-time",
        metavar="N",
        type=cli_options.count,
        help="of several hosts, call on so many at a time",
    )
    option(
        "--max-failures",
        metavar="N",
        type=cli_options.natural,
        help="of several hosts, cancel the other calls when more than so many failed",
    )
    option(
        "--detach",
        action="store_true",
        help="print the call's id, of several hosts the group's, and leave it alone",
    )
    add_following(parser)


def add_following(parser: argparse.ArgumentParser) -> None:
    cli_options.add_timestamps(parser)
    cli_options.add_interrupt(parser)
    cli_options.add_formats(parser)


def add_stream(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=stream)
    cli_options.add_job(parser)
    cli_options.add_position(parser)
    cli_options.add_formats(parser)


def add_follow(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=follow)
    cli_options.add_job(parser)
    cli_options.add_position(parser)
    cli_options.add_interrupt(parser)
    cli_options.add_formats(parser)


COMMANDS = {"call": add_call, "stream": add_stream, "follow": add_follow}


def call(options: argparse.Namespace) -> int:
    positional, named = cli_options.call_arguments(options)
    server_options = cli_options.call_options(options)
    with cli_options.caller(options) as caller:
        if hostnames.is_several(options.host):
            from . import many  # here, because one host needs none of it

            if options.job_id is not None:
                raise output.UsageError("--job-id is for one host")
            return many.call(options, caller, server_options, positional, named)
        for name in ("at_a_time", "max_failures"):
            if getattr(options, name) is not None:
                text = f"--{name.replace('_', '-')} is for several hosts"
                raise output.UsageError(text)
        if options.job_id is not None:
            job = _submit_under_id(options, caller, server_options, positional, named)
            return _go_on(options, job)
        server = caller.host(options.host, **server_options)
        return submit(options, server[options.procedure], positional, named)


def _submit_under_id(
    options: argparse.Namespace,
    caller: harp.HarpCaller,
    server_options: dict,
    positional: list,
    named: dict,
) -> harp.RemoteCall:
    arguments, secret = split_arguments(tuple(positional), named)
    where = (options.host, options.procedure)
    call = make_call(*where, arguments, secret, server_options)
    request = protocol.build_call(call._replace(job_id=options.job_id))
    reply = caller.request(request, cli_options.REPLY_SECONDS)
    return caller.job(protocol.parse_job_id(reply))


def submit(
    options: argparse.Namespace,
    procedure: harp.RemoteProcedure,
    positional: list,
    named: dict,
) -> int:
    """Make a call and follow it, or print its id. Returns the exit status."""
    try:
        job = procedure(*positional, **named)
    except KeyboardInterrupt:
        output.note("interrupted; whether the call was submitted is not known:")
        output.note(f"  {cli_options.command(options, 'list', '--limit', '1')}")
        return output.INTERRUPTED
    except harp.SubmissionLost as lost:
        if options.command == "call":
            output.note(f"made again with --job-id {lost.job_id}, it is run once only")
        raise
    return _go_on(options, job)


def _go_on(options: argparse.Namespace, job: harp.RemoteCall) -> int:
    if not options.detach:
        return follow_job(options, job, 0)
    if options.json or options.jsonl:
        output.value({"job_id": job.id()})
    else:
        output.text(job.id())
    return 0


def stream(options: argparse.Namespace) -> int:
    report = Report(options, options.job_id)
    with cli_options.caller(options) as caller:
        job = caller.job(options.job_id)
        with job.stream(options.since, options.recent, numbered=True) as values:
            for number, value in values:
                report.packet(number, values.time, value)
            if options.json:
                output.value(report.document(values.result()))
    return 0


def follow(options: argparse.Namespace) -> int:
    with cli_options.caller(options) as caller:
        job = caller.job(options.job_id)
        return follow_job(options, job, options.since, options.recent)


def follow_job(
    options: argparse.Namespace,
    job: harp.RemoteCall,
    since: int | None = None,
    recent: int | None = None,
) -> int:
    """Print what a call streams until it ends, and how that is; return the exit
    status. A Ctrl-C leaves it, or cancels it, as the options say."""
    report = Report(options, job.id())
    position = since
    try:
        with job.follow(since, recent, numbered=True) as values:
            for number, value in values:
                report.packet(number, values.time, value)
                position = number + 1
            return report.end(values.result())
    except KeyboardInterrupt:
        cli_options.leave_at_next_interrupt()
        if options.cancel_on_interrupt:
            return _cancel(job)
        _tell_how_to_go_on(options, job, position)
        return output.INTERRUPTED
    except harp.CommunicationError:
        _tell_how_to_go_on(options, job, position)
        raise


def _cancel(job: harp.RemoteCall) -> int:
    output.note(f"cancelling call {job.id()}; Ctrl-C once more leaves at once")
    if job.cancel():
        output.note("it is cancelled")
    else:
        output.note("it had ended")
    return output.INTERRUPTED


def _tell_how_to_go_on(
    options: argparse.Namespace, job: harp.RemoteCall, position: int | None
) -> None:
    start = [] if position is None else ["--since", str(position)]
    cancel = cli_options.command(options, "cancel", job.id())
    follow = cli_options.command(options, "follow", *start, job.id())
    output.note(f"no longer following call {job.id()}, which is not cancelled")
    output.note(f"  to cancel it: {cancel}")
    output.note(f"  to follow on: {follow}")
