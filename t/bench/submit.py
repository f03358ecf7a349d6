"""Submitting over 1 and 8 kept connections, to a queue whose place is taken, so that
nothing runs meanwhile. The floor: a bare program that creates, writes, syncs and
renames such files and syncs their directory, by 1 and 8 threads."""

import os
import selectors
import tempfile
import threading
import time
from pathlib import Path

from figures import Client, call, queue, report, servers, submitted

_ROUNDS = 5
_CALLS = 800  # in a round, by all connections together
_WANTED = {1: "0.60", 8: "0.50"}


def main():
    with servers() as both, Client(both) as client:
        first = client.submit(both, "sleep", 600, queue=queue(0))
        size = (both.directory / "jobs" / "active" / f"{first}.jsonl").stat().st_size
        for connections in (1, 8):
            ours, floors = [], []
            for _ in range(_ROUNDS):
                ours.append(submit(both, connections))
                floors.append(write(both.directory, connections, size))
            report(
                f"submit, {connections} connections",
                "/s",
                ours,
                floors,
                f"raw files by {connections} threads",
                wanted=f"ratio {_WANTED[connections]}",
            )


def submit(both, connections):
    """Return the rate. One thread for all connections: it is the dispatcher that is
    measured."""
    clients = [Client(both) for _ in range(connections)]
    lines = [call(both, "noop", queue=queue(0)) for _ in range(_CALLS)]
    replies = []
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
        start = time.perf_counter()
        for client in clients:
            client.sock.sendall(lines.pop())
        while len(replies) < _CALLS:
            for key, _ in selector.select():
                replies.append(key.data.file.readline())
                if lines:
                    key.data.sock.sendall(lines.pop())
        seconds = time.perf_counter() - start
    for client in clients:
        client.__exit__()
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
