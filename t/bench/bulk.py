"""Much data, straight from harpd: a result of 100 MB and a million small streamed
values, with the limit on a value raised. All of it must arrive; the rate, and the most
memory that the front ever held (VmHWM)."""

import json
import socket
import ssl
import sys
import time
from pathlib import Path

from figures import report, servers

_BYTES = 100_000_000
_VALUES = 1_000_000
_ACKNOWLEDGED = b'{"harp":1,"stream_result":%b}\n'


def main():
    with servers(daemon={"limits": {"value": "200 MiB"}}) as both:
        for _ in receive(both, "noop"):
            pass
        at_rest = most(both)
        for name, check in (
            ("result of 100 MB", check_large),
            ("1,000,000 streamed values", check_many),
        ):
            start = time.perf_counter()
            size = check(both)
            rate = size / (time.perf_counter() - start) / 1e6
            report(f"bulk, {name}", "MB/s", [rate])
            report(
                f"bulk, most memory of the front after {name}",
                "MB",
                [most(both)],
                [at_rest],
                "at rest",
            )


def most(both):
    """Return the most memory that the front ever held, in MB."""
    status = Path(f"/proc/{both.daemon.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def check_large(both):
    size = 0
    beginning = end = b""
    for data in receive(both, "large", _BYTES):
        size += len(data)
        beginning = (beginning + data)[:100] if len(beginning) < 100 else beginning
        end = (end + data)[-100:]
    head = _ACKNOWLEDGED % b"false" + b'{"result":"'
    if not (
        beginning == head + b"x" * (100 - len(head))
        and end == b"x" * 97 + b'"}\n'
        and size == len(head) + _BYTES + 3
    ):
        sys.exit(f"result is not whole: {size} bytes, {beginning!r} to {end!r}")
    return size


def check_many(both):
    lines = b"".join(receive(both, "many", _VALUES)).split(b"\n")
    values = [json.loads(line)["stream"] for line in lines[1:-2]]
    if values != list(range(_VALUES)) or lines[-2:] != [b'{"result":1000000}', b""]:
        sys.exit(f"stream is not whole: {len(values)} values, {lines[-2:]}")
    return sum(map(len, lines)) + len(lines)


def receive(both, procedure, *arguments):
    """Yield all that a call brings."""
    request = {
        "harp": 1,
        "procedure": procedure,
        "arguments": arguments,
        "auth": {"user": both.user, "password": both.password},
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(both.daemon_address) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain) as sock:
            sock.sendall(json.dumps(request).encode() + b"\n")
            while data := sock.recv(1 << 20):
                yield data


if __name__ == "__main__":
    main()
