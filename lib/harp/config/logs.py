"""Where the log of a daemon goes: the key ``logging`` of both configurations."""

from __future__ import annotations

from .. import log
from .table import ConfigError


def find(configured: str | None, directory: str, background: bool) -> str:
    """Return where the log goes.

    :param configured: what the key holds
    :param directory: that a file's path is relative to
    :param background: whether the daemon has left the terminal
    :returns: one of :data:`harp.log.WORDS` or a file's path in full
    """
    if configured is None:
        return log.SYSLOG if background else log.STDERR
    return log.resolve(configured, directory)


def start(where: str, program: str) -> dict | None:
    """Send the log there.

    :returns: what the file of the log's configuration holds; None if there is none
    :raises ConfigError: if that can't be done
    """
    try:
        return log.send(where, program)
    except ValueError as error:
        raise ConfigError([f"logging: {error}"]) from None


def check(where: str) -> list[str]:
    """Return what :func:`start` would complain of; no file is made."""
    try:
        log.check(where)
    except ValueError as error:
        return [f"logging: {error}"]
    return []
