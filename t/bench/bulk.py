"""Much data, straight from harpd: a result of 100 MB and a million small streamed
values, with the limit on a value raised. All of it must arrive; the rate, and the most
memory that the front ever held (VmHWM)."""

import json
import socket
import ssl
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "lib"))

import harp.testing  # noqa: E402

_BYTES = 100_000_000
_VALUES = 1_000_000
_PROCEDURES = """
from harp import procedure, streaming_procedure

@procedure
def noop():
    return None

@procedure
def large(size):
    return "x" * size

@streaming_procedure
def many(number):
    yield from range(number)
    return number
"""
_ACKNOWLEDGED = b'{"harp":1,"stream_result":%b}\n'


def main():
    with tempfile.TemporaryDirectory() as directory:
        procedures = Path(directory, "procedures.py")
        procedures.write_text(_PROCEDURES)
        limits = {"limits": {"value": "200 MiB"}}
        with harp.testing.Servers(procedures, directory, daemon=limits) as harpd:
            for _ in receive(harpd, "noop"):
                pass
            report(harpd, "bulk, at rest", 0, 0)
            start = time.perf_counter()
            check_large(harpd)
            report(harpd, "bulk, result of 100 MB", start, _BYTES)
            start = time.perf_counter()
            size = check_many(harpd)
            report(harpd, "bulk, 1,000,000 streamed values", start, size)


def report(harpd, name, start, size):
    status = Path(f"/proc/{harpd.daemon.pid}/status").read_text()
    most = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    rate = ""
    if size:
        seconds = time.perf_counter() - start
        rate = f"{seconds:.1f} s, {size / seconds / 1e6:.0f} MB/s, "
    print(f"{name}: {rate}front's VmHWM {most:.0f} MiB", flush=True)


def check_large(harpd):
    size = 0
    beginning = end = b""
    for data in receive(harpd, "large", _BYTES):
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


def check_many(harpd):
    lines = b"".join(receive(harpd, "many", _VALUES)).split(b"\n")
    values = [json.loads(line)["stream"] for line in lines[1:-2]]
    if values != list(range(_VALUES)) or lines[-2:] != [b'{"result":1000000}', b""]:
        sys.exit(f"stream is not whole: {len(values)} values, {lines[-2:]}")
    return sum(map(len, lines)) + len(lines)


def receive(harpd, procedure, *arguments):
    """Yield all that a call brings."""
    request = {
        "harp": 1,
        "procedure": procedure,
        "arguments": arguments,
        "auth": {"user": harpd.user, "password": harpd.password},
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(harpd.daemon_address) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain) as sock:
            sock.sendall(json.dumps(request).encode() + b"\n")
            while data := sock.recv(1 << 20):
                yield data


if __name__ == "__main__":
    main()
