"""A call that was submitted: its end, its stream, its status."""

from __future__ import annotations

from collections import namedtuple

from . import jobid, protocol
from .errors import (
    CancelledException,
    ConnectionLost,
    RemoteError,
    RemoteException,
    ReplyTimeout,
)
from .exchange import Exchange
from .outcome import CALL_CANCELLED, CALL_NOT_FINISHED, outcome
from .proc import Result
from .streams import StreamIterator

# For type checkers only, which know the name: it costs what ``import harp`` must not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Poll(namedtuple("Poll", ("packets", "next", "end"))):
    """What :meth:`RemoteCall.poll` returns.

    :ivar packets: list of the values that were streamed, from ``since`` on
    :ivar next: number to ask for next time
    :ivar end: None: there are or will be more; else how the call ended, and these were
        all: a :class:`Result`, a :class:`RemoteException`, a :class:`RemoteError` or
        CALL_CANCELLED
    """

    __slots__ = ()


class RemoteCall:
    """A call that was submitted, by this process or another one. All its methods but
    :meth:`id` ask the dispatcher, and raise:

    - :class:`CommunicationError` if it can't be reached or its reply is lost
    - :class:`RequestRefused` if it refuses: :class:`NoSuchCall` if it has no such call

    Threads may share it.
    """

    def __init__(self, caller, job_id: str) -> None:
        self._caller = caller
        self._id = job_id

    def __repr__(self) -> str:
        return f"<RemoteCall {self._id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteCall) and self._id == other._id

    def __hash__(self) -> int:
        return hash(self._id)

    @property
    def _exchange(self) -> Exchange:
        return self._caller._exchange

    def id(self) -> str:
        """Return the job id, which finds this call again: :meth:`HarpCaller.job`."""
        return self._id

    # --- its end ---

    def result(self, wait: bool = True, timeout: float | None = None) -> Any:
        """Return how the call ended. Nothing that happened to the call is raised.

        :param wait: wait until it ends; False: return at once
        :param timeout: seconds to wait at most; None: for ever; 0: as ``wait=False``
        :returns: the procedure's result; a :class:`RemoteException` if it raised; a
            :class:`RemoteError` if it could not be carried out; CALL_CANCELLED; or
            CALL_NOT_FINISHED
        """
        if timeout is not None and timeout <= 0:
            wait = False
        request = protocol.build_get_result(self._id, wait)
        parse = protocol.parse_result_reply
        if not wait:
            return outcome(self._exchange.ask(request, parse))
        try:
            return outcome(self._exchange.wait(request, parse, timeout))
        except ReplyTimeout:
            return CALL_NOT_FINISHED

    def get(self, wait: bool = True, timeout: float | None = None) -> Any:
        """Return the procedure's result, or CALL_NOT_FINISHED. Parameters as for
        :meth:`result`.

        :raises RemoteException: if the procedure raised
        :raises RemoteError: if the call could not be carried out
        :raises CancelledException: if it was cancelled
        """
        result = self.result(wait, timeout)
        if result is CALL_CANCELLED:
            raise CancelledException(f"call {self._id} was cancelled")
        if isinstance(result, (RemoteException, RemoteError)):
            raise result
        return result

    def cancel(self, on_behalf_of: str | None = None) -> bool:
        """Cancel the call; its processes are gone when this returns.

        :param on_behalf_of: the person for whom this is done, to be recorded
        :returns: True if it was stopped; False if it had ended, or there is none
        """
        request = protocol.build_cancel(self._id, on_behalf_of)
        parse = protocol.parse_cancelled
        try:
            return self._exchange.ask(request, parse, is_repeated=False)
        except ConnectionLost:
            if self._exchange.ask(request, parse):
                return True
        # It has ended; maybe by the first try.
        try:
            return self.result(wait=False) is CALL_CANCELLED
        except RemoteError:
            return False

    # --- its stream ---

    def follow(
        self,
        since: int | None = None,
        recent: int | None = None,
        numbered: bool = False,
        timeout: float | None = None,
    ) -> StreamIterator:
        """Return an iterator over what the call streams, until it ends. It takes a
        connection for itself.

        :param since: number of the first value wanted, from 0
        :param recent: how many of the values already there are wanted, before all new
            ones; with neither: none of them
        :param numbered: iterate over pairs of a value's number and the value
        :param timeout: seconds to wait for the next value; :class:`ReplyTimeout` if
            none comes, and the iteration may go on after it; None: for ever
        :raises ValueError: for both since and recent, and for negative ones
        """
        _check_position(since, recent)
        if since is None:
            since, recent = self._first_wanted(recent or 0)

        def request(position: int | None) -> dict:
            wanted = recent if position is None else None
            return protocol.build_follow_stream(self._id, position, wanted)

        can_restart = since is not None
        return StreamIterator(
            self._exchange, request, since, numbered, timeout, can_restart
        )

    def _first_wanted(self, recent: int) -> tuple[int | None, int | None]:
        """Number of the first packet wanted, so that a stream that breaks before it has
        begun can be taken up at the right one. A dispatcher that doesn't tell how many
        there are is asked for recent ones."""
        request = protocol.build_get_status(self._id)
        packets = self._exchange.ask(request, protocol.packets_of)
        return (None, recent) if packets is None else (max(0, packets - recent), None)

    def stream(
        self,
        since: int | None = None,
        recent: int | None = None,
        numbered: bool = False,
    ) -> StreamIterator:
        """Return an iterator over what the call has streamed until now. Parameters as
        for :meth:`follow`; with neither of the first two: from the start."""
        _check_position(since, recent)
        if recent is None:
            since = since or 0

        def request(position: int | None) -> dict:
            wanted = recent if position is None else None
            return protocol.build_read_stream(self._id, position, wanted)

        timeout = self._caller._settings.timeouts["reply_timeout"]
        return StreamIterator(self._exchange, request, since, numbered, timeout)

    def poll(self, since: int = 0, limit: int | None = 1000) -> Poll:
        """Return what the call has streamed since the last time, and whether it has
        ended, in one request: what a page that is asked again and again needs.

        :param since: number of the first value wanted: what the last poll called next
        :param limit: so many values at most; None: all
        :raises ValueError: for a negative since or a limit below 1
        """
        _check_position(since, None)
        if limit is not None and limit < 1:
            raise ValueError("limit must be at least 1")
        request = protocol.build_read_stream(self._id, since, limit=limit)
        packets, end = self._exchange.read_packets(request, since, limit)
        if end is None:
            return Poll(packets, since + len(packets), None)
        ended = Result(end.value) if end.outcome == protocol.RESULT else outcome(end)
        return Poll(packets, since + len(packets), ended)

    # --- its status ---

    def status(self) -> dict:
        """Return all that is known about the call, as in the protocol
        (``get_status``)."""
        return self._status()[0]

    def explain(self) -> dict:
        """Return why the call waits, or how it ended, as in the protocol
        (``explain``)."""
        return self._exchange.ask(
            protocol.build_explain(self._id), protocol.parse_explain
        )

    def procedure(self) -> str:
        """Return the procedure's name."""
        return self._status()[1].procedure

    def args(self) -> list | dict:
        """Return the arguments: a list of positional or a dict of named ones. Secret
        ones are masked."""
        return self._status()[1].arguments

    def host(self) -> str:
        """Return the host's name."""
        return self._status()[1].host

    def submit_time(self) -> int:
        """Return when the call was submitted, in seconds since the epoch."""
        return self._status()[1].submit

    def start_time(self) -> int | None:
        """Return when the call left its queue, in seconds since the epoch; None: it
        hasn't."""
        return self._status()[1].start

    def end_time(self) -> int | None:
        """Return when the call ended, in seconds since the epoch; None: it hasn't."""
        return self._status()[1].end

    def info(self) -> Any:
        """Return what was given as ``info`` when the call was submitted, or None."""
        return self._status()[1].info

    def _status(self) -> tuple[dict, protocol.Status]:
        return self._exchange.ask(
            protocol.build_get_status(self._id),
            lambda message: (message, protocol.parse_status(message)),
        )


def _check_position(since: int | None, recent: int | None) -> None:
    if since is not None and recent is not None:
        raise ValueError("since and recent exclude each other")
    for name, number in (("since", since), ("recent", recent)):
        if number is not None and number < 0:
            raise ValueError(f"{name} must not be negative")


def make_call(
    host: str, procedure: str, arguments: list | dict, secret: tuple, options: dict
) -> protocol.Call:
    """Return a call as it is submitted, with an id of its own.

    :param options: those of :meth:`HarpCaller.host`
    """
    queue = options["queue"]
    if queue is not None:
        queue = protocol.Queue(queue, options["concurrency"] or 1)
    return protocol.Call(
        host,
        procedure,
        arguments,
        timeout=options["timeout"],
        max_exec_time=options["max_exec_time"],
        queue=queue,
        info=options["info"],
        job_id=jobid.make(),
        group=options["group"],
        on_behalf_of=options["on_behalf_of"],
        secret=secret,
    )
