"""A configuration file with every key there is, made from the keys' table: what the
``setup`` commands begin with."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from .config import Key, keys
from .kinds import STRING_LISTS, STRING_TABLE
from .rights import RIGHTS

_WIDTH = 88


def configuration(table: type, head: str, values: Mapping[str, object]) -> str:
    """Return a configuration file with all keys of a table, commented out but for those
    that are set.

    :param table: of :mod:`harp.config`
    :param head: what it begins with
    :param values: those that are set, by the keys' names
    """
    sections: dict[str, list[Key]] = {"": []}
    for name, (_, row) in keys(table).items():
        section, _, _ = name.rpartition(".")
        if _is_table(row):
            section = name
        sections.setdefault(section, []).append(row)
    text = head
    for section, rows in sections.items():
        if section:
            # A table that is there counts, even if it is empty.
            text += f"\n{'# ' if _is_table(rows[0]) else ''}[{section}]\n"
        for row in rows:
            text += "\n" if not section else ""
            text += _entry(row, values)
    return text


def _entry(row: Key, values: Mapping[str, object]) -> str:
    unit = f" ({row.unit})" if row.unit else ""
    text = textwrap.fill(
        row.meaning + unit, _WIDTH, initial_indent="# ", subsequent_indent="# "
    )
    name = row.name.rpartition(".")[2]
    if row.name in values:
        return f"{text}\n{name} = {_toml(values[row.name])}\n"
    if _is_table(row):
        return f"{text}\n"
    default = "" if row.default is None else f" {_toml(row.default)}"
    return f"{text}\n# {name} ={default}\n"


def _is_table(row: Key) -> bool:
    return row.kind in (STRING_TABLE, STRING_LISTS, RIGHTS)


def _toml(value: object) -> str:
    # Of strings, numbers, booleans and arrays of them, JSON is TOML.
    return json.dumps(value, ensure_ascii=False)
