"""The audit log: a line for each call and each cancel, who, what, and what became of
it (doc/access.rst has the format).

Lines are written once it is decided, and before the client is told. As long as one
can't be written, further calls are refused: nothing runs that isn't in the log but for
what was under way. A cancel is carried out even then, and its line kept until there is
room.
"""

from __future__ import annotations

import datetime
import errno
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from .. import protocol
from ..config import ConfigError, DispatcherConfig
from ..errors import INVALID_JOBID, STORAGE_ERROR, Refusal, reason
from ..log import fields
from .access import Guest

logger = logging.getLogger(__name__)

_MODE = 0o600
_MOST_UNWRITTEN = 1000  # lines; beyond that cancels are refused as well
_MOST_TEXT = 1000  # characters of what a client names
_ACCEPTED = "accepted"
_REFUSED = "refused"

Done = TypeVar("Done")
"""What a cancel returns."""


class _File:
    """The file as it was opened. Closed when nobody uses it any more: a thread may be
    about to write to it while another one replaces it.

    :raises OSError: if it can't be opened
    """

    def __init__(self, path: str) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(path, flags, _MODE)
        self._identity = os.fstat(self._fd)
        self._is_torn = False

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def has_moved(self) -> bool:
        try:
            return not os.path.samestat(self._identity, os.stat(self._path))
        except FileNotFoundError:
            return True

    def append(self, line: bytes) -> None:
        """Write a line, in one piece.

        :raises OSError: if it can't be written; nothing or a part of it is there then,
            and the next one begins on a line of its own
        """
        if self._is_torn:
            line = b"\n" + line
        written = os.write(self._fd, line)
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError(errno.ENOSPC, "no room for the whole line", self._path)


class Prepared(NamedTuple):
    """A configuration that can be used."""

    config: DispatcherConfig
    file: _File | None


class Audit:
    """The audit log of a dispatcher. Called from any thread.

    :raises ConfigError: as :meth:`prepare`
    """

    def __init__(self, config: DispatcherConfig) -> None:
        # Guards the lines that could not be written yet.
        self._lock = threading.Lock()
        self._unwritten: deque[bytes] = deque()
        # Told only: of two threads that set it, either may be the one that counts.
        self._failing_since: float | None = None
        self.apply(self.prepare(config))

    def prepare(self, config: DispatcherConfig) -> Prepared:
        """Open the file that a configuration names; nothing is changed by it.

        :raises ConfigError: if it can't be opened
        """
        if config.audit_file is None:
            return Prepared(config, None)
        try:
            return Prepared(config, _File(config.audit_file))
        except OSError as error:
            raise ConfigError([f"audit.file: {reason(error)}"]) from None

    def apply(self, prepared: Prepared) -> None:
        """Go by another configuration from now on."""
        self._config, self._file = prepared

    @property
    def unwritten(self) -> int:
        """How many lines could not be written yet."""
        with self._lock:
            return len(self._unwritten)

    @property
    def failing_since(self) -> float | None:
        """Since when lines can't be written, in seconds since the epoch; None: they
        can."""
        return self._failing_since

    # --- what is noted ---

    def call(
        self, guest: Guest, call: protocol.Call, submit: Callable[[], str]
    ) -> str:
        """Submit a call and note what became of it.

        :param submit: returns the job id, or raises what becomes a refusal
        :returns: the job id
        :raises Refusal: ``storage_error`` if calls can't be noted; nothing is done then
        """
        if self._file is None:
            return submit()
        self._catch_up()
        entry = self._call_entry(guest, call)
        job_id = self._noting_refusal(entry, submit)
        self._write({**entry, "outcome": _ACCEPTED, "job": job_id})
        return job_id

    def cancel(
        self, guest: Guest, request: protocol.Cancel, cancel: Callable[[], Done]
    ) -> Done:
        """Cancel a job and note what became of it. As :meth:`call`; ``cancel`` returns
        False if there is nothing to cancel."""
        entry = _begin("cancel", guest, request.on_behalf_of)
        entry["job"] = _short(request.job_id)
        found = self._cancel(entry, cancel)
        if found is False:
            nothing = Refusal(INVALID_JOBID, "no such job that goes on")
            self._write(_refused(entry, nothing))
        else:
            self._write({**entry, "outcome": _ACCEPTED})
        return found

    def cancel_queue(
        self, guest: Guest, queue: dict, cancel: Callable[[], Done]
    ) -> Done:
        """Cancel the jobs of a queue and note that. As :meth:`cancel`.

        :param queue: its name
        """
        entry = {**_begin("cancel_queue", guest, None), "queue": queue}
        done = self._cancel(entry, cancel)
        self._write({**entry, "outcome": _ACCEPTED})
        return done

    def _cancel(self, entry: dict, cancel: Callable[[], Done]) -> Done:
        if self.unwritten >= _MOST_UNWRITTEN:
            self._catch_up()
        return self._noting_refusal(entry, cancel)

    def _noting_refusal(self, entry: dict, act: Callable[[], Done]) -> Done:
        try:
            return act()
        except Refusal as refusal:
            self._write(_refused(entry, refusal))
            raise

    def _call_entry(self, guest: Guest, call: protocol.Call) -> dict:
        entry = {
            **_begin("call", guest, call.on_behalf_of),
            "job": _short(call.job_id),
            "host": _short(call.host),
            "procedure": _short(call.procedure),
            "queue": call.queue and _bounded(call.queue.name),
            "group": _short(call.group),
        }
        if self._config.audit_arguments:
            entry["arguments"] = protocol.masked_arguments(
                call, self._config.secret_arguments
            )
        return entry

    # --- writing ---

    def _write(self, entry: dict) -> None:
        file = self._file
        if file is None:
            return
        # Escaped as ASCII: one line, whatever clients have put in.
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            self._current(file).append(line)
        except OSError as error:
            with self._lock:
                self._unwritten.append(line)
            self._report(error)

    def _report(self, error: OSError) -> None:
        if self._failing_since is None:
            self._failing_since = time.time()
            logger.error(
                "audit log can't be written, calls are refused %s",
                fields(path=self._config.audit_file, error=reason(error)),
            )

    def _current(self, file: _File) -> _File:
        """Return the file that has the name; logrotate(8) may have moved ours."""
        if file.has_moved():
            file = self._file = _File(self._config.audit_file)
        return file

    def _catch_up(self) -> None:
        """Write what could not be written until now.

        :raises Refusal: ``storage_error`` if it still can't
        """
        file = self._file
        if file is None:
            return
        line = None
        try:
            file = self._current(file)
            while (line := self._take_unwritten()) is not None:
                file.append(line)
                line = None
            if self._failing_since is not None:
                self._failing_since = None
                logger.info("audit log can be written again")
        except OSError as error:
            if line is not None:
                with self._lock:
                    self._unwritten.appendleft(line)
            self._report(error)
            text = f"the audit log can't be written: {reason(error)}"
            raise Refusal(STORAGE_ERROR, text) from None

    def _take_unwritten(self) -> bytes | None:
        with self._lock:
            return self._unwritten.popleft() if self._unwritten else None


def _begin(operation: str, guest: Guest, on_behalf_of: str | None) -> dict:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "operation": operation,
        "outcome": None,
        "user": guest.user,
        "on_behalf_of": _short(on_behalf_of),
        "from": guest.peer,
    }


def _refused(entry: dict, refusal: Refusal) -> dict:
    refused = {"outcome": _REFUSED, "type": refusal.type, "reason": refusal.message}
    if "arguments" in entry:
        # Or who may do nothing could fill the disk soon.
        refused["arguments"] = _bounded(entry["arguments"])
    return {**entry, **refused}


def _bounded(value: object) -> object:
    """Return a JSON value, or the beginning of its text if that is long."""
    text = protocol.canonical(value)
    return value if len(text) <= _MOST_TEXT else text[:_MOST_TEXT]


def _short(value: object) -> str | None:
    """Return what a client names, of any type, as it is written here."""
    if value is None:
        return None
    text = value if isinstance(value, str) else protocol.canonical(value)
    return text[:_MOST_TEXT]
