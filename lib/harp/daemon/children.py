"""The front's side of the spawner: standby processes, calls in them, their ends.

:class:`Children` belongs to all connections' threads; a thread of its own reads the
channel. A :class:`Child` belongs to the thread that took it.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import subprocess
import threading
import time
from collections import deque, namedtuple
from collections.abc import Callable

from .. import wire
from ..errors import OVERLOADED, SHUTDOWN, SYSTEM_ERROR, Refusal
from ..log import fields
from . import control, spawner
from .output import OutputLog
from .settings import base_environment

logger = logging.getLogger(__name__)

_CHUNK = 64 * 1024
_SLOW_LOADING = 10.0  # s between two words about procedures that take long to load

_QUIET = 10.0  # s without a shortage until the next one is logged

Exit = namedtuple("Exit", ("pid", "status"))
"""How a call's first process exited; all processes that were to be killed are gone.
The status is negative for a signal."""


class ProceduresFailed(Exception):
    """Raised when the procedures don't load. Its text is a line for the operator."""


class Child:
    """A process that runs one call.

    :ivar pid: for what outlives the spawner only; its number may be another's by then
    :ivar socket: shared with it; non-blocking
    :ivar output: descriptor that its standard output and error come out of;
        non-blocking
    :ivar exit: :class:`Exit` once it is over, else None
    :ivar lost: True if nobody can tell any more, because the spawner has gone
    """

    def __init__(
        self,
        number: int,
        pid: int,
        sock: socket.socket,
        output: int,
        channel: socket.socket,
    ) -> None:
        self.number = number
        self.pid = pid
        self.socket = sock
        self.output = output
        self.exit: Exit | None = None
        self.lost = False
        self.waker: wire.Waker | None = None
        self._channel = channel

    def use(self) -> None:
        """Say that it gets a call now, so that another one is made ready."""
        self._order(control.USED)

    def kill(self) -> None:
        """Begin to end all processes of the call. :attr:`exit` tells when they are
        gone."""
        self._order(control.KILL)

    def _order(self, kind: int) -> None:
        try:
            control.send(self._channel, kind, number=self.number)
        except OSError:
            pass  # the spawner has gone; whoever reads the channel says so

    def close(self) -> None:
        self.socket.close()
        os.close(self.output)


class Children:
    """A spawner and its children.

    :param channel: to a spawner that has just been started
    :param settings: what it is told; None: it knows
    :param process: the spawner, if it is a child of this process
    :ivar procedures: by name, once loaded
    :ivar digest: of their source, once loaded
    """

    def __init__(
        self,
        channel: socket.socket,
        settings: control.Settings | None = None,
        process: subprocess.Popen | None = None,
    ) -> None:
        self._channel = channel
        self._process = process
        # Guards what follows; notified when any of it changes.
        self._changed = threading.Condition()
        self._standby: deque[Child] = deque()
        self._retired = False
        self._in_use: dict[int, Child] = {}
        self._stopping = False
        self._gone = False
        self._unable: str | None = None
        # Of the channel's thread alone.
        self._quiet_until = 0.0
        self._on_loss: Callable[[], None] = lambda: None
        self._reader = threading.Thread(
            target=self._read, name="spawner-channel", daemon=True
        )
        self.procedures: dict[str, control.Description] = {}
        self.digest = ""
        if settings is not None:
            control.send(channel, control.SETTINGS, text=settings.to_text())

    @classmethod
    def start(cls, settings: control.Settings) -> Children:
        """Start a spawner."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader, output = os.pipe()
        with its, open(output, "wb"):
            process = subprocess.Popen(
                spawner.command(its.fileno()),
                pass_fds=(its.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=base_environment(),
                start_new_session=True,  # a terminal's Ctrl-C is for us alone
            )
        # Not the terminal: whoever waits for that to be let go would wait for ever.
        # Successors inherit it, so it ends with the last of them.
        threading.Thread(
            target=_log_output, args=(reader,), name="spawner-output", daemon=True
        ).start()
        return cls(ours, settings, process)

    def start_successor(self) -> Children:
        """Let the spawner, who may be root when we are not, start another one, which
        reads the configuration itself.

        :raises OSError: if the spawner has gone
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            control.send(self._channel, control.SUCCEED, descriptors=(its.fileno(),))
        return Children(ours)

    def load(self, on_loss: Callable[[], None]) -> None:
        """Wait until the procedures are loaded, and begin to serve.

        :param on_loss: called if the spawner dies later on, from another thread
        :raises ProceduresFailed: if they don't load; nothing is left running then
        """
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while not poll.poll(_SLOW_LOADING * 1000):
            logger.warning("procedures are still being loaded, which takes long")
        message = control.receive(self._channel)
        if message is not None and message.descriptors:
            table = control.read_table(message.descriptors[0])
            self.procedures, self.digest = table
            self._on_loss = on_loss
            self._reader.start()
            return
        self._channel.close()
        status = f", status {self._process.wait()}" if self._process else ""
        if message is None:
            raise ProceduresFailed(
                f"spawner ended while it loaded the procedures{status}; the log may "
                "say why"
            )
        if message.kind == control.LOADED:  # the kernel has dropped its descriptor
            raise ProceduresFailed(
                "out of descriptors, the procedures can't be taken over: raise the "
                "limit of open files"
            )
        raise ProceduresFailed(message.text)

    # --- for the connections' threads ---

    def take(self, deadline: float) -> Child:
        """Return a process that waits for a call; to be given back with
        :meth:`put_back` or :meth:`release`.

        :param deadline: on the monotonic clock
        :raises Refusal: if there is none in time
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._standby or self._stopping or self._gone,
                max(0.0, deadline - time.monotonic()),
            )
            if self._stopping:
                raise Refusal(SHUTDOWN, "the daemon stops")
            if self._gone:
                raise Refusal(SYSTEM_ERROR, "the daemon's spawner has died")
            if not self._standby:
                if self._unable:
                    raise Refusal(OVERLOADED, f"can't fork: {self._unable}")
                raise Refusal(OVERLOADED, "no process became ready in time")
            child = self._standby.popleft()
            self._in_use[child.number] = child
            return child

    def put_back(self, child: Child) -> None:
        """Return a process that was taken and has not been used."""
        with self._changed:
            del self._in_use[child.number]
            if child.exit is None and not self._gone:
                self._standby.appendleft(child)
                self._changed.notify_all()
                surplus = self._take_surplus()
            else:
                surplus = [child]
        for one in surplus:
            one.close()

    def release(self, child: Child) -> None:
        """Say that the call is over."""
        with self._changed:
            del self._in_use[child.number]
        child.close()

    def stop_taking(self) -> None:
        """Refuse further calls."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    # --- the end ---

    def retire(self) -> None:
        """Keep one process ready only: others serve new connections, but one that came
        before may still make a call."""
        with self._changed:
            self._retired = True
            surplus = self._take_surplus()
        try:
            control.send(self._channel, control.RETIRE)
        except OSError:
            pass  # the spawner has gone; whoever reads the channel says so
        for child in surplus:
            child.close()  # it exits when it sees that

    def _take_surplus(self) -> list[Child]:
        """Take out those that wait beside the one that is kept when retired; there can
        be some on their way at that moment. Under the lock; to be closed without it.
        """
        if not self._retired:
            return []
        return [self._standby.pop() for _ in range(len(self._standby) - 1)]

    def close(self, deadline: float) -> bool:
        """End the spawner and all that it has started.

        :param deadline: on the monotonic clock
        :returns: False if it is still there then
        """
        self.stop_taking()
        try:
            self._channel.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone already
        self._reader.join(max(0.0, deadline - time.monotonic()))
        if self._reader.is_alive():
            return False
        self._channel.close()
        return True

    # --- the channel's thread ---

    def _read(self) -> None:
        while (message := control.receive(self._channel)) is not None:
            if message.kind == control.STANDBY:
                self._add(message)
            elif message.kind == control.EXITED:
                self._note_exit(message)
            elif message.kind == control.UNABLE:
                self._note_unable(os.strerror(message.status))
        if self._process is not None:
            self._process.wait()
        self._note_loss()

    def _add(self, message: control.Message) -> None:
        if len(message.descriptors) != 2:
            # We are out of descriptors, and the kernel has dropped some (unix(7)). The
            # process sees its socket close, and exits.
            for fd in message.descriptors:
                os.close(fd)
            self._complain("out of descriptors, a standby process is lost")
            return
        sock = socket.socket(fileno=message.descriptors[0])
        sock.setblocking(False)
        os.set_blocking(message.descriptors[1], False)
        child = Child(
            message.number, message.pid, sock, message.descriptors[1], self._channel
        )
        with self._changed:
            self._unable = None
            self._standby.append(child)
            self._changed.notify()
            surplus = self._take_surplus()
        for one in surplus:
            one.close()

    def _note_exit(self, message: control.Message) -> None:
        exit_ = Exit(message.pid, message.status)
        with self._changed:
            child = self._in_use.get(message.number)
            if child is not None:
                child.exit = exit_
            idle = self._forget_standby(message.number)
            expected = self._stopping
        if child is not None and child.waker is not None:
            child.waker.wake()
        if idle is not None:
            idle.close()
            if not expected:
                logger.warning("standby process ended %s", fields(**exit_._asdict()))

    def _forget_standby(self, number: int) -> Child | None:
        for child in self._standby:
            if child.number == number:
                self._standby.remove(child)
                return child
        return None

    def _note_unable(self, reason: str) -> None:
        with self._changed:
            self._unable = reason
        self._complain(f"can't fork, calls have to wait {fields(reason=reason)}")

    def _complain(self, text: str) -> None:
        """Log a shortage, once as long as it goes on."""
        now = time.monotonic()
        if now >= self._quiet_until:
            logger.error("%s", text)
        self._quiet_until = now + _QUIET

    def _note_loss(self) -> None:
        with self._changed:
            self._gone = True
            expected = self._stopping
            standby, self._standby = self._standby, deque()
            lost = list(self._in_use.values())
            for child in lost:
                child.lost = True
            wakers = [child.waker for child in lost if child.waker is not None]
            self._changed.notify_all()
        for child in standby:
            child.close()
        for waker in wakers:
            waker.wake()
        if not expected:
            status = self._process.returncode if self._process else None
            logger.error("spawner died %s", fields(status=status))
            self._on_loss()


def _log_output(reader: int) -> None:
    """Log what the procedures file prints while it is loaded."""
    output = OutputLog(procedure=None)
    with open(reader, "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            output.feed(data)
    output.finish()
