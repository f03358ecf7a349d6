"""Log lines of the daemons: a fixed message, then fields as JSON, so that they can be
read by people and searched by programs."""

from __future__ import annotations

import json
import logging
import os
import sys

_SYSTEM_LOG = "/dev/log"  # syslog(3)
_SOURCE_FILE = logging._srcfile
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
    _collect(everything=False)
    # A log that can't be written must not write tracebacks in its stead.
    logging.raiseExceptions = False


def _collect(everything: bool) -> None:
    """Say what is found out for each line. Our own formats show no thread, process or
    place in the source: without them a line costs half ("Logging HOWTO")."""
    logging.logThreads = everything
    logging.logProcesses = everything
    logging.logMultiprocessing = everything
    logging._srcfile = _SOURCE_FILE if everything else None


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
    _collect(everything=False)
    logging.raiseExceptions = False


def to_file(path: str, level: int = logging.INFO) -> None:
    """Send the log to a file. One that is moved away, to rotate it, is made anew.

    :raises OSError: if it can't be written
    """
    from logging.handlers import WatchedFileHandler

    handler = WatchedFileHandler(path, encoding="utf-8")
    logging.basicConfig(handlers=[handler], level=level, format=FORMAT, force=True)
    _collect(everything=False)
    logging.raiseExceptions = False


def reopen() -> list[str]:
    """Open the files that the log goes to again.

    :returns: a line for each that can't be; the log still goes where it went, then
    """
    faults = []
    for handler in _handlers():
        # One that watches its file does so by itself, with the next line.
        if not isinstance(handler, logging.FileHandler) or _watches(handler):
            continue
        try:
            stream = open(handler.baseFilename, "a", encoding=handler.encoding)
        except OSError as error:
            faults.append(f"{handler.baseFilename}: {error.strerror}")
            continue
        old = handler.setStream(stream)
        if old is not None:
            old.close()
    return faults


def _handlers() -> list[logging.Handler]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = (getattr(one, "handlers", ()) for one in loggers)
    return list(dict.fromkeys(handler for some in found for handler in some))


def _watches(handler: logging.FileHandler) -> bool:
    from logging.handlers import BaseRotatingHandler, WatchedFileHandler

    return isinstance(handler, (WatchedFileHandler, BaseRotatingHandler))


def is_dictionary(path: str | None) -> bool:
    """Tell by a file's name whether it says where the log goes, and is not the log."""
    return path is not None and path.endswith((".toml", ".json"))


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
    _collect(everything=True)
    logging.raiseExceptions = False
