"""Log lines of the daemons: a fixed message, then fields as JSON, so that they can be
read by people and searched by programs."""

from __future__ import annotations

import json
import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class fields:
    """Fields behind a log message: ``logger.info("call ended %s", fields(uid=0))``.
    Written only if the line is; those that are None are left out."""

    __slots__ = ("_values",)

    def __init__(self, **values: object) -> None:
        self._values = values

    def __str__(self) -> str:
        values = {key: item for key, item in self._values.items() if item is not None}
        return json.dumps(values, default=str)


def to_stderr(level: int = logging.INFO) -> None:
    """Send the log to standard error, a line for each record."""
    logging.basicConfig(stream=sys.stderr, level=level, format=FORMAT)
    # A log that can't be written must not write tracebacks in its stead.
    logging.raiseExceptions = False
