"""The file that says which process is the daemon. The daemon holds a lock on it for
life, so a file that a crash has left behind is told from one that counts."""

from __future__ import annotations

import errno
import fcntl
import os
import time

_DIRECTORY_MODE = 0o755
_LOOK_SECONDS = 0.2  # whoever looks whether it is locked has it for a moment


class AlreadyRunning(Exception):
    """Raised when another process holds the file.

    :ivar pid: which; None if the file doesn't say
    """

    def __init__(self, path: str, pid: int | None) -> None:
        super().__init__(f"{path}: held by process {pid or 'unknown'}, which runs")
        self.pid = pid


class Pidfile:
    """A pid file. To be taken by the process that it is about."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def take(self) -> None:
        """Make this process the one that the file names.

        :raises AlreadyRunning: if another one is
        :raises OSError: if the file can't be written
        """
        while self._fd < 0:
            # For reading only: a daemon that drops to another user must not be able
            # to write another pid there, for root to send signals to.
            fd = os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _lock(fd):
                pid = _read_pid(fd)
                os.close(fd)
                raise AlreadyRunning(self.path, pid)
            # Whoever held it before may have removed it since it was opened.
            if _is_file(fd, self.path):
                self._fd = fd
            else:
                os.close(fd)
        with open(self.path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")

    def release(self) -> None:
        """Remove the file, if it was taken."""
        if self._fd < 0:
            return
        try:
            os.unlink(self.path)
        except OSError as error:
            # Left behind, it is stale, and that is known from its lock. Who stops a
            # daemon by "stop" removes it.
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM):
                raise
        os.close(self._fd)
        self._fd = -1


def take_pidfile(path: str | None) -> Pidfile | None:
    """Take the pid file of this daemon, in a directory that is made if it is missing.

    :param path: None: it has none
    :raises AlreadyRunning: if another process has it
    :raises OSError: if it can't be written
    """
    if path is None:
        return None
    pidfile = Pidfile(path)
    try:
        # Where /run is emptied at each boot, nobody else makes it.
        os.makedirs(os.path.dirname(path), _DIRECTORY_MODE, exist_ok=True)
        pidfile.take()
    except PermissionError as error:
        text = f"{error.strerror}; -p names another place for the pid file"
        raise PermissionError(error.errno, text, error.filename) from None
    return pidfile


def _lock(fd: int) -> bool:
    """Lock a file for good; False: another process has it."""
    deadline = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        time.sleep(_LOOK_SECONDS / 20)


def running(path: str) -> int | None:
    """Return the pid of the process that holds a pid file; None if none does.

    :raises OSError: if there is a file that can't be read
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(fd)
    else:
        return None
    finally:
        os.close(fd)


def remove_stale(path: str) -> None:
    """Remove a pid file that no process holds.

    :raises AlreadyRunning: if one does
    :raises OSError: if the file can't be removed
    """
    if os.path.exists(path):
        file = Pidfile(path)
        file.take()
        file.release()


def _read_pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _is_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
