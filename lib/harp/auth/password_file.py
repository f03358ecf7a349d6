"""Users in a file of their own: lines of ``NAME:sha256:HEX`` or ``NAME:scrypt:…``.
Empty lines and those that begin with ``#`` don't count. It is read again when it has
changed."""

from __future__ import annotations

import logging
import os

from .. import service
from ..config import ConfigError, DaemonConfig, DispatcherConfig
from ..log import fields
from . import passwords

logger = logging.getLogger(__name__)


def create(config: DaemonConfig | DispatcherConfig) -> PasswordFile:
    try:
        return PasswordFile(config.password_file)
    except OSError as error:
        raise ConfigError([f"password_file: {service.reason(error)}"]) from None


class PasswordFile:
    """The file's users. Any thread may ask; two that notice a change at the same time
    both read the file, and the later one counts.

    :raises OSError: if it can't be read
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._state = self._look(), self._read()

    def authenticate(self, user: str, password: str) -> bool:
        return self._current()[1].authenticate(user, password)

    def version(self) -> object:
        """Return what changes when the file does."""
        identity, users = self._current()
        return identity or id(users)

    def _current(self) -> tuple[tuple | None, passwords.Users]:
        """Return the identity of the file and its users, read again if need be."""
        identity, users = self._state
        try:
            now = self._look()
            if now != identity:
                users = self._read()
                self._state = now, users
        except OSError as error:
            # Those who could call until now still can. Once for each change:
            if identity is not None:
                self._state = None, users
                logger.error(
                    "password file can't be read, the old one stays %s",
                    fields(path=self._path, error=error.strerror),
                )
        return self._state

    def _look(self) -> tuple:
        stat = os.stat(self._path)
        return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size

    def _read(self) -> passwords.Users:
        entries = []
        with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                line = line.rstrip("\r\n")
                if not line or line.startswith("#"):
                    continue
                name, _, text = line.partition(":")
                try:
                    if not name:
                        raise ValueError("no user name before the colon")
                    entries.append((name, passwords.parse(text, allow_plain=False)))
                except ValueError as error:
                    logger.warning(
                        "line of password file is skipped %s",
                        fields(path=self._path, line=number, error=str(error)),
                    )
        return passwords.Users(entries)
