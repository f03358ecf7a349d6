"""Reading what a call streams, also when connections break."""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable

from . import protocol
from .channel import Channel
from .errors import ConnectionLost, HarpException, ReplyTimeout, RequestRefused
from .exchange import Exchange, check_number, receive
from .outcome import outcome

# For type checkers only, which know the name: it costs what ``import harp`` must not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class StreamIterator:
    """Iterates over what a call streams; see :meth:`RemoteCall.follow`. A context
    manager that closes its connection; so does the end.

    If its connection breaks, or the dispatcher starts anew, it goes on where it was, as
    long as that is done with within ``resume_for`` seconds. Iterating raises the errors
    of :class:`RemoteCall`, and after them nothing more comes;
    :class:`ReplyTimeout` alone may be followed by values. How the call itself ended is
    no error here: see :meth:`result`.

    One thread iterates; another one may :meth:`close` it meanwhile.

    :ivar time: when the dispatcher got the value that came last, in seconds since the
        epoch; None: there was none yet, or it doesn't tell
    """

    def __init__(
        self,
        exchange: Exchange,
        request: Callable[[int | None], dict],
        position: int | None,
        numbered: bool,
        timeout: float | None,
        can_restart: bool = True,
    ) -> None:
        """Made by :class:`RemoteCall`.

        :param request: returns the request for the packets from a number on; None: for
            those that were asked for at first
        :param position: number of the first packet wanted; None: not known
        :param can_restart: whether it may be asked for again before the first packet
        """
        self._exchange = exchange
        self._request = request
        self._position = position
        self._numbered = numbered
        self._timeout = timeout
        self.time: float | None = None
        self._end: protocol.End | None = None
        self._can_restart = can_restart
        self._is_closed = False
        self._is_broken = False
        # Held by the thread that waits for a value; who can't get it doesn't close the
        # channel, but interrupts it.
        self._reading = allocate_lock()
        self._patience = exchange.patience()
        self._channel: Channel | None = exchange.open_stream(
            request(position), self._patience, is_new=not can_restart
        )

    def __iter__(self) -> StreamIterator:
        return self

    def __next__(self) -> Any:
        with self._reading:
            try:
                reply = None if self._is_closed else self._next_reply()
            except HarpException as error:
                if not self._is_closed:
                    if not isinstance(error, ReplyTimeout):
                        self._is_closed = True
                    raise
                reply = None
            finally:
                if self._is_closed:
                    self._drop()
        if reply is None:
            raise StopIteration
        self.time = reply.time
        return (reply.number, reply.data) if self._numbered else reply.data

    def __enter__(self) -> StreamIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def all(self) -> list:
        """Return all that is left, as a list."""
        return list(self)

    def result(self) -> Any:
        """Return how the call ended, as :meth:`RemoteCall.result` does, without asking
        for it; CALL_NOT_FINISHED unless its end has been reached."""
        return outcome(self._end)

    def close(self) -> None:
        """Stop iterating, in whatever thread. The call goes on."""
        self._is_closed = True
        if self._reading.acquire(blocking=False):
            self._drop()
            self._reading.release()
        elif (channel := self._channel) is not None:
            channel.interrupt()

    # --- whoever calls these holds _reading ---

    def _next_reply(self) -> protocol.Packet | None:
        """The next packet; None: there are no more."""
        while not self._is_closed:
            try:
                if self._channel is None:
                    self._channel = self._exchange.open_stream(
                        self._request(self._position), self._patience
                    )
                    continue  # it may have been closed meanwhile
                reply = receive(
                    self._channel, self._timeout, protocol.parse_stream_reply
                )
            except (ConnectionLost, RequestRefused) as error:
                if not self._can_restart or not self._patience.goes_on(error):
                    raise
                self._is_broken = True
                self._drop()
            else:
                if self._is_broken:
                    self._is_broken = False
                    self._patience.renew()
                return self._take(reply)
        return None

    def _take(
        self, reply: protocol.Packet | protocol.End | None
    ) -> protocol.Packet | None:
        if isinstance(reply, protocol.Packet):
            if self._position is not None:
                check_number(self._channel, reply, self._position)
            self._position = reply.number + 1
            self._can_restart = True
            return reply
        self._end = reply
        self._is_closed = True
        channel, self._channel = self._channel, None
        self._exchange.keep(channel)
        return None

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
