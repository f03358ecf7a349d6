"""A call on several hosts: submitted as a group, watched until the last one has ended.
Each is printed when it ends, its host before each line."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable

import harp
from harp import protocol
from harp.errors import INVALID_REQUEST, Refusal
from harp.protocol.listed import FullStatus, parse_full_status

from . import hostnames, output, table
from . import options as cli_options
from .progress import Progress
from .report import Report

# Pauses between looking at the calls: s.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.5
_BATCH = 500  # calls that are asked for at a time


def call(
    options: argparse.Namespace,
    caller: harp.HarpCaller,
    server_options: dict,
    positional: list,
    named: dict,
) -> int:
    """Make the calls and return the exit status."""
    names = hostnames.find_hosts(caller, options.host)
    if options.at_a_time is not None and options.queue is not None:
        raise output.UsageError("--at-a-time makes a queue of its own: no --queue")
    servers = caller.hosts(names, options.at_a_time, **server_options)
    try:
        group = servers[options.procedure](*positional, **named)
    except KeyboardInterrupt:
        output.note("interrupted; which calls were submitted is not known:")
        output.note(f"  {cli_options.command(options, 'list')}")
        return output.INTERRUPTED
    return submitted(options, caller, group)


def submitted(
    options: argparse.Namespace, caller: harp.HarpCaller, group: harp.Group
) -> int:
    """Watch a group that was just submitted, or print its id; return the exit
    status."""
    jobs = {job.id(): host for host, job in group.calls().items()}
    if options.detach:
        for host, error in group.not_submitted.items():
            output.note(f"{host}: not submitted: {error}")
        if options.json or options.jsonl:
            output.value({"group": group.id(), "jobs": {jobs[id]: id for id in jobs}})
        else:
            output.text(group.id())
        return output.SOME_FAILED if group.not_submitted else 0
    watch = _Watch(options, caller, group.id(), jobs)
    return watch.run(group.not_submitted, getattr(options, "max_failures", None))


def wait(options: argparse.Namespace, caller: harp.HarpCaller) -> int:
    """Watch a group that was submitted before; return the exit status."""
    statuses = map(parse_full_status, caller.jobs(group=options.group))
    jobs = {status.job_id: status.host for status in statuses}
    if not jobs:
        text = f"there is no call of group {options.group}"
        return output.fail(output.NOT_CARRIED_OUT, text)
    jobs = dict(reversed(jobs.items()))  # as they were submitted
    return _Watch(options, caller, options.group, jobs).run({}, None, options.timeout)


class _Watch:
    """Waits for calls of a group and prints them as they end.

    :param jobs: job ids and their hosts
    """

    def __init__(
        self,
        options: argparse.Namespace,
        caller: harp.HarpCaller,
        group_id: str,
        jobs: dict[str, str],
    ) -> None:
        self._options = options
        self._caller = caller
        self._group_id = group_id
        self._jobs = jobs
        self._pending = dict(jobs)
        self._failed = 0
        self._documents: list[dict] = []
        # Host, how it ended, FullStatus or None: the rows of the closing table.
        self._rows: list[tuple[str, object, FullStatus | None]] = []

    def run(
        self,
        not_submitted: dict[str, harp.HarpException],
        max_failures: int | None,
        timeout: float | None = None,
    ) -> int:
        """Watch until all have ended, and return the exit status.

        :param not_submitted: hosts that could not be called, and why
        :param max_failures: cancel the other calls when more have failed
        :param timeout: seconds; None: as long as it takes
        """
        self._progress = Progress(len(self._jobs) + len(not_submitted))
        try:
            self._tell_not_submitted(not_submitted)
            has_ended = self._watch(max_failures, timeout)
        except KeyboardInterrupt:
            return self._interrupted()
        except harp.CommunicationError:
            self._progress.hide()
            self._tell_how_to_go_on()
            raise
        finally:
            self._progress.hide()
        if self._options.json:
            output.value({"group": self._group_id, "hosts": self._documents})
        if not has_ended:
            text = f"{len(self._pending)} calls have not ended"
            return output.fail(output.NOT_FINISHED, text)
        if not self._options.json and not self._options.jsonl:
            self._close()
        return output.SOME_FAILED if self._failed else 0

    def _watch(self, max_failures: int | None, timeout: float | None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while self._pending:
            statuses = list(self._look())
            if len(statuses) < len(self._pending):
                self._refuse_to_wait(statuses)
            ended = [status for status in statuses if status.state == protocol.DONE]
            for status in ended:
                self._tell(status)
            has_failed = max_failures is not None and self._failed > max_failures
            if has_failed and self._pending:
                self._give_up()
                max_failures = None
            running = sum(status.state == protocol.RUNNING for status in statuses)
            waiting = len(self._pending) - running
            self._progress.show(running, waiting, self._failed)
            if not self._pending:
                break
            if end is not None and time.monotonic() >= end:
                return False
            pause = _FIRST_PAUSE if ended else min(pause * 1.5, _LONGEST_PAUSE)
            time.sleep(pause)
        return True

    def _look(self) -> Iterable[FullStatus]:
        """Return the status of each call that is not known to have ended."""
        ids = list(self._pending)
        for begin in range(0, len(ids), _BATCH):
            some = ids[begin : begin + _BATCH]
            # The dispatcher lists the newest first; here the first hosts come first.
            listed = list(self._caller.jobs(ids=some))
            for status in map(parse_full_status, reversed(listed)):
                if status.job_id not in self._pending:
                    text = f"it lists {status.job_id!a}, which was not asked for"
                    raise Refusal(INVALID_REQUEST, text)
                yield status

    def _refuse_to_wait(self, statuses: list[FullStatus]) -> None:
        """Raise what the dispatcher says of a call that it lists no more: such a one
        would be waited for, for ever."""
        listed = {status.job_id for status in statuses}
        for job_id in self._pending.keys() - listed:
            self._caller.job(job_id).status()

    def _tell(self, status: FullStatus) -> None:
        """Print a call that has ended."""
        self._progress.hide()
        host = self._jobs[status.job_id]
        report = Report(self._options, status.job_id, host)
        job = self._caller.job(status.job_id)
        with job.stream(numbered=True) as values:
            for number, value in values:
                report.packet(number, values.time, value)
            result = values.result()
        if self._options.json:
            self._documents.append(report.document(result))
            report.tell_problem(result)
        else:
            report.end(result)
        self._failed += output.status_of(result) != 0
        self._rows.append((host, result, status))
        self._pending.pop(status.job_id, None)  # it may be listed twice

    def _tell_not_submitted(self, errors: dict[str, harp.HarpException]) -> None:
        for host, error in errors.items():
            self._failed += 1
            self._rows.append((host, error, None))
            output.note(f"{host}: not submitted: {error}")
            document = {"host": host, "not_submitted": str(error)}
            if self._options.json:
                self._documents.append(document)
            elif self._options.jsonl:
                output.value(document)

    def _give_up(self) -> None:
        self._progress.hide()
        output.note(f"{self._failed} calls have failed: cancelling the others")
        self._caller.group(self._group_id).cancel()

    def _close(self) -> None:
        """Print the closing table, which is no data."""
        output.note("")
        width = table.terminal_width(sys.stderr)
        for text in table.lines(sorted(self._rows, key=_order), _COLUMNS, width):
            output.note(text)
        good = len(self._rows) - self._failed
        output.note(f"{good} of {len(self._rows)} succeeded; group {self._group_id}")

    # --- interrupted ---

    def _interrupted(self) -> int:
        cli_options.leave_at_next_interrupt()
        self._progress.hide()
        if self._options.cancel_on_interrupt:
            output.note("cancelling the calls; Ctrl-C once more leaves at once")
            count = self._caller.group(self._group_id).cancel()
            output.note(f"cancelled {count} calls")
        else:
            self._tell_how_to_go_on()
        return output.INTERRUPTED

    def _tell_how_to_go_on(self) -> None:
        group = ("--group", self._group_id)
        cancel = cli_options.command(self._options, "cancel", *group)
        wait = cli_options.command(self._options, "wait", *group)
        left = f"{len(self._pending)} of {len(self._jobs)} calls"
        output.note(f"no longer waiting for {left}, which are not cancelled")
        output.note(f"  to cancel them: {cancel}")
        output.note(f"  to wait for all: {wait}")


def _order(row: tuple) -> tuple:
    """The failures last, where they are seen."""
    return output.status_of(row[1]) != 0, row[0]


def _outcome(row: tuple) -> str:
    _, result, status = row
    if status is None:
        return "not submitted"
    kind = getattr(result, "type", None)
    return f"{status.outcome} {kind}" if kind else status.outcome


def _ran(row: tuple) -> str | None:
    """Whether the procedure ran, of a call that has failed."""
    if isinstance(row[1], harp.RemoteException):
        return protocol.RAN_YES
    return getattr(row[1], "ran", None)


def _took(row: tuple) -> str | None:
    status = row[2]
    if status is None or status.start is None or status.end is None:
        return None
    return table.span(status.end - status.start)


_COLUMNS = [
    table.Column("HOST", lambda row: row[0]),
    table.Column("OUTCOME", _outcome),
    table.Column("RAN", _ran),
    table.Column("TOOK", _took),
    table.Column("JOB", lambda row: row[2] and row[2].job_id, whole=True),
]
