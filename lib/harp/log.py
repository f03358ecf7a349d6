"""Log lines of the daemons: a fixed message, then fields as JSON, so that they can be
read by people and searched by programs."""

from __future__ import annotations

import json
import logging
import os
import sys

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
    logging.basicConfig(stream=sys.stderr, level=level, format=FORMAT)
    # A log that can't be written must not write tracebacks in its stead.
    logging.raiseExceptions = False


def to_syslog(name: str, level: int = logging.INFO) -> None:
    """Send the log to the system's log.

    :param name: of the program
    :raises OSError: if there is none
    """
    from logging.handlers import SysLogHandler

    handler = SysLogHandler("/dev/log", SysLogHandler.LOG_DAEMON)
    handler.ident = f"{name}[{os.getpid()}]: "
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level)
    logging.raiseExceptions = False


def from_file(path: str) -> None:
    """Send the log where a file says: TOML, or JSON if its name ends so, for
    ``logging.config.dictConfig``.

    :raises ValueError: if it can't be used; says why
    """
    import logging.config
    import tomllib

    try:
        with open(path, "rb") as file:
            content = json.load(file) if path.endswith(".json") else tomllib.load(file)
        # Loggers exist before this, one for each module.
        content.setdefault("disable_existing_loggers", False)
        content.setdefault("version", 1)
        logging.config.dictConfig(content)
    except OSError as error:
        raise ValueError(f"{error.filename or path}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, ImportError, KeyError) as error:
        reason = f"{error}: {error.__cause__}" if error.__cause__ else error
        raise ValueError(f"{path}: {reason}") from None
    logging.raiseExceptions = False
