"""Log lines of the daemons: a fixed message, then fields as JSON, so that they can be
read by people and searched by programs."""

from __future__ import annotations

import json
import logging
import os
import sys

_SYSTEM_LOG = "/dev/log"  # syslog(3)
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class fields:
    """Fields behind a log message: ``logger.info("call ended %s", fields(uid=0))``.
    Written only if the line is; those that are None are left out."""

    __slots__ = ("_values",)

    def __init__(self, **values: object) -> None:
        self._values = values

    def __str__(self) -> str:
        values = {key: item for key, item in self._values.items() if item is not None}
        return json.dumps(values, default=str)


def to_stderr(level: int = logging.INFO) -> None:
    """Send the log to standard error, a line for each record."""
    logging.basicConfig(stream=sys.stderr, level=level, format=FORMAT, force=True)
    # A log that can't be written must not write tracebacks in its stead.
    logging.raiseExceptions = False


def to_syslog(name: str, level: int = logging.INFO) -> None:
    """Send the log to the system's log.

    :param name: of the program
    :raises OSError: if there is none
    """
    from logging.handlers import SysLogHandler

    os.stat(_SYSTEM_LOG)  # the handler would go on without, and never say so
    handler = SysLogHandler(_SYSTEM_LOG, SysLogHandler.LOG_DAEMON)
    handler.ident = f"{name}[{os.getpid()}]: "
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.raiseExceptions = False


def from_file(path: str) -> dict:
    """Send the log where a file says: TOML, or JSON if its name ends so, for
    ``logging.config.dictConfig``.

    :returns: what the file holds, for :func:`from_content`
    :raises ValueError: if it can't be used; says why, with the file
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            content = json.load(file) if path.endswith(".json") else tomllib.load(file)
        if not isinstance(content, dict):
            raise ValueError("must be an object")
        from_content(content)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return content


def from_content(content: dict) -> None:
    """Send the log where the content of such a file says.

    :raises ValueError: if it can't be used; says why
    """
    import copy
    import logging.config

    # Loggers exist before this, one for each module.
    defaults = {"version": 1, "disable_existing_loggers": False}
    try:
        # A copy: it is taken apart.
        logging.config.dictConfig(defaults | copy.deepcopy(content))
    # It may name any class, which may raise anything.
    except Exception as error:
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise ValueError(reason) from None
    logging.raiseExceptions = False
