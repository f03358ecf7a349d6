"""Job ids: UUIDs of version 7 (RFC 9562, section 5.7), in lower case with dashes.

Their first 48 bits are the milliseconds since the epoch, so an id tells when it was
made, and ids sort by that time. Made by hand because the standard library's ``uuid``
has version 7 from Python 3.14 on only, and costs the client an import.
"""

from __future__ import annotations

import functools
import os
import re
import time

_LAST = 0xFFFF_FFFF_FFFF / 1000  # seconds since the epoch


def make(milliseconds: int | None = None) -> str:
    """Return a new job id.

    :param milliseconds: time inside the id, since the epoch; None means now
    """
    if milliseconds is None:
        milliseconds = time.time_ns() // 1_000_000
    number = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    return _dashed(f"{number:032x}")


def _dashed(digits: str) -> str:
    groups = digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]
    return "-".join(groups)


def least(seconds: float) -> str:
    """Return the text that no id made at a time, or later, sorts before."""
    milliseconds = int(max(0.0, min(seconds, _LAST)) * 1000)
    number = f"{milliseconds:012x}"
    return f"{number[:8]}-{number[8:12]}"


def between(low: str, high: str) -> str:
    """Return a text that looks like a job id and sorts after one and not after another,
    by chance: it tells neither.

    :param low: a valid job id
    :param high: a valid job id that sorts after it
    """
    last = _number(high)
    back = int.from_bytes(os.urandom(16), "big") % (last - _number(low))
    number = last - back
    head = f"{number >> 74:012x}7{number >> 62 & 0xFFF:03x}"
    return _dashed(f"{head}{2 << 62 | number & (1 << 62) - 1:016x}")


def _number(job_id: str) -> int:
    """Return the bits of a valid job id that differ between ids."""
    number = int(job_id.replace("-", ""), 16)
    head = number >> 80 << 12 | number >> 64 & 0xFFF
    return head << 62 | number & (1 << 62) - 1


def is_valid(value: object) -> bool:
    """Tell whether ``value``, of any type, has the form of a job id."""
    return isinstance(value, str) and _form().fullmatch(value) is not None


@functools.cache
def _form() -> re.Pattern:
    # Compiled when it is needed: that takes a good part of what ``import harp`` may.
    return re.compile(
        "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    )


def time_of(job_id: str) -> float:
    """Return the time inside a valid job id, in seconds since the epoch."""
    return int(job_id[:8] + job_id[9:13], 16) / 1000
