"""The same procedure on many hosts: calls that belong together, under one name, their
group. It stands in the dispatcher's record of each call, so that any process finds them
again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from . import jobid, protocol, wire
from .calls import RemoteCall, make_call
from .errors import (
    ConnectionLost,
    HarpException,
    RemoteError,
    RemoteException,
    ReplyTimeout,
)
from .exchange import submission_lost
from .outcome import CALL_CANCELLED, outcome
from .secret import split_arguments

# For type checkers only, which know the name: it costs what ``import harp`` must not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CANCELLERS = 16  # connections of one that cancels a group

# Whoever waits for calls of a group asks after so many seconds, then less often.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0

# A dispatcher takes no ids from a clock that is further off than its own; so this is
# how long before a group's name was made its calls can have been submitted.
_CLOCK_DIFFERENCE = 24 * 3600  # s


class RemoteServers:
    """Several hosts, with options for the calls there; see :meth:`HarpCaller.hosts`.
    Its attributes are procedures: ``rpc.hosts(names).uptime()``, or
    ``rpc.hosts(names)["disk-usage"]()``. Iterating gives the hosts' names."""

    def __init__(
        self,
        caller,
        names: Iterable[str],
        at_a_time: int | None,
        options: dict,
    ) -> None:
        if isinstance(names, str):
            raise TypeError("names of hosts must be a list, not a string")
        self._caller = caller
        self._names = list(dict.fromkeys(names))
        if not self._names:
            raise ValueError("no host at all")
        if at_a_time is not None and options.get("queue") is not None:
            raise ValueError("at_a_time makes a queue of its own: give no other one")
        if at_a_time is not None and at_a_time < 1:
            raise ValueError("at_a_time must be at least 1")
        self._at_a_time = at_a_time
        # Checks them, and says what the others are.
        self._options = caller.host(self._names[0], **options)._options

    def __repr__(self) -> str:
        return f"<RemoteServers {', '.join(self._names)}>"

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getattr__(self, name: str) -> RemoteProcedures:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> RemoteProcedures:
        return RemoteProcedures(self, name)


class RemoteProcedures:
    """A procedure on several hosts."""

    def __init__(self, servers: RemoteServers, procedure: str) -> None:
        self._servers = servers
        self._procedure = procedure

    def __repr__(self) -> str:
        return f"<RemoteProcedures {self._procedure} on {len(self._servers)} hosts>"

    def __call__(self, /, *positional: object, **named: object) -> Group:
        """Submit a call on each host, all over one connection, and return at once.

        :returns: the group; where a call could not be submitted, its
            ``not_submitted`` says why, and the others are not lost
        :raises HarpException: if none could be submitted: why the first one couldn't
        :raises TypeError: for both kinds of arguments at once, and for what is not JSON
        :raises ValueError: for numbers and structures that JSON can't hold
        """
        servers = self._servers
        arguments, secret = split_arguments(positional, named)
        options = dict(servers._options)
        group = options["group"] = options["group"] or jobid.make()
        if servers._at_a_time is not None:
            options["queue"] = {"group": group}
            options["concurrency"] = servers._at_a_time
        calls = [
            make_call(host, self._procedure, arguments, secret, options)
            for host in servers
        ]
        return _submit(servers._caller, group, calls)


def _submit(caller, group: str, calls: list[protocol.Call]) -> Group:
    # Ids of the same millisecond are in no order by themselves; and this is the one in
    # which the hosts were named, for whoever lists the group.
    ids = sorted(call.job_id for call in calls)
    calls = [call._replace(job_id=job_id) for call, job_id in zip(calls, ids)]
    messages = [protocol.build_call(call) for call in calls]
    wire.encode(messages[0])  # what is no JSON is found before anything is sent
    submitted: dict[str, protocol.Call] = {}
    not_submitted: dict[str, HarpException] = {}
    replies = caller._exchange.ask_all(messages, protocol.parse_job_id)
    for call, reply in zip(calls, replies):
        if isinstance(reply, ConnectionLost):
            reply = submission_lost(reply, call.job_id)
        if isinstance(reply, HarpException):
            not_submitted[call.host] = reply
        else:
            submitted[reply] = call
    if not submitted:
        raise not_submitted[calls[0].host]
    return Group(caller, group, submitted, not_submitted)


class Group:
    """Calls that were submitted under one name, by this process or another one.
    Iterating gives them as they end: see :meth:`as_ended`.

    Its methods raise the errors of :class:`RemoteCall`. One thread uses it.

    :ivar not_submitted: dict from hosts to the :class:`HarpException` because of which
        the call there could not be submitted; known where it was tried only. A
        :class:`SubmissionLost` among them may have been accepted all the same
    """

    def __init__(
        self,
        caller,
        group_id: str,
        submitted: dict[str, protocol.Call] | None = None,
        not_submitted: dict[str, HarpException] | None = None,
    ) -> None:
        self._caller = caller
        self._id = group_id
        # What this process has submitted, by job id; None: the dispatcher is asked.
        self._submitted = submitted
        self.not_submitted = not_submitted or {}

    def __repr__(self) -> str:
        return f"<Group {self._id}>"

    def id(self) -> str:
        """Return the group's name, which finds it again: :meth:`HarpCaller.group`."""
        return self._id

    def calls(self) -> dict[str, RemoteCall]:
        """Return the calls by host. If a host has several, it is the latest."""
        return {
            host: RemoteCall(self._caller, job_id)
            for job_id, host in self._hosts().items()
        }

    def __iter__(self) -> Iterator[RemoteCall]:
        return self.as_ended()

    def as_ended(
        self, timeout: float | None = None, max_failures: int | None = None
    ) -> Iterator[RemoteCall]:
        """Iterate over the calls as they end, those first that have ended already.

        :param timeout: seconds until the last has ended; None: for ever
        :param max_failures: when more calls than that have raised or could not be
            carried out, all others are cancelled, and come as they end. This is done
            here and not by the dispatcher: it needs a client that goes on iterating,
            and calls that have begun meanwhile are cut off
        :raises ReplyTimeout: if they have not all ended in time
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pending = dict.fromkeys(self._hosts())
        left = max_failures
        pause = _FIRST_PAUSE
        while pending:
            ended = self._ended(list(pending))
            for job_id, has_failed in ended.items():
                del pending[job_id]
                if has_failed and left is not None:
                    left -= 1
            if left is not None and left < 0:
                left = None
                self._cancel(list(pending))
            for job_id in ended:
                yield RemoteCall(self._caller, job_id)
            pause = _FIRST_PAUSE if ended else min(2 * pause, _LONGEST_PAUSE)
            if pause == _LONGEST_PAUSE and pending:
                # One that the dispatcher has no more never ends: then this raises.
                self._ends([next(iter(pending))])
            if pending and deadline is not None:
                pause = min(pause, deadline - time.monotonic())
                if pause <= 0:
                    raise ReplyTimeout(f"group {self._id}: {len(pending)} calls go on")
            if pending:
                time.sleep(pause)

    def results(
        self,
        wait: bool = True,
        timeout: float | None = None,
        max_failures: int | None = None,
    ) -> dict[str, Any]:
        """Return how the calls ended, by host: what :meth:`RemoteCall.result` returns,
        CALL_NOT_FINISHED for those that go on; and what ``not_submitted`` holds.

        :param wait: wait until all have ended; False: return at once
        :param timeout: seconds to wait at most; None: for ever
        :param max_failures: as for :meth:`as_ended`
        """
        if wait:
            try:
                for _ in self.as_ended(timeout, max_failures):
                    pass
            except ReplyTimeout:
                pass
        hosts = self._hosts()
        ends = self._ends(list(hosts))
        results: dict[str, Any] = dict(self.not_submitted)
        results.update({host: ends[job_id] for job_id, host in hosts.items()})
        return results

    def cancel(self, on_behalf_of: str | None = None) -> int:
        """Cancel all calls that have not ended, waiting ones first, so that none starts
        meanwhile.

        :param on_behalf_of: the person for whom this is done, to be recorded
        :returns: how many were stopped
        """
        return self._cancel(list(self._hosts()), on_behalf_of)

    def run_again(
        self,
        ran: Iterable[str] = (protocol.RAN_NO,),
        cancelled: bool = False,
        on_behalf_of: str | None = None,
    ) -> Group:
        """Submit the calls again that have failed, in a group of their own.

        :param ran: which of them, by whether the procedure's code was entered (see
            :class:`RemoteError`): ``"no"``, ``"maybe"``, ``"yes"``. A procedure that
            raised was. By default only those that have certainly had no effect
        :param cancelled: those that were cancelled, too, whatever they had done until
            then
        :param on_behalf_of: the person for whom this is done, to be recorded; None: as
            for the calls that it repeats
        :raises ValueError: if there is none to submit, or if one had secret arguments
            and was submitted by another process: the dispatcher doesn't show them
        """
        wanted = set(ran)
        if not wanted <= set(protocol.RAN):
            raise ValueError(f"ran holds something else than {', '.join(protocol.RAN)}")
        ends = self._ends(list(self._hosts()))
        again = [
            job_id
            for job_id, end in ends.items()
            if (_ran(end) in wanted if end is not CALL_CANCELLED else cancelled)
        ]
        if not again:
            raise ValueError(f"group {self._id}: no call to run again")
        group = jobid.make()
        calls = [self._call_again(job_id, group) for job_id in again]
        if on_behalf_of is not None:
            calls = [call._replace(on_behalf_of=on_behalf_of) for call in calls]
        return _submit(self._caller, group, calls)

    # --- what the methods above are made of ---

    def _hosts(self) -> dict[str, str]:
        """Job ids in the order of submission, and their hosts."""
        if self._submitted is not None:
            return {job_id: call.host for job_id, call in self._submitted.items()}
        filters: dict[str, Any] = {"group": self._id}
        if jobid.is_valid(self._id):
            # Made here: nothing older need be looked at.
            filters["from_"] = jobid.time_of(self._id) - _CLOCK_DIFFERENCE
        entries = list(map(protocol.parse_job_entry, self._caller.jobs(**filters)))
        return {job_id: host for job_id, host, _ in reversed(entries)}

    def _ended(self, job_ids: list[str]) -> dict[str, bool]:
        """Those of the calls that have ended, and whether they have failed."""
        ended = {
            job_id: how in protocol.FAILURES
            for job_id, _, how in self._in_state(protocol.DONE, job_ids)
        }
        return {job_id: ended[job_id] for job_id in job_ids if job_id in ended}

    def _in_state(self, state: str, job_ids: list[str]) -> Iterator[tuple]:
        """Those of the calls in a state: id, host, outcome."""
        for begin in range(0, len(job_ids), protocol.LIST_LIMIT):
            ids = job_ids[begin : begin + protocol.LIST_LIMIT]
            yield from map(
                protocol.parse_job_entry, self._caller.jobs(ids=ids, state=state)
            )

    def _ends(self, job_ids: list[str]) -> dict[str, Any]:
        """How the calls ended, as :meth:`RemoteCall.result` returns it."""
        messages = [protocol.build_get_result(job_id, False) for job_id in job_ids]
        replies = self._caller._exchange.ask_all(messages, protocol.parse_result_reply)
        ends = {}
        for job_id, reply in zip(job_ids, replies):
            if isinstance(reply, HarpException):
                raise reply
            ends[job_id] = outcome(reply)
        return ends

    def _cancel(self, job_ids: list[str], on_behalf_of: str | None = None) -> int:
        waiting = {job_id for job_id, _, _ in self._in_state(protocol.QUEUED, job_ids)}
        # The last ones first: the next in a queue could start while others are stopped.
        ordered = [job_id for job_id in reversed(job_ids) if job_id in waiting]
        replies = self._ask_to_cancel(ordered, on_behalf_of)
        running = [job_id for job_id in job_ids if job_id not in waiting]
        replies += self._cancel_together(running, on_behalf_of)
        for reply in replies:
            if isinstance(reply, HarpException):
                raise reply
        return sum(replies)

    def _cancel_together(self, job_ids: list[str], on_behalf_of: str | None) -> list:
        """Cancel several at a time: each is answered when its processes are gone."""
        from concurrent.futures import ThreadPoolExecutor

        slices = [job_ids[k::_CANCELLERS] for k in range(_CANCELLERS) if job_ids[k:]]
        if len(slices) <= 1:
            return self._ask_to_cancel(job_ids, on_behalf_of)
        with ThreadPoolExecutor(len(slices), "harp-cancel") as threads:
            found = threads.map(
                lambda some: self._ask_to_cancel(some, on_behalf_of), slices
            )
            return [reply for replies in found for reply in replies]

    def _ask_to_cancel(self, job_ids: list[str], on_behalf_of: str | None) -> list:
        messages = [protocol.build_cancel(job_id, on_behalf_of) for job_id in job_ids]
        return self._caller._exchange.ask_all(messages, protocol.parse_cancelled)

    def _call_again(self, job_id: str, group: str) -> protocol.Call:
        if self._submitted is not None:
            call = self._submitted[job_id]
        else:
            call = self._caller._exchange.ask(
                protocol.build_get_status(job_id), protocol.parse_call_of_status
            )
            if call.secret:
                raise ValueError(
                    f"call {job_id} had secret arguments, which only the process knows "
                    "that submitted it"
                )
        queue = call.queue
        if queue is not None and queue.name == {"group": self._id}:
            queue = queue._replace(name={"group": group})
        return call._replace(job_id=jobid.make(), group=group, queue=queue)


def _ran(end: object) -> str | None:
    """Whether a call that failed has run; None: it hasn't failed."""
    if isinstance(end, RemoteException):
        return protocol.RAN_YES
    if isinstance(end, RemoteError):
        return end.ran or protocol.RAN_MAYBE
    return None
