"""A line on the terminal that says how far several calls are."""

from __future__ import annotations

import sys
import time

from . import output, table

_ERASE = "\r\x1b[K"


class Progress:
    """Shows it on standard error, if that is a terminal, and nothing otherwise. It must
    be hidden while anything else is printed.

    :param total: calls
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._begin = time.monotonic()
        self._is_shown = False
        # A terminal that can do nothing would show each state behind the last one.
        self._is_wanted = output.is_terminal(sys.stderr) and output.can_erase()

    def show(self, running: int, waiting: int, failed: int) -> None:
        if not self._is_wanted:
            return
        done = self._total - running - waiting
        minutes, seconds = divmod(int(time.monotonic() - self._begin), 60)
        text = (
            f"{done}/{self._total} done, {running} running, {waiting} waiting, "
            f"{failed} failed, {minutes}:{seconds:02}"
        )
        # The terminal may have another width each time; what is too long would be
        # wrapped, and never be erased.
        width = table.terminal_width(sys.stderr)
        self._write(_ERASE + text[: max(0, width - 1)])
        self._is_shown = True

    def hide(self) -> None:
        if self._is_shown:
            self._write(_ERASE)
            self._is_shown = False

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
