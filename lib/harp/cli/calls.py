"""The commands that make a call, read it or cancel it."""

from __future__ import annotations

import argparse
import shlex

import harp
from harp import protocol
from harp.address import parse_address
from harp.arguments import parse_arguments, parse_value

from . import output

# --- what the command line must hold; ValueError says what is wrong -----------------


def check_call(options: argparse.Namespace) -> None:
    """Turn the texts of the command line into values."""
    check_job(options)
    options.arguments = parse_arguments(options.arguments)
    if options.queue is not None:
        options.queue = parse_value(options.queue)
        if not isinstance(options.queue, dict):
            raise ValueError("--queue must be a JSON object")
    elif options.concurrency is not None:
        raise ValueError("--concurrency needs a --queue")
    for name in ("concurrency", "timeout", "max_exec_time"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
    if options.info is not None:
        options.info = parse_value(options.info)


def check_job(options: argparse.Namespace) -> None:
    try:
        address = parse_address(options.dispatcher, protocol.CLIENT_PORT)
    except ValueError as error:
        raise ValueError(f"--dispatcher {error}") from None
    options.caller = (
        harp.HarpCaller(address.host, address.port)
        if address.path is None
        else harp.HarpCaller(str(address))
    )
    for name in ("since", "recent"):
        number = getattr(options, name, None)
        if number is not None and number < 0:
            raise ValueError(f"--{name} must not be negative")


# --- the commands -------------------------------------------------------------------


def call(options: argparse.Namespace) -> int:
    server = options.caller.host(
        options.host,
        queue=options.queue,
        concurrency=options.concurrency,
        timeout=options.timeout,
        max_exec_time=options.max_exec_time,
        info=options.info,
    )
    procedure = server[options.procedure]
    if isinstance(options.arguments, dict):
        job = procedure(**options.arguments)
    else:
        job = procedure(*options.arguments)
    if options.detach:
        print(job.id(), flush=True)
        return 0
    return _follow(options, job, since=0)


def result(options: argparse.Namespace) -> int:
    job = options.caller.job(options.job_id)
    return output.outcome(job.result(wait=not options.no_wait))


def status(options: argparse.Namespace) -> int:
    output.value(options.caller.job(options.job_id).status())
    return 0


def stream(options: argparse.Namespace) -> int:
    job = options.caller.job(options.job_id)
    with job.stream(options.since, options.recent) as values:
        for value in values:
            output.value(value)
    return 0


def follow(options: argparse.Namespace) -> int:
    job = options.caller.job(options.job_id)
    return _follow(options, job, options.since, options.recent)


def cancel(options: argparse.Namespace) -> int:
    if options.caller.job(options.job_id).cancel():
        return 0
    return output.fail(
        output.NOT_CARRIED_OUT,
        "nothing to cancel: the call has ended, or there is no such call",
    )


def _follow(
    options: argparse.Namespace,
    job: harp.RemoteCall,
    since: int | None = None,
    recent: int | None = None,
) -> int:
    position = since
    try:
        with job.follow(since, recent, numbered=True) as values:
            for number, value in values:
                output.value(value)
                position = number + 1
            return output.outcome(values.result())
    except (KeyboardInterrupt, harp.CommunicationError):
        command = shlex.join([output.program(), "--dispatcher", options.dispatcher])
        start = "" if position is None else f" --since {position}"
        output.note(f"no longer following call {job.id()}, which is not cancelled")
        output.note(f"  to cancel it: {command} cancel {job.id()}")
        output.note(f"  to follow on: {command} follow{start} {job.id()}")
        raise
