"""The life of a call in the front: its order goes to a process, the lines of the
process go to the caller, until everything has ended.

One thread, one ``poll`` over the caller, the process's socket, its output and a waker.
What happens, in the order in which it usually does::

    order handed over -> acknowledged -> values -> end line relayed
      -> caller told goodbye, process exits -> output drained -> over

A call that is to end early (timeout, shutdown, caller gone) is killed first. Its end is
decided when the spawner has reported that no process is left, and what they wrote has
been read: an error in place of the acknowledgement promises that no code of the
procedure ran.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable

from .. import errors, protocol, wire
from . import processes
from .caller import Caller
from .children import Child
from .lines import CallLines
from .output import OutputLog
from .slots import Slot

_CHUNK = 64 * 1024
_MAX_LINE_BUFFER = 1024 * 1024  # a longer line is relayed in pieces
_MAX_UNSENT = 256 * 1024  # with more than that for the caller, the process has to wait
_EXIT_GRACE = 2.0  # s for a process to exit after its last line
_DRAIN_CHUNKS = 16  # of output after the exit: a pipe holds no more

_LOST = "lost"


class Relay:
    """One call.

    :param client: the caller's connection
    :param child: the process
    :param waker: set by others when something has changed: the child's exit, the stop
    :param slot: the call's place in the counts; freed when its processes are gone
    :param order: line for the process
    :param timeout: seconds that the call may take; None: for ever
    :param send_timeout: seconds after which a caller that takes nothing is gone
    :param is_stopping: tells whether the daemon stops
    :param output: gets what the process prints
    :ivar end: how the call ended: ``result``, ``exception``, ``cancelled`` or the type
        of an error; None if it was never handed over
    :ivar raised: type of the exception, if it ended by one
    """

    def __init__(
        self,
        client: wire.Connection,
        child: Child,
        waker: wire.Waker,
        *,
        slot: Slot,
        order: bytes,
        timeout: float | None,
        send_timeout: float,
        is_stopping: Callable[[], bool],
        output: OutputLog,
    ) -> None:
        self._child = child
        self._waker = waker
        self._slot = slot
        self._order = memoryview(order)
        self._timeout = timeout
        self._is_stopping = is_stopping
        self._output = output
        self._output_open = True
        self._lines = CallLines(_MAX_LINE_BUFFER)
        self._child_open = True
        self._looked_after = False  # what a spawner that died has left of the call
        self._caller = Caller(client, send_timeout)
        self._cause: str | None = None  # why it is killed
        self._call_deadline: float | None = None
        self._exit_deadline: float | None = None
        self._watched: dict[int, int] = {}
        self._poll = select.poll()
        self.end: str | None = None
        self.raised: str | None = None

    def run(self) -> bool:
        """Relay until all is over. False: the caller had left already, and the process
        has not been used."""
        self._caller.receive()
        if self._caller.has_left:
            return False
        if self._timeout is not None:
            self._call_deadline = time.monotonic() + self._timeout
        self._child.waker = self._waker
        self._poll.register(self._waker, select.POLLIN)
        self._child.use()
        self._write_order()
        while not self._is_over():
            self._watch()
            for fd, _ in self._poll.poll(self._time_left()):
                self._handle(fd)
            self._look_around()
        self._output.finish()
        return True

    def _is_over(self) -> bool:
        return self._is_exited() and self._caller.is_closed and not self._output_open

    def _is_exited(self) -> bool:
        return self._child.exit is not None or self._child.lost

    # --- waiting ---

    def _watch(self) -> None:
        child_events = 0
        if self._child_open and len(self._caller.unsent) < _MAX_UNSENT:
            child_events = select.POLLIN
        if self._order:
            child_events |= select.POLLOUT
        self._want(self._child.socket.fileno(), child_events)
        self._want(self._child.output, select.POLLIN if self._output_open else 0)
        self._want(self._caller.fileno(), self._caller.events())

    def _want(self, fd: int, events: int) -> None:
        # With no event wanted it must go altogether: poll reports a hang-up always.
        if events == self._watched.get(fd, 0):
            return
        if events:
            self._poll.register(fd, events)
        else:
            self._poll.unregister(fd)
        self._watched[fd] = events

    def _time_left(self) -> float | None:
        deadlines = [
            deadline
            for deadline in (
                self._call_deadline,
                self._exit_deadline,
                self._caller.deadline,
            )
            if deadline is not None
        ]
        if not deadlines:
            return None
        left = max(0.0, (min(deadlines) - time.monotonic()) * 1000)
        return min(left, wire.LONGEST_POLL)

    def _handle(self, fd: int) -> None:
        if fd == self._waker.fileno():
            self._waker.clear()
        elif fd == self._child.output:
            self._read_output()
        elif fd == self._caller.fileno():
            self._caller.receive()
            self._caller.send()
        elif self._order:
            self._write_order()
        else:
            self._read_child()

    def _look_around(self) -> None:
        """Do what follows from what has changed."""
        now = time.monotonic()
        self._caller.check_deadline(now)
        if self._caller.has_left:
            self._kill(protocol.CANCELLED)
        if self._is_stopping():
            self._kill(errors.SHUTDOWN)
        if self._call_deadline is not None and now >= self._call_deadline:
            self._kill(errors.TIMEOUT)
        if self._exit_deadline is not None and now >= self._exit_deadline:
            self._exit_deadline = None
            self._child.kill()
        if self._is_exited():
            self._exit_deadline = None
            self._slot.free()
            self._drain()
            if not self._child_open and self.end is None:
                self._conclude()

    # --- the process ---

    def _write_order(self) -> None:
        try:
            sent = self._child.socket.send(self._order)
        except BlockingIOError:
            return
        except OSError:  # it has died, and its exit will be reported
            sent = len(self._order)
        self._order = self._order[sent:]

    def _read_child(self) -> None:
        try:
            data = self._child.socket.recv(_CHUNK)
        except BlockingIOError:
            # What it has forked may hold the other end open for ever.
            if self._child.exit is not None:
                self._child_open = False
            return
        except ConnectionResetError:  # it died with its order unread
            data = b""
        if not data:
            self._child_open = False
            self._expect_exit()
            return
        data = self._lines.feed(data)
        if self._lines.end is not None:
            self._slot.ending()  # before the caller can know
        self._caller.add(data)
        if self._lines.foreign:
            self._kill(errors.INVALID_RESULT)
        if self._lines.end is not None and self.end is None:
            self._note_end()

    def _note_end(self) -> None:
        self.end = self._lines.end
        if self.end == protocol.ERROR:
            self.end = _type_of(self._lines.end_line, protocol.ERROR)
        elif self.end == protocol.EXCEPTION:
            self.raised = _type_of(self._lines.end_line, protocol.EXCEPTION)
        self._call_deadline = None
        self._expect_exit()
        self._caller.finish()

    def _expect_exit(self) -> None:
        if self._exit_deadline is None and not self._is_exited():
            self._exit_deadline = time.monotonic() + _EXIT_GRACE

    def _kill(self, cause: str) -> None:
        if self._cause is not None or self.end is not None:
            return
        self._cause = cause
        self._call_deadline = None
        self._lines.refuse_exceptions = True
        self._child.kill()

    def _read_output(self) -> bool:
        """Log a piece of output; tell whether there may be more."""
        try:
            data = os.read(self._child.output, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._output_open = False
            return False
        self._output.feed(data)
        return True

    # --- the end ---

    def _drain(self) -> None:
        """The processes are gone: read what they have left, as far as the caller
        takes it."""
        if self._child.lost and not self._looked_after:
            self._looked_after = True
            self._end_lost_child()
        while self._child_open and len(self._caller.unsent) < _MAX_UNSENT:
            self._read_child()
        if self._output_open:
            for _ in range(_DRAIN_CHUNKS):
                if not self._read_output():
                    break
            self._output_open = False

    def _end_lost_child(self) -> None:
        """Without a spawner there is no exit report. The kernel kills the first process;
        what it has started is left to us, if we may. Then the socket closes."""
        deadline = time.monotonic() + _EXIT_GRACE
        if processes.kill_session(self._child.pid, deadline):
            poll = select.poll()
            poll.register(self._child.socket, select.POLLIN)
            if poll.poll(_EXIT_GRACE * 1000):
                return
        self._child_open = False
        self._cause = _LOST

    def _conclude(self) -> None:
        """Decide the end of a call whose process wrote none."""
        known = self._cause is not None and self._cause != _LOST
        self.end = self._cause if known else errors.PROCESS_DIED
        # A caller that has left gets nothing, nor one with half a line: the end of
        # its connection says it all. Nor is there an error that would promise that no
        # code ran when nobody knows whether the process is gone.
        unknown = self._cause == _LOST and not self._lines.acknowledged
        if not (self._lines.in_pieces or self._cause == protocol.CANCELLED or unknown):
            self._caller.add(wire.encode(self._build_error()))
        self._caller.finish()

    def _build_error(self) -> dict:
        if self.end == errors.TIMEOUT:
            text = f"the call took longer than {self._timeout:g} s"
            return protocol.build_daemon_error(self.end, text)
        if self.end == errors.SHUTDOWN:
            return protocol.build_daemon_error(self.end, "the daemon stops")
        if self.end == errors.INVALID_RESULT:
            text = "the procedure has written to the socket of its call"
            return protocol.build_daemon_error(self.end, text)
        if self._child.exit is None:
            text = "the daemon's spawner died, and the call's first process with it"
            return protocol.build_daemon_error(self.end, text)
        status = self._child.exit.status
        if status < 0:
            text, data = f"process was killed by signal {-status}", {"signal": -status}
        else:
            text = f"process exited with status {status} and without a result"
            data = {"exit_status": status}
        return protocol.build_daemon_error(self.end, text, data)


def _type_of(line: bytes, key: str) -> str:
    try:
        return json.loads(line)[key]["type"]
    except (ValueError, KeyError, TypeError):  # it was too long to be kept
        return key
