"""Calls of one caller while 500 connections are open at the port and say nothing: the
latency beside that of the unloaded daemon. The first call waits until those that came
before it give way; the slowest one is shown, too."""

import contextlib
import socket
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "lib"))

import harp.testing  # noqa: E402
from bulk import receive  # noqa: E402

_PROCEDURES = "from harp import procedure\n\n\n@procedure\ndef noop():\n    return None\n"
_SILENT = 500
_CALLS = 1000
_MOST = 10  # times the unloaded p99


def main():
    with tempfile.TemporaryDirectory() as directory:
        procedures = Path(directory, "procedures.py")
        procedures.write_text(_PROCEDURES)
        with harp.testing.Servers(procedures, directory) as harpd:
            measure(harpd, 100)
            unloaded = report("unloaded", measure(harpd, _CALLS))
            with contextlib.ExitStack() as stack:
                for _ in range(_SILENT):
                    sock = socket.create_connection(harpd.daemon_address)
                    stack.enter_context(sock)
                loaded = report("500 silent connections", measure(harpd, _CALLS))
    print(f"silent, p99 is {loaded / unloaded:.1f} times the unloaded", flush=True)
    if loaded > _MOST * unloaded:
        sys.exit(f"silent: more than {_MOST} times the unloaded p99")


def measure(harpd, count):
    latencies = []
    for _ in range(count):
        start = time.perf_counter()
        data = b"".join(receive(harpd, "noop"))
        latencies.append(time.perf_counter() - start)
        if not data.endswith(b'{"result":null}\n'):
            sys.exit(f"no result: {data!r}")
    return sorted(latencies)


def report(name, latencies):
    p50, p99 = (latencies[len(latencies) * p // 100] for p in (50, 99))
    print(
        f"silent, {name}: p50 {p50 * 1000:.2f} ms, p99 {p99 * 1000:.2f} ms, "
        f"slowest {latencies[-1] * 1000:.0f} ms",
        flush=True,
    )
    return p99


if __name__ == "__main__":
    main()
