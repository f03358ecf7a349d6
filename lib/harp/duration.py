"""Durations in seconds, as configuration and command lines write them: a number, or a
string like "30d"."""

from __future__ import annotations

import re

_FORM = re.compile(r"([0-9]+) ?([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_MOST = 1_000_000_000  # s; no clock can be that far off


def parse_duration(value: object) -> float:
    """Return the number of seconds.

    :raises TypeError: if it is neither a number nor such a string
    :raises ValueError: if it is not above 0, or absurdly long
    """
    if isinstance(value, str):
        match = _FORM.fullmatch(value)
        if match is None:
            raise TypeError(f"no duration like 30d, 12h, 15m or 40s: {value!r}")
        value = int(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"no duration: {value!r}")
    if not 0 < value <= _MOST:
        raise ValueError(f"out of range (0 to {_MOST} s): {value}")
    return value
