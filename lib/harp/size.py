"""Sizes in bytes, as configuration and procedures write them: a number, or a string
like "16 MiB"."""

from __future__ import annotations

import re

_FORM = re.compile(r"([0-9]+) ?(KiB|MiB|GiB)")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_size(value: object) -> int:
    """Return the number of bytes.

    :raises TypeError: if it is neither an integer nor such a string
    :raises ValueError: if it is below 1
    """
    if isinstance(value, str):
        match = _FORM.fullmatch(value)
        if match is None:
            raise TypeError(f"no size like 16 MiB: {value!r}")
        value = int(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"no size: {value!r}")
    if value < 1:
        raise ValueError(f"must be at least 1, is {value}")
    return value
