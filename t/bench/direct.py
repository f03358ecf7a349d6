"""Calls of a procedure that does nothing, straight to harpd, by 1, 8 and 32 callers at
a time: rate and latency, beside those of a bare server (floor_server.py) in the same
run. The caller is the same bare one for both, a process of its own for each."""

import contextlib
import json
import multiprocessing
import socket
import ssl
import subprocess
import sys
import time

from figures import HERE, percentile, report, servers

_ROUNDS = 5
_CALLS = 320  # in a round, by all callers together
_WANTED = "ratio 0.90"


def main():
    with servers() as both, floor(both.certificate) as port:
        for callers in (1, 8, 32):
            compare(callers, both.daemon_address[1], port, request(both))


def request(both):
    message = {
        "harp": 1,
        "procedure": "noop",
        "arguments": [],
        "auth": {"user": both.user, "password": both.password},
    }
    return json.dumps(message).encode() + b"\n"


@contextlib.contextmanager
def floor(certificate):
    """The bare server; yields its port."""
    command = [sys.executable, HERE / "floor_server.py"]
    process = subprocess.Popen(
        [*command, certificate.certificate, certificate.key],
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
    name = f"direct, {callers} callers"
    rates = [
        [len(latencies) / seconds for seconds, latencies in rounds]
        for rounds in (ours, floors)
    ]
    report(name, "calls/s", *rates, "bare server", _WANTED if callers < 32 else "")
    for percent in (50, 99):
        latencies = [
            [1000 * percentile(latencies, percent) for _, latencies in rounds]
            for rounds in (ours, floors)
        ]
        report(f"{name}, p{percent}", "ms", *latencies, "bare server")


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
