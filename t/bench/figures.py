"""What the benchmarks share: servers to measure, a bare client, and the lines that tell
the figures. Each figure stands beside its floor, what the machine can do at best,
measured in turns with it: the ratio says more than a number of one day's machine."""

import contextlib
import json
import os
import platform
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "lib"))

import harp.testing  # noqa: E402
from harp import jobid  # noqa: E402

PROCEDURES = """
import time
from harp import procedure, streaming_procedure

@procedure
def noop():
    return None

@procedure
def large(size):
    return "x" * size

@procedure
def sleep(seconds):
    time.sleep(seconds)

@streaming_procedure
def count(number):
    yield from range(number)

@streaming_procedure
def many(number):
    yield from range(number)
    return number

@streaming_procedure
def blobs(number, size):
    yield from ("x" * size for _ in range(number))

@streaming_procedure
def tick(seconds):
    yield 0
    time.sleep(seconds)
"""


@contextlib.contextmanager
def servers(where=None, **options):
    """harpd and harpcallerd in a directory of their own.

    :param where: directory to make it in; None: that for temporary files
    :param options: of :class:`harp.testing.Servers`
    """
    # Whoever ends us by a signal doesn't want the servers to stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with tempfile.TemporaryDirectory(dir=where) as directory:
        procedures = Path(directory, "procedures.py")
        procedures.write_text(PROCEDURES)
        with harp.testing.Servers(procedures, directory, **options) as both:
            yield both


@contextlib.contextmanager
def echo_server(reply):
    """A bare server that answers each line with the same one, in a thread of a process
    of its own, as the dispatcher does; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    pid = os.fork()
    if pid == 0:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_echo, args=(sock, reply), daemon=True).start()
    with listener:
        yield listener.getsockname()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _echo(sock, reply):
    with sock, sock.makefile("rb") as file:
        for _ in file:
            sock.sendall(reply)


class Client:
    """A kept connection to a dispatcher, as bare as it can be.

    :param address: of the dispatcher
    """

    def __init__(self, address):
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.sock.close()

    def ask(self, line):
        """Send a request and return the line that is the reply."""
        self.sock.sendall(line)
        return self.file.readline()

    def ask_all(self, lines):
        """Send requests ahead, so many that no buffer overflows, and return the
        replies."""
        replies = []
        for k in range(0, len(lines), 50):
            some = lines[k : k + 50]
            self.sock.sendall(b"".join(some))
            replies += [self.file.readline() for _ in some]
        return replies

    def submit(self, both, procedure, *arguments, **more):
        return submitted(self.ask(call(both, procedure, *arguments, **more)))


def call(both, procedure, *arguments, **more):
    """The line of a call as the library sends it, under an id of its own."""
    return request(
        host=both.hostname,
        procedure=procedure,
        arguments=arguments,
        job_id=jobid.make(),
        **more,
    )


def queue(number, concurrency=1):
    return {"name": {"bench": number}, "concurrency": concurrency}


def request(**keys):
    return json.dumps({"harpcaller": 1, **keys}).encode() + b"\n"


def submitted(reply):
    """Return the job id in a reply."""
    message = json.loads(reply)
    if "job_id" not in message:
        sys.exit(f"not accepted: {message}")
    return message["job_id"]


def report(name, unit, ours, floors=None, floor="floor", wanted=""):
    """Print a figure, and its ratio to the floor.

    :param ours: what was measured, in each round
    :param floors: the same of the floor, in the same rounds
    :param floor: what that is
    :param wanted: what the figure should be, for people
    """
    figure = {"name": name, "unit": unit, **spread(ours)}
    text = f"{name}: {show(ours)} {unit}"
    if floors:
        ratios = [our / bare for our, bare in zip(ours, floors, strict=True)]
        figure["floor"] = {"name": floor, **spread(floors)}
        figure["ratio"] = spread(ratios)
        text += (
            f"; {floor}: {show(floors)} {unit}; ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if wanted:
        figure["wanted"] = wanted
        text += f" [wanted: {wanted}]"
    print(text, flush=True)
    _store(figure)


def _store(figure):
    if path := os.environ.get("BENCH_JSON"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(figure) + "\n")


def spread(values):
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
    }


def show(values):
    median = statistics.median(values)
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    text = f"{median:,.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
    return text


def percentile(values, percent):
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def resident(pid):
    """Return the resident memory of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def machine(directory):
    """Return what is measured on, as a dictionary."""
    disk = ["findmnt", "--noheadings", "--output", "FSTYPE,SOURCE", "--target"]
    try:
        found = subprocess.run([*disk, directory], capture_output=True, text=True)
        disk = " ".join(found.stdout.split())
    except OSError:
        disk = "unknown"
    return {
        "python": platform.python_version(),
        "tls": ssl.OPENSSL_VERSION,
        "kernel": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "disk": disk,
    }


def main():
    found = machine(tempfile.gettempdir())
    print(", ".join(f"{name}: {value}" for name, value in found.items()), flush=True)
    _store({"machine": found})


if __name__ == "__main__":
    main()
