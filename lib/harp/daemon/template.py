"""The files that ``harpd setup`` begins with."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from ..config import DaemonConfig, Key, keys
from ..kinds import STRING_LISTS, STRING_TABLE

_WIDTH = 88

PASSWORDS = """\
# Who may call: a line NAME:sha256:HEX or NAME:scrypt:... for each, written by
# "harpd passwd". Several lines of one name are all valid. No restart is needed.
"""

PROCEDURES = '''\
"""What may be called on this machine. After a change: harpd reload."""

from harp import Result, procedure, streaming_procedure  # noqa: F401

# @procedure(timeout=10)
# def uptime():
#     with open("/proc/uptime") as file:
#         return float(file.read().split()[0])
'''

_HEAD = """\
# harpd's configuration. What is commented out is the default, if there is one; "harpd
# -t" checks it, "harpd reload" applies a change.
"""


def configuration(values: Mapping[str, object]) -> str:
    """Return a configuration file with all keys there are.

    :param values: those that are set, by the keys' names
    """
    sections: dict[str, list[Key]] = {"": []}
    for name, (_, row) in keys(DaemonConfig).items():
        section, _, _ = name.rpartition(".")
        if _is_table(row):
            section = name
        sections.setdefault(section, []).append(row)
    text = _HEAD
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
    return row.kind in (STRING_TABLE, STRING_LISTS)


def _toml(value: object) -> str:
    # Of strings, numbers, booleans and arrays of them, JSON is TOML.
    return json.dumps(value, ensure_ascii=False)
