"""What procedures print: into the log, line by line."""

from __future__ import annotations

import logging

from ..log import fields

logger = logging.getLogger(__name__)

_MAX_LINE = 8192  # bytes of a line that stand in one log line


class OutputLog:
    """The output of one call.

    :param names: what every log line says about the call
    """

    def __init__(self, **names: object) -> None:
        self._names = names
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Log the lines that are whole, keep the rest."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._log(line)
        if len(self._rest) > _MAX_LINE:
            self.finish()

    def finish(self) -> None:
        """Log a last line that has no end."""
        if self._rest:
            self._log(self._rest)
            self._rest = b""

    def _log(self, line: bytes) -> None:
        for start in range(0, max(1, len(line)), _MAX_LINE):
            piece = line[start : start + _MAX_LINE].decode("utf-8", "backslashreplace")
            logger.info("output %s", fields(**self._names, text=piece))
