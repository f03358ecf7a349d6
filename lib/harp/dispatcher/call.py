"""One job, from leaving its queue to its end: connects to the host's daemon, sends the
request, stores what comes back. All of it in the job's thread, which alone uses the
connection and decides the end; others ask it to stop through the job.

::

    step          an error is  what it waits for    asked to stop
    connecting    ran: no      resolver, TCP, TLS   cancelled, or back to the queue
    sending       ran: no      the daemon to read   ends at once
    sent          ran: maybe   acknowledgement      half-close, read on until closed
    acknowledged  ran: yes     packets, end         half-close, read on until closed
"""

from __future__ import annotations

import gc
import logging
import ssl
import threading
import time

from .. import protocol, wire
from ..config import DispatcherConfig
from ..errors import (
    NETWORK_ERROR,
    PROTOCOL_ERROR,
    SHUTDOWN,
    STORAGE_ERROR,
    TIMEOUT,
    Refusal,
    reason,
)
from ..log import fields
from .connecting import Connector, NotConnected, where
from .disk import StorageError
from .job import STOP_CANCELLED, Job
from .jobfile import Record, Start, Writer

logger = logging.getLogger(__name__)

_LONG_LINE = 1024 * 1024  # bytes

_CANCELLED = protocol.End(protocol.CANCELLED, True)


class _Ended(Exception):
    """Raised to leave with the job's end; None: it goes back to its queue."""

    def __init__(self, end: protocol.End | None) -> None:
        super().__init__(end)
        self.end = end


class Caller:
    """Runs jobs. :meth:`run` is called by many threads, each with its own job."""

    def __init__(self, config: DispatcherConfig, connector: Connector) -> None:
        self.config = config
        self.connector = connector
        # Held while a long line is decoded, which may take twenty times its memory:
        # one at a time.
        self._decoding = threading.Lock()

    def apply(self, config: DispatcherConfig) -> None:
        """Use another configuration from now on, for jobs that start."""
        self.config = config

    def decode(self, line: bytes) -> dict:
        """Decode a daemon's line. Errors as for :func:`wire.decode`."""
        if len(line) <= _LONG_LINE:
            return wire.decode(line)
        with self._decoding:
            # It would look again and again at millions of new objects, none of them
            # garbage, and all other threads wait for the interpreter meanwhile.
            gc.disable()
            try:
                return wire.decode(line)
            finally:
                gc.enable()

    def run(
        self, job: Job, record: Record, writer: Writer, waker: wire.Waker
    ) -> protocol.End | None:
        """Run a job and return its end; None: nothing was sent, it goes back to its
        queue.

        :param waker: set when the job is asked to stop
        """
        attempt = _Attempt(self, job, record, writer, waker)
        try:
            attempt.connect()
            attempt.send()
            attempt.receive()
        except _Ended as ended:
            return ended.end
        finally:
            attempt.close()


class _Attempt:
    """A job and its connection."""

    def __init__(
        self,
        caller: Caller,
        job: Job,
        record: Record,
        writer: Writer,
        waker: wire.Waker,
    ) -> None:
        self._caller = caller
        self._config = caller.config
        self._job = job
        self._record = record
        self._call = record.call
        self._writer = writer
        self._waker = waker
        self._connection: wire.Connection | None = None
        self._ran = protocol.RAN_NO
        self._streams = False
        self._packets = 0
        self._unstored = ""  # why packets could not be stored
        # Once it is cut off: as what it ends, unless an end arrives, and until when.
        self._cut_off: tuple[str, str] | None = None
        self._grace_deadline = 0.0
        self._run_deadline = time.monotonic() + record.max_exec_time
        self._message_deadline = 0.0

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _fail(self, type: str, message: str, data: object = None) -> _Ended:
        return _Ended(protocol.error_end(type, message, self._ran, data))

    # --- connecting: nothing is sent yet ---

    def connect(self) -> None:
        connector = self._caller.connector
        try:
            self._host = connector.host(self._call.host)
            self._connection, self._endpoint = connector.connect(
                self._host, self._waker, self._run_deadline, self._leave_if_stopped
            )
        except NotConnected as error:
            raise self._fail(error.type, str(error)) from None
        except wire.Woken:
            self._leave_if_stopped()
            raise
        except wire.DeadlineExceeded:
            raise self._fail(TIMEOUT, self._run_timeout_text()) from None

    def _leave_if_stopped(self) -> None:
        """Nothing but a stop wakes the job's thread from here on."""
        if self._job.stop == STOP_CANCELLED:
            raise _Ended(_CANCELLED)
        if self._job.stop is not None:
            raise _Ended(None)

    # --- sending ---

    def send(self) -> None:
        """Store the start, then send the request."""
        address, port = self._endpoint.address[:2]
        self._store_start(Start(self._job.start, address, port))
        request = protocol.DaemonCall(
            self._call.procedure,
            self._call.arguments,
            self._host.user,
            self._host.password,
            self._job.id,
        )
        line = wire.encode(protocol.build_daemon_call(request))
        deadline = min(time.monotonic() + self._record.timeout, self._run_deadline)
        try:
            # Its last byte is the newline: as long as that isn't taken, the daemon has
            # no request.
            self._connection.send(line, deadline)
        except wire.Woken:
            if self._job.stop == STOP_CANCELLED:
                raise _Ended(_CANCELLED) from None
            raise self._fail(SHUTDOWN, "the dispatcher was stopped") from None
        except wire.DeadlineExceeded:
            raise self._fail(TIMEOUT, "the daemon doesn't read the request") from None
        except OSError:
            # The daemon doesn't take the request, and may have said why.
            return
        self._ran = protocol.RAN_MAYBE

    # --- sent ---

    def receive(self) -> None:
        """Read and store what the daemon sends, until the job's end."""
        self._expect_message()
        while True:
            self._look_whether_to_go_on()
            try:
                lines = self._connection.readlines(self._deadline())
            except wire.Woken:
                self._waker.clear()
                continue
            except wire.DeadlineExceeded:
                self._run_out_of_time()
                continue
            except wire.EndOfStream as end:
                text = f"{where(self._host)}: {end} before the call's end"
                raise self._broken(NETWORK_ERROR, text) from None
            except Refusal as refusal:
                raise self._not_understood(refusal.message) from None
            except ssl.SSLError as error:
                raise self._not_understood(f"TLS: {error.reason or error}") from None
            except OSError as error:
                text = f"{where(self._host)}: {reason(error)}"
                raise self._broken(NETWORK_ERROR, text) from None
            self._take(lines)
            self._expect_message()

    def _expect_message(self) -> None:
        self._message_deadline = time.monotonic() + self._record.timeout

    def _deadline(self) -> float:
        if self._cut_off is not None:
            return self._grace_deadline
        return min(self._message_deadline, self._run_deadline)

    def _look_whether_to_go_on(self) -> None:
        """Lines may come without a pause, so waiting for one is not the only place to
        look at the clock."""
        if self._cut_off is not None:
            if time.monotonic() >= self._grace_deadline:
                self._run_out_of_time()
        elif self._job.stop == STOP_CANCELLED:
            self._cut(STOP_CANCELLED, "")
        elif self._job.stop is not None:
            self._cut(SHUTDOWN, "the dispatcher was stopped")
        elif time.monotonic() >= self._run_deadline:
            self._run_out_of_time()

    def _run_out_of_time(self) -> None:
        if self._cut_off is not None:
            logger.warning(
                "daemon doesn't end a call that was cut off %s",
                fields(job=self._job.id, host=self._host.hostname),
            )
            raise self._ended_as_cut_off()
        if time.monotonic() >= self._run_deadline:
            self._cut(TIMEOUT, self._run_timeout_text())
        else:
            seconds = self._record.timeout
            self._cut(TIMEOUT, f"no message for {seconds} s (timeout)")

    def _run_timeout_text(self) -> str:
        return f"not ended after {self._record.max_exec_time} s (max_exec_time)"

    def _cut(self, type: str, message: str) -> None:
        """Cancel the call over there, and go on reading until the daemon closes, which
        it does when the call's processes are gone."""
        self._cut_off = (type, message)
        self._grace_deadline = time.monotonic() + self._config.cancel_grace
        self._connection.half_close()

    def _ended_as_cut_off(self) -> _Ended:
        type, message = self._cut_off
        if type == STOP_CANCELLED:
            return _Ended(_CANCELLED)
        return self._fail(type, message)

    def _broken(self, type: str, message: str) -> _Ended:
        """The connection is of no use any more."""
        if self._cut_off is not None:
            return self._ended_as_cut_off()
        return self._fail(type, message)

    def _take(self, lines: list[bytes]) -> None:
        """Store the packets in some lines; leave if the end is among them."""
        packets: list[bytes] = []
        now = round(time.time(), 6)
        for line in lines:
            ended = None
            try:
                message = protocol.parse_daemon_message(self._caller.decode(line))
            except Refusal as refusal:
                ended = self._not_understood(refusal.message)
            else:
                if isinstance(message, protocol.StreamValue) and self._streams:
                    number = self._packets + len(packets)
                    packet = protocol.build_packet(number, now, message.value)
                    packets.append(wire.encode(packet))
                else:
                    ended = self._take_other(message)
            if ended is not None:
                self._store_packets(packets)
                if self._unstored:
                    raise self._fail(STORAGE_ERROR, self._unstored)
                raise ended
        self._store_packets(packets)

    def _take_other(self, message) -> _Ended | None:
        """Take anything but a packet in its place."""
        acknowledged = self._ran == protocol.RAN_YES
        if isinstance(message, protocol.StreamValue):
            return self._not_understood("streams, but said that it wouldn't")
        if isinstance(message, protocol.Acknowledgement):
            if acknowledged:
                return self._not_understood("acknowledged the call twice")
            self._ran = protocol.RAN_YES
            self._streams = message.stream_result
            return None
        if message.outcome == protocol.ERROR:
            # In place of the acknowledgement it promises that nothing ran.
            ran = protocol.RAN_YES if acknowledged else protocol.RAN_NO
            return _Ended(protocol.with_ran(message, ran))
        if not acknowledged:
            return self._not_understood("ended the call without acknowledging it")
        return _Ended(message)

    def _not_understood(self, message: str) -> _Ended:
        """The daemon doesn't speak the protocol, but may run something for us until
        we close, and its host isn't free before."""
        if self._cut_off is None:
            self._grace_deadline = time.monotonic() + self._config.cancel_grace
        self._connection.close_after_reading(deadline=self._grace_deadline)
        return self._broken(PROTOCOL_ERROR, f"{where(self._host)}: {message}")

    # --- storing ---

    def _store_start(self, start: Start) -> None:
        try:
            self._writer.append(start.encode(), sync=True)
        except StorageError as error:
            raise self._fail(STORAGE_ERROR, str(error)) from None
        self._job.publish(self._writer.size, 0)

    def _store_packets(self, packets: list[bytes]) -> None:
        if not packets or self._unstored:
            return
        try:
            self._writer.append(b"".join(packets), self._config.sync_packets)
        except StorageError as error:
            self._unstored = str(error)
            if self._cut_off is None:
                self._cut(STORAGE_ERROR, self._unstored)
            return
        self._packets += len(packets)
        self._job.publish(self._writer.size, self._packets)
