"""Log lines of the daemons: a fixed message, then fields as JSON, so that they can be
read by people and searched by programs."""

from __future__ import annotations

import contextlib
import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator

_SYSTEM_LOG = "/dev/log"  # syslog(3)
_JOURNAL = "/run/systemd/journal/socket"  # systemd-journald.service(8)
_SOURCE_FILE = logging._srcfile
_LEVEL = logging.INFO
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
WORDS = STDERR, SYSLOG = ("stderr", "syslog")
"""What says where a log goes, and is no file."""


class fields:
    """Fields behind a log message: ``logger.info("call ended %s", fields(uid=0))``.
    Written only if the line is; those that are None are left out."""

    __slots__ = ("_values",)

    def __init__(self, **values: object) -> None:
        self._values = values

    def __str__(self) -> str:
        return json.dumps(self.values(), default=str)

    def values(self) -> dict[str, object]:
        """Return those that are written."""
        return {key: item for key, item in self._values.items() if item is not None}


def resolve(where: str, directory: str) -> str:
    """Return a configuration's word as it is, and a file's path in full."""
    return where if where in WORDS else os.path.join(directory, where)


def send(where: str, name: str) -> dict | None:
    """Send the log where a configuration says.

    :param where: one of :data:`WORDS`; a file that :func:`is_dictionary`; or the path
        of the log itself
    :param name: of the program
    :returns: what that file held, for :func:`from_content`
    :raises ValueError: if that can't be done; says why
    """
    try:
        if where == STDERR:
            to_stderr()
        elif where == SYSLOG:
            to_syslog(name)
        elif is_dictionary(where):
            return from_file(where)
        else:
            to_file(where)
    except OSError as error:
        raise ValueError(_unusable(where, error)) from None
    return None


def check(where: str) -> None:
    """See whether the log could be sent there; no file is made, and afterwards it goes
    to standard error.

    :raises ValueError: if it couldn't; says why
    """
    try:
        if where == SYSLOG:
            os.stat(_SYSTEM_LOG)
        elif is_dictionary(where):
            _check_dictionary(where)
        elif where != STDERR:
            _check_writable(where)
    except OSError as error:
        raise ValueError(_unusable(where, error)) from None
    finally:
        to_stderr()


@contextlib.contextmanager
def kept() -> Iterator[list[str]]:
    """Keep the texts of warnings and errors of our modules, in place of logging what
    they say meanwhile."""
    texts: list[str] = []
    keeper = logging.Handler(logging.WARNING)
    keeper.emit = lambda record: texts.append(record.getMessage())
    ours = logging.getLogger(__name__.partition(".")[0])
    ours.addHandler(keeper)
    ours.propagate = False
    try:
        yield texts
    finally:
        ours.propagate = True
        ours.removeHandler(keeper)


def has_system_log() -> bool:
    """Tell whether there is a system's log."""
    return os.path.exists(_SYSTEM_LOG)


def _unusable(where: str, error: OSError) -> str:
    if where == SYSLOG:
        return f'the system\'s log: {error.strerror}; set "logging" to a file'
    return f"{error.filename or where}: {error.strerror}"


def _check_writable(path: str) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        os.close(os.open(path, flags))
    except FileNotFoundError:
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            raise
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            text = "does not exist and can't be made"
            raise PermissionError(errno.EACCES, text, path) from None


def _check_dictionary(path: str) -> None:
    content = _read(path)
    handlers = content.get("handlers")
    for handler in handlers.values() if isinstance(handlers, dict) else ():
        # Those of the standard library know how to open their file later.
        if isinstance(handler, dict) and "filename" in handler:
            if str(handler.get("class")).startswith("logging."):
                handler["delay"] = True
    _apply(path, content)
    for handler in _handlers():
        if isinstance(handler, logging.FileHandler) and handler.stream is None:
            _check_writable(handler.baseFilename)


def to_stderr() -> None:
    """Send the log to standard error, a line for each record."""
    logging.basicConfig(stream=sys.stderr, level=_LEVEL, format=FORMAT, force=True)
    _settle(everything=False)


def _settle(everything: bool) -> None:
    """Say what is found out for each line. Our own formats show no thread, process or
    place in the source: without them a line costs half ("Logging HOWTO")."""
    # A log that can't be written must not write tracebacks in its stead.
    logging.raiseExceptions = False
    logging.logThreads = everything
    logging.logProcesses = everything
    logging.logMultiprocessing = everything
    logging._srcfile = _SOURCE_FILE if everything else None
    for handler in _handlers():
        _guard(handler)


def _guard(handler: logging.Handler) -> None:
    """Let no handler raise: what can't be logged is to be done all the same. Those that
    watch their file do, where it was moved away and no new one can be made."""
    if "emit" in vars(handler):
        return  # it was there before
    emit = handler.emit

    def guarded(record: logging.LogRecord) -> None:
        try:
            emit(record)
        except Exception:  # as every handler should
            handler.handleError(record)
            if isinstance(handler, logging.FileHandler):
                _let_go(handler)

    handler.emit = guarded


def _let_go(handler: logging.FileHandler) -> None:
    """Close its file, which the next line opens anew. One that was removed from a full
    disk takes its room until then, so that what it has in its buffer never fits."""
    stream, handler.stream = handler.stream, None
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.close()


def to_syslog(name: str) -> None:
    """Send the log to the system's log.

    :param name: of the program
    :raises OSError: if there is none
    """
    from logging.handlers import SysLogHandler

    os.stat(_SYSTEM_LOG)  # the handler would go on without, and never say so
    handler = SysLogHandler(_SYSTEM_LOG, SysLogHandler.LOG_DAEMON)
    handler.ident = f"{name}[{os.getpid()}]: "
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=_LEVEL, force=True)
    _settle(everything=False)


def to_file(path: str) -> None:
    """Send the log to a file. One that is moved away, to rotate it, is made anew.

    :raises OSError: if it can't be written
    """
    from logging.handlers import WatchedFileHandler

    handler = WatchedFileHandler(path, encoding="utf-8")
    logging.basicConfig(handlers=[handler], level=_LEVEL, format=FORMAT, force=True)
    _settle(everything=False)


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
    content = _read(path)
    _apply(path, content)
    return content


def _read(path: str) -> dict:
    import tomllib

    try:
        with open(path, "rb") as file:
            content = json.load(file) if path.endswith(".json") else tomllib.load(file)
        if not isinstance(content, dict):
            raise ValueError("must be an object")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    return content


def _apply(path: str, content: dict) -> None:
    try:
        from_content(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


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
    _settle(everything=True)


# --- for logging.config: lines for programs -----------------------------------------


class JSONLines(logging.Formatter):
    """Makes each record a line of JSON: ``time`` (UTC, ISO 8601), ``level``,
    ``logger``, ``message``, and where there are any ``fields`` and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        text, values = _taken_apart(record)
        moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": text,
        }
        if values:
            line["fields"] = values
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Journal(logging.Handler):
    """Sends records to systemd's journal as it wants them ("Native Journal Protocol"),
    each field as one of the journal's: ``journalctl HARP_JOB=...``.

    :param identifier: the program's name, as for ``journalctl -t``
    :param path: of the journal's socket
    :raises OSError: if there is none
    """

    def __init__(self, identifier: str, path: str = _JOURNAL) -> None:
        os.stat(path)
        super().__init__()
        self._identifier = identifier
        self._path = path
        # Not connected: the journal may be started anew.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            self._send(b"".join(self._entry(record)))
        except Exception:  # as every handler does
            self.handleError(record)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
        super().close()

    def _entry(self, record: logging.LogRecord):
        # With the fields in it, too: a message is what journalctl shows.
        text = record.getMessage()
        _, values = _taken_apart(record)
        if record.exc_info:
            formatter = self.formatter or logging.Formatter()
            text = f"{text}\n{formatter.formatException(record.exc_info)}"
        yield _journal_field("MESSAGE", text)
        yield _journal_field("PRIORITY", str(_syslog_priority(record.levelno)))
        yield _journal_field("SYSLOG_IDENTIFIER", self._identifier)
        yield _journal_field("LOGGER", record.name)
        for name, value in values.items():
            if not isinstance(value, str):
                value = json.dumps(value, default=str)
            yield _journal_field(f"HARP_{name.upper()}", value)

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_as_file(entry)

    def _send_as_file(self, entry: bytes) -> None:
        """Send what is too long for a datagram as a file in memory, sealed so that the
        journal can trust it not to change."""
        fd = os.memfd_create("log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(fd, "wb", buffering=0) as file:
            file.write(entry)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            seals |= fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            # Not socket.send_fds(), which forgets the address (Python 3.11).
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))
            self._socket.sendmsg([], [rights], 0, self._path)


def _journal_field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


def _syslog_priority(level: int) -> int:
    """Return what syslog(3) calls a level."""
    for least, priority in ((50, 2), (40, 3), (30, 4), (20, 6)):
        if level >= least:
            return priority
    return 7


def _taken_apart(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Return a record's message without its fields, and these."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    values: dict[str, object] = {}
    for argument in arguments:
        if isinstance(argument, fields):
            values |= argument.values()
    if not values:
        return record.getMessage(), values
    shown = ("" if isinstance(one, fields) else one for one in arguments)
    return (str(record.msg) % tuple(shown)).rstrip(), values
