"""A daemon's life, the same for both: what signals mean, readiness, and the exit."""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback

from .log import fields

logger = logging.getLogger(__name__)

# systemd waits for whom it starts, and so can others: a datagram socket named in the
# environment gets lines of VARIABLE=VALUE (sd_notify(3)).
_NOTIFY_SOCKET = "NOTIFY_SOCKET"

_WAKE = 0  # no signal has this number


class Signals:
    """Signals as a queue that the main thread reads. A context manager; to be entered
    in the main thread before any other is started."""

    _WANTED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    _CAUGHT = (*_WANTED, signal.SIGUSR1)

    def __enter__(self) -> Signals:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous = {
            number: signal.signal(number, lambda *_: None) for number in self._CAUGHT
        }
        # With a handler in Python alone, a signal would wait until the main thread
        # happens to run; the wake-up descriptor ends its wait.
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._reader.close()
        self._writer.close()

    def wait(self, deadline: float | None = None) -> signal.Signals | None:
        """Wait for the next signal, or for :meth:`stop`. SIGUSR1 is answered here: the
        stacks of all threads go to the log.

        :param deadline: on the monotonic clock; None: wait for ever
        :returns: None after :meth:`wake`, or at the deadline
        """
        while True:
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([self._reader], [], [], left)[0]:
                    return None
            number = self._reader.recv(1)[0]
            if number == signal.SIGUSR1:
                _log_stacks()
            if number == _WAKE:
                return None
            if number in self._WANTED:
                return signal.Signals(number)

    def stop(self) -> None:
        """Make :meth:`wait` return SIGTERM. From any thread."""
        self._send(signal.SIGTERM)

    def wake(self) -> None:
        """Make :meth:`wait` return None. From any thread."""
        self._send(_WAKE)

    def _send(self, number: int) -> None:
        try:
            self._writer.send(bytes((number,)))
        except BlockingIOError:
            pass  # it has signals enough to read


def _log_stacks() -> None:
    # All that was in flight, at one moment.
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident)
        if frame is not None:
            stack = traceback.StackSummary.extract(
                reversed(list(traceback.walk_stack(frame)))
            )
            text = "".join(stack.format()).rstrip()
            logger.warning(
                "stack of thread %s (most recent call last):\n%s", thread.name, text
            )


class Background:
    """The rest of the process, in the background: :meth:`enter` returns there, and the
    process that called it exits when that one serves or has failed."""

    def __init__(self) -> None:
        self._writer = -1

    def enter(self) -> None:
        """Go on in the background. Before any thread is started.

        Standard output and error stay until :meth:`serving`, so that what goes wrong
        can be read where it was started.
        """
        reader, self._writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            os.setsid()
            os.chdir("/")
            return
        os.close(self._writer)
        if os.read(reader, 1):
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        os._exit(max(1, os.waitstatus_to_exitcode(status)))

    def serving(self) -> None:
        """Let the process in the foreground exit with success, and let go of its
        terminal. Nothing if there is none."""
        if self._writer < 0:
            return
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        os.write(self._writer, b"\0")
        os.close(self._writer)
        self._writer = -1


def notify(**variables: str) -> None:
    """Tell the service manager what it asked to be told, if there is one.

    :param variables: as in sd_notify(3), for example ``READY="1"``
    """
    path = os.environ.get(_NOTIFY_SOCKET)
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]
    text = "\n".join(f"{name}={value}" for name, value in variables.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(text.encode(), socket.MSG_DONTWAIT, path)
    except OSError as error:
        logger.warning(
            "can't notify the service manager %s", fields(path=path, error=str(error))
        )


def notify_reloading() -> None:
    """Tell the service manager that a reload begins; READY ends it."""
    # A unit of Type=notify-reload takes it from this very message when it began.
    notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as it may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
