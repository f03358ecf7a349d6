"""Calls through a dispatcher::

    rpc = HarpCaller("localhost")
    job = rpc.web01.restart_service("nginx")
    job.get()

One connection for each request, opened by :meth:`HarpCaller._open` and nowhere else.
Objects of this module hold no connection (iterators do), so that threads may share
them and they may be pickled; an iterator belongs to one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from . import jobid, protocol, wire
from .address import Address, parse_address
from .channel import CONNECT_TIMEOUT, Channel, ConnectionLost, ReplyTimeout
from .errors import (
    CancelledException,
    CommunicationError,
    Refusal,
    RemoteError,
    RemoteException,
)

# What is answered at once may still wait for a disk, or, when cancelling, for the
# daemon to end the call's processes.
_REPLY_TIMEOUT = 60  # s

# A call whose reply was lost is sent again under its id: so often, and for so long
# after the first time, with growing pauses.
_SUBMIT_TRIES = 8
_SUBMIT_TIME = 30  # s
_FIRST_PAUSE = 0.1  # s


class _Marker:
    """A value that is told apart with ``is``, after copying and pickling too."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def __reduce__(self) -> str:
        return self._name


CALL_NOT_FINISHED = _Marker("CALL_NOT_FINISHED")
"""In place of the result of a call that hasn't ended."""

CALL_CANCELLED = _Marker("CALL_CANCELLED")
"""In place of the result of a call that was cancelled."""


class HarpCaller:
    """A dispatcher. Its attributes are hosts: ``rpc.web01``, or ``rpc("web-01")`` for
    names that Python's aren't like.

    :param host: name or address of the dispatcher's machine, ``HOST:PORT``, or
        ``unix:/path`` of its Unix socket
    :param port: TCP port, if ``host`` names none
    :param connect_timeout: seconds that connecting may take
    :raises ValueError: for what is no address
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = protocol.CLIENT_PORT,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        # An IPv6 address without brackets has several colons, and no port.
        has_port = host.count(":") == 1 or host.startswith(("unix:", "["))
        self._address = parse_address(host, port) if has_port else Address(host, port)
        self._connect_timeout = connect_timeout

    def __repr__(self) -> str:
        return f"<HarpCaller {self._address}>"

    def __getattr__(self, name: str) -> RemoteServer:
        # Names that Python itself looks for, when copying for example, are no hosts.
        if name.startswith("_"):
            raise AttributeError(name)
        return self.host(name)

    def __call__(self, host: str) -> RemoteServer:
        return self.host(host)

    def host(
        self,
        name: str,
        queue: dict | None = None,
        concurrency: int | None = None,
        timeout: int | None = None,
        max_exec_time: int | None = None,
        info: object = None,
    ) -> RemoteServer:
        """Return a host, with options for the calls there.

        :param name: as in the dispatcher's list of hosts
        :param queue: name of the queue that calls wait in, any JSON object; None: they
            start at once
        :param concurrency: how many calls of that queue may run at a time, for the
            first call in it; None: one
        :param timeout: seconds, longest gap between two messages of a call; None: as
            configured in the dispatcher
        :param max_exec_time: seconds that a call may run as a whole; None: as
            configured in the dispatcher
        :param info: anything JSON, kept with the call's status
        :raises ValueError: for a concurrency without a queue
        """
        if concurrency is not None and queue is None:
            raise ValueError("concurrency is a queue's, and there is no queue")
        options = {
            "queue": queue,
            "concurrency": concurrency,
            "timeout": timeout,
            "max_exec_time": max_exec_time,
            "info": info,
        }
        return RemoteServer(self, name, options)

    def job(self, job_id: str) -> RemoteCall:
        """Return the call with that id. Nothing is asked yet."""
        return RemoteCall(self, job_id)

    def request(self, message: dict) -> dict:
        """Send a request as it stands in the protocol and return the reply, of a
        stream its first line.

        :raises RemoteError: if it is refused
        :raises CommunicationError: if there is no reply
        """
        return self._exchange(wire.encode(message), None)

    # --- for this module ---

    def _open(self, line: bytes) -> Channel:
        """Send a request and return the connection that the reply comes on."""
        channel = Channel(self._address, self._connect_timeout)
        try:
            channel.send(line)
        except BaseException:
            channel.close()
            raise
        return channel

    def _exchange(
        self, line: bytes, timeout: float | None, parse=lambda message: message
    ):
        channel = self._open(line)
        try:
            return _receive(channel, timeout, parse)
        finally:
            channel.close()

    def _ask(self, message: dict, parse, timeout: float | None = _REPLY_TIMEOUT):
        return self._exchange(wire.encode(message), timeout, parse)

    def _submit(self, call: protocol.Call) -> str:
        """Submit a call and return its id. Sent again as long as the reply is lost:
        under the same id nothing runs twice, with a dispatcher that knows of such ids
        (ours do, HarpCaller's before 1.0 don't)."""
        line = wire.encode(protocol.build_call(call))
        end = time.monotonic() + _SUBMIT_TIME
        pause = _FIRST_PAUSE
        lost: CommunicationError | None = None
        for _ in range(_SUBMIT_TRIES):
            if lost is not None:
                time.sleep(pause)
                pause *= 2
            try:
                timeout = max(0.0, end - time.monotonic())
                return self._exchange(line, timeout, protocol.parse_job_id)
            except ReplyTimeout as error:
                lost = error
                break
            except ConnectionLost as error:
                lost = error
            except CommunicationError as error:
                # Before anything was sent, or by somebody who isn't a dispatcher.
                if lost is None:
                    raise
                lost = error
        raise CommunicationError(
            f"{lost}; whether the call was accepted is unknown, its id is {call.job_id}"
        ) from None


def _receive(channel: Channel, timeout: float | None, parse):
    """Return the next message, parsed.

    :raises RemoteError: if it refuses the request
    :raises CommunicationError: if there is none or it isn't what was asked for
    """
    message = channel.receive(timeout)
    try:
        if protocol.refusal_of(message) is not None:
            raise _outcome(protocol.parse_reply_end(message))
        return parse(message)
    except Refusal as fault:
        if (text := protocol.daemon_refusal(message)) is not None:
            raise channel.error(f"is a daemon, not a dispatcher: {text}") from None
        raise channel.error(f"reply is not the protocol: {fault.message}") from None


def _outcome(end: protocol.End | None):
    """What the programmer gets for a call's end; None: it hasn't ended."""
    if end is None:
        return CALL_NOT_FINISHED
    if end.outcome == protocol.RESULT:
        return end.value
    if end.outcome == protocol.CANCELLED:
        return CALL_CANCELLED
    failure = RemoteException if end.outcome == protocol.EXCEPTION else RemoteError
    return failure(**end.value)


class RemoteServer:
    """A host, with options for the calls there. Its attributes are procedures:
    ``rpc.web01.uptime()``, or ``rpc.web01["disk-usage"]()`` for names that Python's
    aren't like. Its text is the host's name."""

    def __init__(self, caller: HarpCaller, host: str, options: dict) -> None:
        self._caller = caller
        self._host = host
        self._options = options

    def __str__(self) -> str:
        return self._host

    def __repr__(self) -> str:
        return f"<RemoteServer {self._host}>"

    def __call__(self, **options: object) -> RemoteServer:
        """Return the same host with some options changed: those of
        :meth:`HarpCaller.host`, by name."""
        return self._caller.host(self._host, **(self._options | options))

    def __getattr__(self, name: str) -> RemoteProcedure:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> RemoteProcedure:
        return RemoteProcedure(self._caller, self._host, name, self._options)

    __iter__ = None  # or Python would count through the procedures 0, 1, 2, …
    __contains__ = None


class RemoteProcedure:
    """A procedure on a host. Called, it submits a call and returns at once."""

    def __init__(
        self, caller: HarpCaller, host: str, procedure: str, options: dict
    ) -> None:
        self._caller = caller
        self._host = host
        self._procedure = procedure
        self._options = options

    def __repr__(self) -> str:
        return f"<RemoteProcedure {self._procedure} on {self._host}>"

    def procedure(self) -> str:
        """Return the procedure's name."""
        return self._procedure

    def host(self) -> str:
        """Return the host's name."""
        return self._host

    def __call__(self, /, *positional: object, **named: object) -> RemoteCall:
        """Submit a call, with positional arguments or with named ones.

        :raises TypeError: for both kinds at once, and for what is not JSON
        :raises ValueError: for numbers and structures that JSON can't hold
        :raises RemoteError: if the dispatcher refuses it
        :raises CommunicationError: if the dispatcher can't be reached, or its answer
            was lost, again and again
        """
        queue = self._options["queue"]
        call = protocol.Call(
            self._host,
            self._procedure,
            either(positional, named),
            timeout=self._options["timeout"],
            max_exec_time=self._options["max_exec_time"],
            queue=None
            if queue is None
            else protocol.Queue(queue, self._options["concurrency"] or 1),
            info=self._options["info"],
            job_id=jobid.make(),
        )
        return RemoteCall(self._caller, self._caller._submit(call))


def either(positional: tuple, named: dict) -> list | dict:
    """Return a call's arguments as they are sent: an array or an object."""
    if positional and named:
        raise TypeError("arguments must be all positional or all named")
    return named or list(positional)


class RemoteCall:
    """A call that was submitted, by this process or another one. All its methods ask
    the dispatcher, and raise:

    - :class:`CommunicationError` if it can't be reached or its reply is lost
    - :class:`RemoteError` if it refuses: ``invalid_jobid`` if it has no such call
    """

    def __init__(self, caller: HarpCaller, job_id: str) -> None:
        self._caller = caller
        self._id = job_id

    def __repr__(self) -> str:
        return f"<RemoteCall {self._id}>"

    def id(self) -> str:
        """Return the job id, which finds this call again: :meth:`HarpCaller.job`."""
        return self._id

    # --- its end ---

    def result(self, wait: bool = True, timeout: float | None = None):
        """Return how the call ended. Nothing that happened to the call is raised.

        :param wait: wait until it ends; False: return at once
        :param timeout: seconds to wait at most; None: for ever
        :returns: the procedure's result; a :class:`RemoteException` if it raised; a
            :class:`RemoteError` if it could not be carried out; CALL_CANCELLED; or
            CALL_NOT_FINISHED
        """
        request = protocol.build_get_result(self._id, wait)
        parse = protocol.parse_result_reply
        if not wait:
            return _outcome(self._caller._ask(request, parse))
        try:
            return _outcome(self._caller._ask(request, parse, timeout))
        except ReplyTimeout:
            return CALL_NOT_FINISHED

    def get(self, wait: bool = True, timeout: float | None = None):
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

    def cancel(self) -> bool:
        """Cancel the call; its processes are gone when this returns.

        :returns: True if it was stopped; False if it had ended, or there is none
        """
        return self._caller._ask(
            protocol.build_cancel(self._id), protocol.parse_cancelled
        )

    # --- its stream ---

    def follow(
        self,
        since: int | None = None,
        recent: int | None = None,
        numbered: bool = False,
    ) -> StreamIterator:
        """Return an iterator over what the call streams, until it ends.

        :param since: number of the first value wanted, from 0
        :param recent: how many of the values already there are wanted, before all new
            ones; with neither: none of them
        :param numbered: iterate over pairs of a value's number and the value
        :raises ValueError: for both since and recent
        """
        _check_position(since, recent)
        request = protocol.build_follow_stream(self._id, since, recent)
        return StreamIterator(self._caller._open(wire.encode(request)), numbered)

    def stream(
        self,
        since: int | None = None,
        recent: int | None = None,
        numbered: bool = False,
    ) -> StreamIterator:
        """Return an iterator over what the call has streamed until now. Parameters as
        for :meth:`follow`; with neither of the first two: from the start."""
        _check_position(since, recent)
        request = protocol.build_read_stream(self._id, since, recent)
        return StreamIterator(self._caller._open(wire.encode(request)), numbered)

    # --- its status ---

    def status(self) -> dict:
        """Return all that is known about the call, as in the protocol
        (``get_status``)."""
        return self._status()[0]

    def procedure(self) -> str:
        """Return the procedure's name."""
        return self._status()[1].procedure

    def args(self) -> list | dict:
        """Return the arguments: a list of positional or a dict of named ones."""
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

    def info(self):
        """Return what was given as ``info`` when the call was submitted, or None."""
        return self._status()[1].info

    def _status(self) -> tuple[dict, protocol.Status]:
        return self._caller._ask(
            protocol.build_get_status(self._id),
            lambda message: (message, protocol.parse_status(message)),
        )


def _check_position(since: int | None, recent: int | None) -> None:
    if since is not None and recent is not None:
        raise ValueError("since and recent exclude each other")


class StreamIterator:
    """Iterates over what a call streams; see :meth:`RemoteCall.follow`. Waits as long
    as it takes. A context manager that closes its connection; so does the end.

    Iterating raises the errors of :class:`RemoteCall`. How the call itself ended is no
    error here: see :meth:`result`.
    """

    def __init__(self, channel: Channel, numbered: bool) -> None:
        self._channel: Channel | None = channel
        self._numbered = numbered
        self._end: protocol.End | None = None

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        if self._channel is None:
            raise StopIteration
        try:
            reply = _receive(self._channel, None, protocol.parse_stream_reply)
        except (CommunicationError, RemoteError):
            self.close()
            raise
        if isinstance(reply, protocol.Packet):
            return tuple(reply) if self._numbered else reply.data
        self._end = reply
        self.close()
        raise StopIteration

    def __enter__(self) -> StreamIterator:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def all(self) -> list:
        """Return all that is left, as a list."""
        return list(self)

    def result(self):
        """Return how the call ended, as :meth:`RemoteCall.result` does, without asking
        for it; CALL_NOT_FINISHED unless its end has been reached."""
        return _outcome(self._end)

    def close(self) -> None:
        """Stop iterating. The call goes on."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
