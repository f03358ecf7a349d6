"""Calls of a procedure that does nothing, straight to harpd, by 1 and 8 callers at a
time: rate and latency, beside those of a bare server (floor_server.py) in the same
run. The caller is the same bare one for both, a process of its own for each."""

import contextlib
import json
import multiprocessing
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "lib"))

import harp.testing  # noqa: E402

_PROCEDURES = "from harp import procedure\n\n\n@procedure\ndef noop():\n    return None\n"
_ROUNDS = 5
_CALLS = 200  # in a round, by all callers together


def main():
    with tempfile.TemporaryDirectory() as directory:
        procedures = Path(directory, "procedures.py")
        procedures.write_text(_PROCEDURES)
        servers = Path(directory, "servers")
        servers.mkdir()
        with harp.testing.Servers(procedures, servers) as harpd, floor(harpd) as port:
            line = request(harpd)
            for callers in (1, 8):
                compare(callers, harpd.daemon_address[1], port, line)


def request(harpd):
    message = {
        "harp": 1,
        "procedure": "noop",
        "arguments": [],
        "auth": {"user": harpd.user, "password": harpd.password},
    }
    return json.dumps(message).encode() + b"\n"


@contextlib.contextmanager
def floor(harpd):
    certificate = harpd.certificate
    process = subprocess.Popen(
        [
            sys.executable,
            HERE / "floor_server.py",
            certificate.certificate,
            certificate.key,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield int(process.stdout.readline())
        process.stdin.close()


def compare(callers, port, floor_port, line):
    ours, floors = [], []
    for _ in range(_ROUNDS):
        ours.append(measure(callers, port, line))
        floors.append(measure(callers, floor_port, line))
    for name, rounds in (("harpd", ours), ("floor", floors)):
        rates = [len(latencies) / seconds for seconds, latencies in rounds]
        latencies = sorted(x for _, latencies in rounds for x in latencies)
        print(
            f"direct, {callers} callers, {name}: {statistics.median(rates):.0f}/s "
            f"({min(rates):.0f} to {max(rates):.0f}), "
            f"p50 {latencies[len(latencies) // 2] * 1000:.2f} ms, "
            f"p99 {latencies[len(latencies) * 99 // 100] * 1000:.2f} ms"
        )
    ratio = statistics.median(
        floor[0] / our[0] for our, floor in zip(ours, floors, strict=True)
    )
    print(f"direct, {callers} callers, harpd is {ratio:.0%} of the floor", flush=True)


def measure(callers, port, line, calls=_CALLS):
    """Return the seconds that a round took, and each call's latency."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(callers + 1)
    results = context.SimpleQueue()
    processes = [
        context.Process(
            target=call, args=(port, line, calls // callers, barrier, results)
        )
        for _ in range(callers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    start = time.perf_counter()
    latencies = [x for _ in processes for x in results.get()]
    seconds = time.perf_counter() - start
    for process in processes:
        process.join()
    return seconds, latencies


def call(port, line, count, barrier, results):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    latencies = []
    barrier.wait()
    for _ in range(count):
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(plain) as sock:
                sock.sendall(line)
                answer = b""
                while not answer.endswith(b'{"result":null}\n'):
                    data = sock.recv(65536)
                    if not data:
                        sys.exit(f"no result: {answer!r}")
                    answer += data
        latencies.append(time.perf_counter() - start)
    results.put(latencies)


if __name__ == "__main__":
    main()
