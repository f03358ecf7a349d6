"""Files that are read again when they change. One that can't be read any more is
logged, and what it held before counts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Generic, TypeVar

from .log import fields

logger = logging.getLogger(__name__)

Content = TypeVar("Content")


class WatchedFile(Generic[Content]):
    """A file. From any thread: two that find a change read it both, and the later one
    counts.

    :param path: of the file
    :param read: returns what it holds, called with the path; raises OSError
    :raises OSError: if it can't be read the first time
    """

    def __init__(self, path: str, read: Callable[[str], Content]) -> None:
        self._path = path
        self._read = read
        # Stamp and content, replaced as a whole. No stamp: it can't be read just now.
        self._found: tuple[object, Content] = stamp(path), read(path)

    def content(self) -> Content:
        """Return what it holds now, the same object as long as it doesn't change."""
        before, content = self._found
        try:
            now = stamp(self._path)
            if now == before:
                return content
            content = self._read(self._path)
        except OSError as error:
            now = None
            if before is not None:  # told once
                logger.error(
                    "file can't be read, what it held before counts %s",
                    fields(path=self._path, error=error.strerror or str(error)),
                )
        else:
            logger.info("read again %s", fields(path=self._path))
        self._found = now, content
        return content


def stamp(path: str) -> object:
    """Return what changes when a file does.

    :raises OSError: if it can't be looked at
    """
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
