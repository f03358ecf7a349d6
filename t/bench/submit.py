"""Submitting over 1 and 8 connections, kept ones and a fresh one for each call, to a
queue whose place is taken, so that nothing runs meanwhile. The floor: a bare program
that creates, writes, syncs and renames such files and syncs their directory, by 1 and 8
threads. Once on the disk, and once in memory, where syncing costs nothing."""

import os
import selectors
import tempfile
import threading
import time
from pathlib import Path

from figures import Client, call, queue, report, servers, submitted

_ROUNDS = 5
_CALLS = 800  # in a round, by all connections together
_WANTED = {1: "ratio 0.60", 8: "ratio 0.50"}
_MEMORY = "/dev/shm"  # shm_overview(7)


def main():
    measure("synced", None)
    measure("in memory", _MEMORY)


def measure(name, where):
    with servers(where) as both, Client(both.dispatcher_address) as client:
        first = client.submit(both, "sleep", 600, queue=queue(0))
        size = (both.directory / "jobs" / "active" / f"{first}.jsonl").stat().st_size
        for connections in (1, 8):
            kept, fresh, floors = [], [], []
            for _ in range(_ROUNDS):
                kept.append(submit(both, connections))
                fresh.append(submit(both, connections, is_kept=False))
                floors.append(write(both.directory, connections, size))
            for way, ours in (("kept", kept), ("fresh", fresh)):
                is_aim = way == "kept" and where is None
                report(
                    f"submit, {name}, {connections} {way} connections",
                    "/s",
                    ours,
                    floors,
                    f"raw files by {connections} threads",
                    _WANTED[connections] if is_aim else "",
                )


def submit(both, connections, is_kept=True):
    """Return the rate. One thread for all connections: it is the dispatcher that is
    measured."""
    lines = [call(both, "noop", queue=queue(0)) for _ in range(_CALLS)]
    replies = []
    with selectors.DefaultSelector() as selector:

        def connect():
            client = Client(both.dispatcher_address)
            selector.register(client.sock, selectors.EVENT_READ, client)
            return client

        start = time.perf_counter()
        for _ in range(connections):
            connect().sock.sendall(lines.pop())
        while len(replies) < _CALLS:
            for key, _ in selector.select():
                client = key.data
                replies.append(client.file.readline())
                if not is_kept or not lines:
                    selector.unregister(client.sock)
                    client.close()
                if lines:
                    (client if is_kept else connect()).sock.sendall(lines.pop())
        seconds = time.perf_counter() - start
    for reply in replies:
        submitted(reply)
    return _CALLS / seconds


def write(directory, threads, size):
    """Return the rate of the floor."""
    data = b"x" * size
    with tempfile.TemporaryDirectory(dir=directory) as path:
        workers = [
            threading.Thread(
                target=write_files, args=(path, range(k, _CALLS, threads), data)
            )
            for k in range(threads)
        ]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - start
        if len(list(Path(path).iterdir())) != _CALLS:
            raise SystemExit("files are missing")
    return _CALLS / seconds


def write_files(directory, numbers, data):
    for number in numbers:
        new = f"{directory}/.{number}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, data)
        os.fdatasync(fd)
        os.rename(new, f"{directory}/{number}.jsonl")
        os.close(fd)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)


if __name__ == "__main__":
    main()
