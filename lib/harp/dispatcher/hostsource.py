"""Where the lines of the hosts' registry come from: a program that prints them, a file,
or the copy that was kept of the last good ones."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import time

from .. import watched
from ..errors import reason
from ..log import fields

logger = logging.getLogger(__name__)

_CHUNK = 64 * 1024
_MOST_BYTES = 256 * 1024 * 1024  # a million hosts; a program that never ends its output
_LONGEST_REMARK = 10_000  # bytes of a line of standard error
_MOST_REMARKS = 10_000  # such lines of one run that are logged


class HostsError(Exception):
    """Raised when the hosts can't be read; says from where and why."""


class Script:
    """Runs the program, never twice at once: :meth:`run` belongs to one thread,
    :meth:`kill` may be called by any."""

    def __init__(self) -> None:
        # No lock: run() sets the first and then looks at the second, kill() sets the
        # second and then looks at the first, so that one of them sees it.
        self._process: subprocess.Popen | None = None
        self._killed = False

    def run(self, path: str, seconds: float) -> bytes:
        """Run it and return what it prints. Its standard error goes to the log, line by
        line.

        :param seconds: it is killed after so many
        :raises HostsError: if it fails, takes too long or was killed
        """
        try:
            process = subprocess.Popen(
                [path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that it can be killed with its children
            )
        except OSError as error:
            raise HostsError(f"{path}: {error.strerror}") from None
        with process:
            self._process = process
            if self._killed:
                self._kill_process()
            try:
                output = _collect(process, path, seconds)
            except BaseException:
                self._kill_process()
                raise
            finally:
                process.wait()
                self._process = None
        if process.returncode != 0:
            raise HostsError(f"{path}: {_ending(process.returncode)}")
        return output

    def kill(self) -> None:
        """Kill it with whatever it has started, now and as soon as it runs again."""
        self._killed = True
        self._kill_process()

    def _kill_process(self) -> None:
        process = self._process
        # Once it has been waited for, its number may be another's.
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def _collect(process: subprocess.Popen, path: str, seconds: float) -> bytes:
    """Read what a process prints until it and its children have closed their output
    and it has ended."""
    deadline = time.monotonic() + seconds
    output = bytearray()
    remarks = _Remarks(path)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, remarks.read)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                raise HostsError(f"{path}: killed after {seconds} s")
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK)
                key.data.extend(data)
                if not data:
                    selector.unregister(key.fileobj)
            if len(output) > _MOST_BYTES:
                raise HostsError(f"{path}: prints more than {_MOST_BYTES} bytes")
            remarks.log(at_end=not selector.get_map())
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise HostsError(f"{path}: killed after {seconds} s") from None
    return bytes(output)


class _Remarks:
    """What a process says on standard error.

    :ivar read: what was read of it, and is not logged yet
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._left = _MOST_REMARKS
        self._is_too_much = False
        self.read = bytearray()

    def log(self, at_end: bool) -> None:
        """Log whole lines and take them away."""
        end = len(self.read)
        if not at_end and end < _LONGEST_REMARK:
            end = self.read.rfind(b"\n") + 1
        lines = self.read[:end].decode("utf-8", "replace").splitlines()
        del self.read[:end]
        for line in lines[: self._left]:
            logger.info("hosts script says %s", fields(script=self._path, line=line))
        if len(lines) > self._left and not self._is_too_much:
            self._is_too_much = True
            logger.warning("hosts script says too much %s", fields(script=self._path))
        self._left = max(0, self._left - len(lines))


def _ending(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"ended by signal {-status}"


def read_file(path: str) -> bytes:
    """Return what a file holds.

    :raises HostsError: if it can't be read
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise HostsError(f"{path}: {error.strerror}") from None


def stamp(path: str) -> object:
    """Return what changes when a file does; None if there is none."""
    try:
        return watched.stamp(path)
    except OSError:
        return None


def write_cache(path: str, output: bytes) -> None:
    """Keep a copy of good lines. That it can't be written is logged."""
    new = path + ".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        # It holds credentials: nobody else may read it, not even for a moment.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        fd = os.open(new, flags, 0o600)
        with open(fd, "wb") as file:
            file.write(output)
            file.flush()
            os.fsync(fd)
        os.rename(new, path)
    except OSError as error:
        logger.warning(
            "can't write the hosts' cache %s", fields(path=path, error=reason(error))
        )
