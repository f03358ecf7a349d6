"""The few things that the job log asks of the file system. They stand here so that
tests can make each of them fail."""

from __future__ import annotations

import os


class StorageError(Exception):
    """Raised when something can't be stored or read: disk full, I/O error, a file
    that isn't what it should be. The text names the file."""


class FileGone(StorageError):
    """Raised when a file that should be there is not."""


class NoDescriptors(StorageError):
    """Raised when this machine has no descriptor left to open a file."""


class Disk:
    """The real disk. All methods raise OSError as the system does."""

    def create(self, path: str) -> int:
        """Create a file that must not exist, for appending; return its descriptor."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(path, flags, 0o600)

    def open(self, path: str) -> int:
        """Open a file for appending; return its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def write(self, fd: int, data: bytes) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def sync(self, fd: int) -> None:
        """Return when the content of a file is on the disk."""
        os.fdatasync(fd)

    def sync_directory(self, path: str) -> None:
        """Return when the names in a directory are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def free(self, path: str) -> int:
        """Return the number of bytes that an unprivileged user may still write."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize
