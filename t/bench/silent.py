"""Calls of one caller while 500 connections are open at the port and say nothing: the
latency beside that of the unloaded daemon. The first call waits until those that came
before it give way; the slowest one is shown, too."""

import contextlib
import socket
import sys
import time

from bulk import receive
from figures import percentile, report, servers

_SILENT = 500
_CALLS = 1000
_MOST = 10  # times the unloaded p99


def main():
    with servers() as both:
        measure(both, 100)
        unloaded = measure(both, _CALLS)
        with contextlib.ExitStack() as stack:
            for _ in range(_SILENT):
                stack.enter_context(socket.create_connection(both.daemon_address))
            loaded = measure(both, _CALLS)
    for percent in (50, 99, 100):
        wanted = f"ratio below {_MOST}" if percent == 99 else ""
        report(
            f"silent, {_SILENT} connections, p{percent}",
            "ms",
            [percentile(loaded, percent)],
            [percentile(unloaded, percent)],
            "without them",
            wanted,
        )


def measure(both, count):
    """Return the latencies in ms."""
    latencies = []
    for _ in range(count):
        start = time.perf_counter()
        data = b"".join(receive(both, "noop"))
        latencies.append((time.perf_counter() - start) * 1000)
        if not data.endswith(b'{"result":null}\n'):
            sys.exit(f"no result: {data!r}")
    return latencies


if __name__ == "__main__":
    main()
