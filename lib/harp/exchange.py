"""Requests to the dispatcher and their replies, over connections that are kept. What
gets lost is sent again: a read because it does no harm, a call because under the same
id it is the same call; nothing else is.

A dispatcher that knows of no ids from clients (HarpCaller before 1.0) may take a call
that is sent again for another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from . import protocol, wire
from .channel import Channel
from .connections import Connections, Patience
from .errors import (
    SHUTDOWN,
    AccessDenied,
    ConnectFailed,
    ConnectionLost,
    HarpException,
    Refusal,
    RemoteError,
    ReplyTimeout,
    SubmissionLost,
    Unavailable,
    refused,
)
from .settings import Settings

# Requests that are sent before the reply to the first of them is read. Either these or
# the replies are small, so that both ends never wait for each other to read.
_AHEAD = 32


class _Stale(ConnectionLost):
    """A connection that was kept is lost: the dispatcher may have closed it long
    ago."""


class Exchange:
    """Asks one dispatcher. Threads may share it; see :class:`Connections`."""

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self._settings = settings
        self._connections = connections

    def ask(self, message: dict, parse: Callable, is_repeated: bool = True):
        """Send a request that is answered at once, and return the reply, parsed.

        :param is_repeated: send it again if the reply is lost
        :raises RemoteError: if it is refused
        :raises CommunicationError: if there is no reply that is one
        """
        patience = Patience(self._settings)
        timeout = self._settings.timeouts["reply_timeout"]
        return self._send(message, _one(parse), timeout, patience, is_repeated)

    def wait(self, message: dict, parse: Callable, timeout: float | None):
        """As :meth:`ask`, for a reply that may be long in coming.

        :param timeout: seconds; None: for ever
        :raises ReplyTimeout: if there is none in time
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        patience = Patience(self._settings, True, deadline)
        return self._send(message, _one(parse), timeout, patience)

    def read_packets(
        self, message: dict, since: int, limit: int | None
    ) -> tuple[list, protocol.End | None]:
        """Send a request for what a call has streamed.

        :param since: number of the first packet that it asks for
        :param limit: so many packets at most; None: any number
        :returns: the values, and the call's end if these were all
        """

        def read(channel: Channel, deadline: float | None) -> tuple:
            values: list = []
            while True:
                reply = receive(channel, _left(deadline), protocol.parse_stream_reply)
                if not isinstance(reply, protocol.Packet):
                    return values, reply
                check_number(channel, reply, since + len(values))
                if len(values) == limit:
                    # A dispatcher that knows of no limit sends all there is.
                    channel.close()
                    return values, None
                values.append(reply.data)

        timeout = self._settings.timeouts["reply_timeout"]
        return self._send(message, read, timeout, Patience(self._settings))

    def ask_raw(self, message: dict, timeout: float | None) -> dict:
        """Send any request on a connection of its own, and return the first line of the
        reply. Connecting is tried again, the request isn't."""
        wire.encode(message)  # what is no JSON is found before connecting
        channel = self._open(message, Patience(self._settings))
        try:
            return receive(channel, timeout, lambda reply: reply)
        finally:
            channel.close()

    def submit(self, call: protocol.Call) -> str:
        """Submit a call that has an id, and return that.

        :raises SubmissionLost: if it is unknown whether it was accepted
        """
        patience = Patience(self._settings, True)
        timeout = self._settings.timeouts["reply_timeout"]
        message = protocol.build_call(call)
        read = _one(protocol.parse_job_id)
        return self._send(message, read, timeout, patience, job_id=call.job_id)

    def open_stream(
        self, message: dict, patience: Patience, is_new: bool = False
    ) -> Channel:
        """Send a request and return the connection that the lines of its reply come
        on; whoever has read the last one gives it back by :meth:`keep`.

        :param is_new: not on a connection that was kept, which may turn out stale
        """
        line = wire.encode(message)
        if not is_new and (channel := self._connections.take()) is not None:
            channel.send(line)
            return channel
        return self._open(message, patience)

    def keep(self, channel: Channel) -> None:
        """Give a connection back whose last line has been read."""
        self._connections.keep(channel)

    def patience(self) -> Patience:
        """For a reply that is worth being taken up where it broke."""
        return Patience(self._settings, True)

    def _open(self, message: dict, patience: Patience) -> Channel:
        while True:
            try:
                return self._connections.open(message)
            except ConnectFailed as error:
                if not patience.goes_on(error):
                    raise

    def _send(
        self,
        message: dict,
        read: Callable,
        timeout: float | None,
        patience: Patience,
        is_repeated: bool = True,
        job_id: str | None = None,
    ):
        """Send a request, again if need be, and return the reply.

        :param read: reads it, called with the channel and a deadline
        :param job_id: of the call that it submits
        """
        line = wire.encode(message)
        deadline = None if timeout is None else time.monotonic() + timeout
        may_have_arrived = False
        while True:
            try:
                return self._attempt(message, line, read, deadline)
            except HarpException as error:
                may_have_arrived |= isinstance(error, (ConnectionLost, ReplyTimeout))
                if is_repeated and isinstance(error, _Stale):
                    continue  # the next connection is another one
                if is_repeated or isinstance(error, ConnectFailed):
                    if patience.goes_on(error):
                        continue
                if job_id is None or not may_have_arrived or _is_verdict(error):
                    raise
                raise submission_lost(error, job_id) from None

    def _attempt(
        self, message: dict, line: bytes, read: Callable, deadline: float | None
    ):
        channel = self._connections.take()
        is_kept = channel is not None
        try:
            if channel is None:
                channel = self._connections.open(message, deadline)
            else:
                channel.send(line)
            reply = read(channel, deadline)
        except RemoteError:
            # The connection may go on; if not, that will be noticed.
            self._connections.keep(channel)
            raise
        except BaseException as error:
            if channel is not None:
                channel.close()
            if is_kept and isinstance(error, ConnectionLost):
                raise _Stale(str(error)) from None
            raise
        self._connections.keep(channel)
        return reply

    def ask_all(self, messages: list[dict], parse: Callable) -> list:
        """Send requests, all over one connection and without waiting for each reply.
        They are repeated as in :meth:`ask`.

        :returns: for each, its reply, parsed, or the :class:`HarpException` that there
            was instead; :class:`ConnectFailed` means that it was never sent
        """
        replies: list = []
        sent = 0  # so many have been sent, on whatever connection
        patience = Patience(self._settings, True)
        while len(replies) < len(messages):
            channel = self._connections.take()
            is_kept = channel is not None
            begun = len(replies)
            try:
                if channel is None:
                    channel = self._connections.open(messages[begun])
                else:
                    channel.send(wire.encode(messages[begun]))
                sent = max(sent, begun + 1)
                for count in self._converse(channel, messages, parse, replies):
                    sent = max(sent, count)
                    if len(replies) > begun:
                        patience.renew()
                self._connections.keep(channel)
            except HarpException as error:
                if channel is not None:
                    channel.close()
                is_stale = isinstance(error, ConnectionLost) and is_kept
                if not (is_stale or patience.goes_on(error)):
                    lost = ConnectionLost(str(error))
                    replies += [lost] * (sent - len(replies))
                    failed = ConnectFailed(str(error))
                    replies += [failed] * (len(messages) - len(replies))
            except BaseException:
                if channel is not None:
                    channel.close()
                raise
        return replies

    def _converse(self, channel: Channel, messages: list, parse: Callable, replies):
        """Add the replies to the messages that have none yet, the first of which was
        sent; yields how many were sent until then."""
        sent = len(replies) + 1
        while len(replies) < len(messages):
            until = min(len(messages), len(replies) + _AHEAD)
            if sent < until:
                ahead = [wire.encode(message) for message in messages[sent:until]]
                channel.send(b"".join(ahead))
                sent = until
            yield sent
            try:
                timeout = self._settings.timeouts["reply_timeout"]
                replies.append(receive(channel, timeout, parse))
            except RemoteError as error:
                if error.type == SHUTDOWN:
                    raise  # there may be another dispatcher in a moment
                replies.append(error)


def receive(channel: Channel, timeout: float | None, parse: Callable):
    """Return the next message, parsed.

    :raises RemoteError: if it refuses the request
    :raises CommunicationError: if there is none or it isn't what was asked for
    """
    message = channel.receive(timeout)
    try:
        if protocol.refusal_of(message) is not None:
            error = protocol.parse_reply_end(message).value
            raise refused(error["type"], error["message"], error.get("data"))
        return parse(message)
    except Refusal as fault:
        if (text := protocol.daemon_refusal(message)) is not None:
            raise channel.error(f"is a daemon, not a dispatcher: {text}") from None
        raise channel.error(f"reply is not the protocol: {fault.message}") from None


def check_number(channel: Channel, packet: protocol.Packet, expected: int) -> None:
    """Check that a packet is the one that comes next.

    :raises CommunicationError: if it isn't
    """
    if packet.number != expected:
        raise channel.error(
            f"reply is not the protocol: packet {packet.number} in place of {expected}"
        )


def _one(parse: Callable) -> Callable:
    """Return what reads a reply of one line."""
    return lambda channel, deadline: receive(channel, _left(deadline), parse)


def submission_lost(error: Exception, job_id: str) -> SubmissionLost:
    """Return the error for a call that may have been accepted or not.

    :param error: why its reply is missing
    """
    text = f"{error}; whether the call was accepted is unknown, its id is {job_id}"
    return SubmissionLost(text, job_id)


def _is_verdict(error: HarpException) -> bool:
    """Tell whether a dispatcher that refuses a call has looked whether it has it."""
    return isinstance(error, RemoteError) and not isinstance(
        error, (Unavailable, AccessDenied)
    )


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
