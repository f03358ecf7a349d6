"""The reply to ``explain`` in sentences."""

from __future__ import annotations

import time

from harp import protocol
from harp.protocol import explain
from harp.protocol.explain import Ended, Holder, Queued, Running

from . import output, table

_STEPS = {
    explain.STEP_QUEUED: "while it waited",
    explain.STEP_CONNECTING: "while connecting: nothing was sent",
    explain.STEP_CERTIFICATE: "because the host's certificate is not trusted: nothing "
    "was sent",
    explain.STEP_SENDING: "while the request was sent",
    explain.STEP_ACKNOWLEDGEMENT: "before the host's daemon accepted it",
    explain.STEP_RUNNING: "while the procedure was running",
    explain.STEP_STORING: "because the dispatcher could not store it",
}
_RAN = {
    protocol.RAN_NO: "The procedure did not run; it is safe to call it again.",
    protocol.RAN_MAYBE: "Whether the procedure ran is not known.",
    protocol.RAN_YES: "The procedure was running: it can have had an effect.",
}


def show(reply: dict, as_json: bool) -> None:
    """Print the reply."""
    if table.is_for_people(as_json):
        for text in sentences(explain.parse_explanation(reply)):
            output.text(text)
    else:
        output.value(protocol.parse_explain(reply))


def sentences(found: Queued | Running | Ended) -> list[str]:
    """Return what was found out about a job, for people, a line each."""
    if isinstance(found, Queued):
        return _queued(found)
    if isinstance(found, Running):
        return _running(found)
    return _ended(found)


# --- one that waits ------------------------------------------------------------------


def _queued(job: Queued) -> list[str]:
    lines = [f"Job {job.job_id} waits{_in_queue(job.queue)}{_place(job)}."]
    if job.reason in _REASONS:  # or a later version's
        lines.append(_REASONS[job.reason](job))
    lines += [f"  {_holder(holder)}" for holder in job.running]
    more = (job.running_count or 0) - len(job.running)
    if job.running and more > 0:
        lines.append(f"  and {more} more")
    return lines


def _place(job: Queued) -> str:
    if job.position is None:
        return ""
    if job.position == 1:
        return ", and is the next there" if job.queue is not None else ""
    return f", as number {job.position}" + (
        " there" if job.queue is not None else " of those without a queue"
    )


def _runs(count: int, which: str) -> str:
    return f"{count} {which} {'runs' if count == 1 else 'run'}"


_REASONS = {
    explain.QUEUE_IS_FULL: lambda job: (
        f"{_runs(job.running_count, 'of its queue')}, and no more may (concurrency "
        f"{job.concurrency}):"
    ),
    explain.DISPATCHER_IS_FULL: lambda job: (
        f"{_runs(job.all_running, 'in all')}, and no more may (limits.running is "
        f"{job.max_running})."
    ),
    explain.DISPATCHER_STOPS: lambda job: (
        "The dispatcher is stopping and starts no more jobs; it is started after the "
        "dispatcher's next start."
    ),
    explain.NO_THREAD: lambda job: (
        "The dispatcher can't start a thread for it: its machine lacks memory or "
        "processes."
    ),
    explain.ABOUT_TO_START: lambda job: "It is about to be started.",
}


def _holder(holder: Holder) -> str:
    since = table.moment(holder.start)
    return (
        f"{holder.job_id}: {holder.procedure} on {holder.host}, since {since} "
        f"({_ago(holder.start)})"
    )


# --- one that runs -------------------------------------------------------------------


def _running(job: Running) -> list[str]:
    since = f"since {table.moment(job.start)} ({_ago(job.start)})"
    if job.step == explain.STEP_CONNECTING:
        lines = [f"Job {job.job_id} is connecting to {job.host}, {since}."]
    else:
        lines = [
            f"Job {job.job_id} runs on {job.host} ({job.address} port {job.port}), "
            f"{since}."
        ]
        lines.append(_last(job))
    lines.append(_left(job))
    if job.stopping:
        lines.append(f"It is being stopped ({job.stopping}).")
    if job.queue is not None:
        who = f", {job.next} first" if job.next else ""
        behind = job.behind or "none"
        lines.append(f"Behind it wait {behind}{_in_queue(job.queue)}{who}.")
    return lines


def _last(job: Running) -> str:
    if job.last_packet is None:
        return "It has streamed nothing so far."
    when = f"{table.moment(job.last_heard)} ({_ago(job.last_heard)})"
    return f"Its last packet is number {job.last_packet}, of {when}."


def _left(job: Running) -> str:
    whole = f"{table.span(job.max_exec_time_left)} until max_exec_time"
    if job.timeout_left is None:
        return f"Time left: {whole}."
    gap = f"{table.span(job.timeout_left)} for its next message (timeout)"
    return f"Time left: {gap}, {whole}."


# --- one that has ended --------------------------------------------------------------


def _ended(job: Ended) -> list[str]:
    when = f"at {table.moment(job.end)}"
    if job.start is not None and job.end is not None:
        when += f", after {table.span(job.end - job.start)}"
    where = job.host
    if job.address is not None:
        where += f" ({job.address} port {job.port})"
    if job.outcome == protocol.RESULT:
        return [f"Job {job.job_id} on {where} came to its result {when}."]
    if job.outcome == protocol.CANCELLED:
        return [f"Job {job.job_id} on {where} was cancelled {_step(job)}, {when}."]
    if job.outcome == protocol.EXCEPTION:
        return [
            f"Job {job.job_id} on {where} ended {when}: the procedure raised "
            f"{job.type}.",
            f"  {job.message}",
        ]
    lines = [
        f"Job {job.job_id} on {where} failed {_step(job)}, {when}.",
        f"  {job.type}: {job.message}",
    ]
    if job.packets:
        lines.append(f"It had streamed {job.packets} packets.")
    if job.ran in _RAN:
        lines.append(_RAN[job.ran])
    return lines


def _step(job: Ended) -> str:
    return _STEPS.get(job.step, "at a step that is not known")


def _in_queue(name: dict | None) -> str:
    return "" if name is None else f" in queue {protocol.canonical(name)}"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "not known when"
    return f"{table.span(time.time() - seconds)} ago"
