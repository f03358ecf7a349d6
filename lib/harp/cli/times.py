"""Times on a command line."""

from __future__ import annotations

import time

from harp.duration import parse_duration

_DATE = len("2026-11-23")


def parse_time(text: str, is_end: bool = False) -> float:
    """Return a time in seconds since the epoch.

    :param text: ``2026-11-23``, ``2026-11-23T18:30``, in this machine's time zone
        unless it says ``Z`` or ``+01:00``; or how long ago that is, as ``2h``, ``30d``
    :param is_end: it ends a range: of a mere date, the day's end is meant
    :raises ValueError: if it is none of these
    """
    try:
        return time.time() - parse_duration(text)
    except (TypeError, ValueError):
        pass
    import datetime  # here, because every listing would wait for it

    try:
        found = datetime.datetime.fromisoformat(text)
        if is_end and len(text) == _DATE:
            found += datetime.timedelta(days=1)
            return found.timestamp() - 1
        return found.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!a} is no time like 2026-11-23, 2026-11-23T18:30 or 2h"
        ) from None
