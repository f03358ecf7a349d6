"""A configuration file with every key there is, made from the keys' table: what the
``setup`` commands begin with, and the ones in ``examples/``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from .config import Key, keys
from .kinds import STRING_LISTS, STRING_TABLE
from .rights import RIGHTS

_WIDTH = 88


def configuration(
    table: type, head: str, values: Mapping[str, object], explained: bool = False
) -> str:
    """Return a configuration file with all keys of a table, commented out but for those
    that are set.

    :param table: of :mod:`harp.config`
    :param head: what it begins with
    :param values: those that are set, by the keys' names
    :param explained: say the reason for each key, too, and give examples
    """
    sections: dict[str, list[Key]] = {"": []}
    for name, (_, row) in keys(table).items():
        section, _, _ = name.rpartition(".")
        if is_table(row):
            section = name
        sections.setdefault(section, []).append(row)
    text = head
    for section, rows in sections.items():
        if section:
            # A table that is there counts, even if it is empty.
            text += f"\n{'# ' if is_table(rows[0]) else ''}[{section}]\n"
        for number, row in enumerate(rows):
            text += "\n" if not section or (explained and number) else ""
            text += _entry(row, values, explained)
    return text


def _entry(row: Key, values: Mapping[str, object], explained: bool) -> str:
    unit = f" ({row.unit})" if row.unit else ""
    text = _comment(row.meaning + unit)
    if explained:
        text += "".join(_comment(line) for line in _explanation(row))
    name = row.name.rpartition(".")[2]
    if row.name in values:
        return f"{text}{name} = {to_toml(values[row.name])}\n"
    if is_table(row):
        return text
    default = "" if row.default is None else f" {to_toml(row.default)}"
    return f"{text}# {name} ={default}\n"


def _explanation(row: Key) -> list[str]:
    """Return what else there is to be said of a key, a paragraph each."""
    found = [f"Why: {row.reason}"] if row.reason else []
    if row.at_start:
        found.append("A start applies it, a reload does not.")
    for line in example(row):
        found.append(f"Example: {line}")
    return found


def example(row: Key) -> list[str]:
    """Return lines that could stand in the file for a key."""
    if row.example is None:
        return []
    if is_table(row):
        return [f"{key} = {to_toml(value)}" for key, value in row.example.items()]
    return [f"{row.name.rpartition('.')[2]} = {to_toml(row.example)}"]


def _comment(text: str) -> str:
    # No word is broken: examples are to be pasted.
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    ) + "\n"


def is_table(row: Key) -> bool:
    """Tell whether a key's value is a table, which has a section of its own."""
    return row.kind in (STRING_TABLE, STRING_LISTS, RIGHTS)


def to_toml(value: object) -> str:
    """Return a value as it stands in a file. Tables are inline."""
    if isinstance(value, Mapping):
        pairs = (f"{key} = {to_toml(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    # Of strings, numbers and booleans, JSON is TOML.
    return json.dumps(value, ensure_ascii=False)
