"""What a client of the dispatcher may do: an entry of ``authorization``."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from .kinds import BOOLEAN, STRINGS, Kind

CALL = "call"
CANCEL = "cancel"
READ = "read"
LIST = "list"
OPERATIONS = frozenset((CALL, CANCEL, READ, LIST))
_ALL = "*"


class Rights(NamedTuple):
    """What a client may do, and with which jobs: those whose host, procedure and queue
    match one of the patterns each. All others don't exist to it.

    :ivar operations: names of groups of operations, as in :data:`OPERATIONS`
    :ivar hosts: patterns, ``*`` and ``?`` as for files; None: all
    :ivar procedures: likewise
    :ivar queues: patterns of the canonical text of a queue's name; that of a job
        without a queue is empty; None: all
    :ivar own_jobs: only with the jobs that it has submitted itself
    """

    operations: frozenset[str] = OPERATIONS
    hosts: tuple[str, ...] | None = None
    procedures: tuple[str, ...] | None = None
    queues: tuple[str, ...] | None = None
    own_jobs: bool = False

    @property
    def are_limited(self) -> bool:
        """Whether there can be jobs that don't exist to this client."""
        return self.own_jobs or self[1:4] != (None, None, None)

    def allow_host(self, host: str) -> bool:
        return _matches(self.hosts, host)

    def allow_procedure(self, procedure: str) -> bool:
        return _matches(self.procedures, procedure)

    def allow_queue(self, queue: str | None) -> bool:
        """:param queue: canonical text of its name; None: no queue"""
        return _matches(self.queues, queue or "")


NOTHING = Rights(operations=frozenset())
EVERYTHING = Rights()


def _matches(patterns: tuple[str, ...] | None, text: str) -> bool:
    if patterns is None:
        return True
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def parse_rights(value: object) -> Mapping[str, Rights]:
    """Parse the table of all clients: by name a table each.

    :raises ValueError: if it isn't; says where
    """
    if not isinstance(value, dict):
        raise ValueError
    rights = {}
    for name, entry in value.items():
        if not isinstance(entry, dict):
            raise ValueError(f"{name}: must be a table with operations = [\"…\"]")
        try:
            rights[name] = _parse_entry(entry)
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from None
    return rights


def _parse_entry(entry: dict) -> Rights:
    values: dict[str, object] = {}
    for key, value in entry.items():
        if key not in _KEYS:
            raise ValueError(f"{key}: unknown key")
        kind = _KEYS[key]
        try:
            values[key] = kind.parse(value)
        except ValueError:
            raise ValueError(f"{key}: must be {kind.text}") from None
    # What a client may do is never left to a default.
    operations = set(values.get("operations", ()))
    unknown = operations - OPERATIONS - {_ALL}
    if "operations" not in values or unknown:
        known = ", ".join(f'"{name}"' for name in sorted(OPERATIONS))
        raise ValueError(f'operations: must be an array of {known}, or ["*"]')
    values["operations"] = OPERATIONS if _ALL in operations else frozenset(operations)
    return Rights(**values)


_KEYS = {
    "operations": STRINGS,
    "hosts": STRINGS,
    "procedures": STRINGS,
    "queues": STRINGS,
    "own_jobs": BOOLEAN,
}

RIGHTS = Kind('a table of tables like {operations = ["call", "read"]}', parse_rights)
