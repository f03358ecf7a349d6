"""Users in a file of their own: lines of ``NAME:sha256:HEX`` or ``NAME:scrypt:…``.
Empty lines and those that begin with ``#`` don't count. It is read again when it has
changed."""

from __future__ import annotations

import logging

from ..config import ConfigError, DaemonConfig, DispatcherConfig
from ..errors import reason
from ..log import fields
from ..watched import WatchedFile
from . import passwords

logger = logging.getLogger(__name__)


def create(config: DaemonConfig | DispatcherConfig) -> PasswordFile:
    try:
        return PasswordFile(config.password_file)
    except OSError as error:
        raise ConfigError([f"password_file: {reason(error)}"]) from None


class PasswordFile:
    """The file's users. Any thread may ask.

    :raises OSError: if it can't be read
    """

    def __init__(self, path: str) -> None:
        self._file = WatchedFile(path, _read)

    def authenticate(self, user: str, password: str) -> bool:
        return self._file.content().authenticate(user, password)

    def version(self) -> object:
        """Return what changes when the file does."""
        return self._file.content()


def _read(path: str) -> passwords.Users:
    entries = []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
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
                    fields(path=path, line=number, error=str(error)),
                )
    return passwords.Users(entries)
