"""Configuration files: TOML, checked against a table.

A table is a frozen dataclass with a :func:`key` for each field; the manual's tables
are made from it, and the files in examples/ (t/example_configurations.py). Loading
reports every fault of a file at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from ..commandline import one_line
from ..kinds import Kind

Table = TypeVar("Table")

_MOST_CHARACTERS = 1000  # of a fault; more is not looked at, and may be megabytes


class ConfigError(Exception):
    """Raised when a configuration can't be used.

    :ivar faults: one line for each fault, with file and key
    """

    def __init__(self, faults: list[str]) -> None:
        self.faults = [shown(fault) for fault in faults]
        super().__init__("\n".join(self.faults))

    def within(self, path: str) -> ConfigError:
        """Return it with a file's name before each fault, where only a key was."""
        return ConfigError([f"{path}: {fault}" for fault in self.faults])


def collect(faults: list[str], make: Callable, *arguments: object) -> Any:
    """Return what ``make`` does. If it raises :class:`ConfigError`, its faults are
    added to those that were found before, and None is returned."""
    try:
        return make(*arguments)
    except ConfigError as error:
        faults += error.faults
        return None


def shown(fault: str) -> str:
    """Return a fault as a line that can be shown, whatever names and values are in
    it: where it is stands at its beginning, and why at its end."""
    half = _MOST_CHARACTERS // 2
    if len(fault) > _MOST_CHARACTERS:
        fault = f"{fault[:half]} ... {fault[-half:]}"
    return one_line(fault)


class Key(NamedTuple):
    """A row of a table.

    :ivar name: with its section, as ``section.key``
    :ivar default: as it would stand in the file; None: no default
    :ivar unit: ``s``, ``bytes`` or empty
    :ivar reason: why it is there, or has that default; empty: that is plain
    :ivar example: something else that could stand in the file; None: none is needed
    :ivar at_start: a start applies it, a reload does not
    """

    name: str
    kind: Kind
    default: object
    unit: str
    meaning: str
    reason: str = ""
    example: object = None
    at_start: bool = False


def key(
    name: str, kind: Kind, default: object, meaning: str, unit: str = "", **more
) -> dataclasses.Field:
    """Declare a field of a table. ``default`` is what could stand in the file; ``more``
    is the rest of a :class:`Key`."""
    return row(Key(name, kind, default, unit, meaning, **more))


def row(key: Key) -> dataclasses.Field:
    """Declare a field of a table whose row is written elsewhere."""
    value = None if key.default is None else key.kind.parse(key.default)
    return dataclasses.field(default_factory=lambda: value, metadata={"key": key})


def keys(table: type) -> dict[str, tuple[str, Key]]:
    """Return the rows of a table: by the key's name, its field and the row."""
    return {
        field.metadata["key"].name: (field.name, field.metadata["key"])
        for field in dataclasses.fields(table)
    }


def at_start(table: type) -> dict[str, str]:
    """Return what a start alone applies: keys by the names of their fields."""
    return {
        field: row.name for field, row in keys(table).values() if row.at_start
    }


def load(path: str, table: type[Table]) -> Table:
    """Read a configuration file.

    :raises ConfigError: if it can't be read, isn't TOML, or has a key that is unknown
        or holds what it can't
    """
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    except ValueError as error:  # not UTF-8 and numbers that are too long, too
        raise ConfigError([f"{path}: not TOML: {error}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: not TOML: nested too deep"]) from None
    return check(content, table, path)


def check(content: Mapping[str, Any], table: type[Table], path: str) -> Table:
    """Check what a configuration file holds. Errors as for :func:`load`."""
    rows = keys(table)
    faults = []
    values = {}
    for name, value in _flatten(content, rows):
        if name not in rows:
            faults.append(f"{path}: {name}: {_unknown(name, rows)}")
            continue
        field, row = rows[name]
        try:
            values[field] = row.kind.parse(value)
        except ValueError as error:
            fault = str(error) or f"must be {row.kind.text}"
            faults.append(f"{path}: {name}: {fault}")
    if faults:
        raise ConfigError(faults)
    return table(**values)


def _flatten(content: Mapping[str, Any], rows, prefix: str = ""):
    """Yield dotted names and values. Only a table that is a section is taken apart."""
    for name, value in content.items():
        name = prefix + name
        if isinstance(value, dict) and _is_section(name, rows):
            yield from _flatten(value, rows, name + ".")
        else:
            yield name, value


def _is_section(name: str, rows) -> bool:
    return any(row.startswith(name + ".") for row in rows)


def _unknown(name: str, rows) -> str:
    if _is_section(name, rows):
        return f"must be a section, [{name}]"
    close = difflib.get_close_matches(name, rows, 1)
    return "unknown key" + (f"; do you mean {close[0]}?" if close else "")
