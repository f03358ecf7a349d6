"""Where the log of a daemon goes: the key ``logging`` of both configurations."""

from __future__ import annotations

import logging
from typing import NamedTuple

from .. import log
from .table import ConfigError

logger = logging.getLogger(__name__)


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


class Log(NamedTuple):
    """Where the log has been sent.

    :ivar where: as :func:`find` returns it
    :ivar program: its name
    :ivar content: what the file of the log's configuration held then; None: there is
        none
    """

    where: str
    program: str
    content: dict | None

    def go_on(self) -> None:
        """Send the log there again, after a reload that failed."""
        try:
            if self.content is None:
                log.send(self.where, self.program)
            else:
                log.from_content(self.content)
        except ValueError as error:
            log.to_stderr()
            logger.error("log goes to standard error now: %s", error)


def start(where: str, program: str) -> Log:
    """Send the log there.

    :raises ConfigError: if that can't be done
    """
    try:
        return Log(where, program, log.send(where, program))
    except ValueError as error:
        raise ConfigError([f"logging: {error}"]) from None


def check(where: str) -> list[str]:
    """Return what :func:`start` would complain of; no file is made."""
    try:
        log.check(where)
    except ValueError as error:
        return [f"logging: {error}"]
    return []
