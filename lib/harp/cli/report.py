"""How what a call streams, and its end, are printed: values, lines of JSON, or one
document."""

from __future__ import annotations

import argparse
import sys
import time

from harp import protocol, wire

from . import output


class Report:
    """Prints one call.

    :param options: ``json``, ``jsonl``, ``timestamps``
    :param job_id: None: it has none, or it needn't be told
    :param host: to stand before each line; None: nothing
    """

    def __init__(
        self,
        options: argparse.Namespace,
        job_id: str | None = None,
        host: str | None = None,
    ) -> None:
        self._options = options
        self._head = {
            key: text
            for key, text in (("host", host), ("job_id", job_id))
            if text is not None
        }
        self._host = host
        self._packets: list = []

    def packet(self, number: int, when: float | None, value: object) -> None:
        """Tell a value that was streamed.

        :param when: the dispatcher got it, in seconds since the epoch; None: not known
        """
        packet = protocol.build_packet(number, when, value)
        if self._options.json:
            self._packets.append(packet)
        elif self._options.jsonl:
            output.value(self._head | packet)
        else:
            stamp = f"{_moment(when)} " if self._options.timestamps else ""
            self._line(stamp, value)

    def end(self, result: object) -> int:
        """Tell how the call ended and return the exit status.

        :param result: as :meth:`harp.RemoteCall.result` returns it
        """
        if self._options.json:
            output.value(self.document(result))
        elif self._options.jsonl:
            output.value(self._head | output.as_message(result))
        elif output.describe(result) is None:
            stamp = f"{_moment(time.time())} " if self._options.timestamps else ""
            self._line(stamp, result)
        self.tell_problem(result)
        return output.status_of(result)

    def document(self, result: object) -> dict:
        """Return what ``--json`` prints."""
        return self._head | {"stream": self._packets} | output.as_message(result)

    def tell_problem(self, result: object) -> None:
        """Say on standard error why there is no result."""
        text = output.describe(result)
        if text is not None and self._host is None:
            output.fail(output.status_of(result), text)
        elif text is not None:
            output.note(f"{self._host}: {text}")

    def _line(self, stamp: str, value: object) -> None:
        prefix = stamp
        if self._host is not None:
            name = output.one_line(f"{self._host}:")
            prefix = output.coloured(name, "title", sys.stdout) + " " + stamp
        output.line(prefix.encode(errors="backslashreplace") + wire.encode(value))


def _moment(seconds: object) -> str:
    """Return a time for programs and people: in UTC, with milliseconds."""
    try:
        whole, thousandths = divmod(int(seconds * 1000), 1000)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        return f"{text}.{thousandths:03}Z"
    except (TypeError, ValueError, OverflowError, OSError):
        return "-"  # it doesn't say, or nothing that a calendar holds
