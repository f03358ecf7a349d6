"""What a test may leave behind: threads, processes, descriptors, files."""

import functools
import gc
import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

# Every process below the tests inherits it, whatever it does to its environment, its
# session and its user; so those are found too whose parents have gone. The limit itself,
# in microseconds, is for processes with real-time priority, and there are none.
_MARK = time.time_ns()


def mark() -> None:
    """Mark this process and all that it starts from now on."""
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    resource.setrlimit(resource.RLIMIT_RTTIME, (_MARK, hard))


class Snapshot(NamedTuple):
    """What there is: for each kind, from what identifies a thing to its name."""

    threads: dict[int, str]
    processes: dict[int, str]
    descriptors: dict[tuple[int, str], str]
    files: dict[str, str]

    def beyond(self, earlier: "Snapshot") -> list[str]:
        """Name what is in this snapshot and not in the earlier one."""
        new = [self.processes[pid] for pid in self.processes_beyond(earlier)]
        for now, before in [
            (self.threads, earlier.threads),
            (self.descriptors, earlier.descriptors),
            (self.files, earlier.files),
        ]:
            new += [now[identity] for identity in now.keys() - before.keys()]
        return sorted(new)

    def processes_beyond(self, earlier: "Snapshot") -> list[int]:
        # Daemons that run through many tests fork as they go: their standby and call
        # processes. What those start has another command line.
        programs = set(earlier.processes.values())
        return [
            pid
            for pid, program in self.processes.items()
            if pid not in earlier.processes and program not in programs
        ]


def take(directory: Path) -> Snapshot:
    """Look what there is.

    :param directory: its files are looked at
    """
    return Snapshot(
        {id(thread): f"thread {thread.name}" for thread in threading.enumerate()},
        _processes(),
        _descriptors(),
        {str(path): f"file {path}" for path in directory.iterdir()},
    )


def wait_until_gone(directory: Path, earlier: Snapshot, seconds: float) -> list[str]:
    """Wait until there is no more than earlier, and name what is left in the end:
    threads and processes take a moment to end."""
    deadline = time.monotonic() + seconds
    while left := take(directory).beyond(earlier):
        if time.monotonic() > deadline:
            break
        gc.collect()
        time.sleep(0.005)
    return left


def kill_beyond(directory: Path, earlier: Snapshot) -> None:
    """Kill the processes that were not there earlier."""
    for pid in take(directory).processes_beyond(earlier):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _descriptors() -> dict[tuple[int, str], str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one of listdir itself
        found[int(name), target] = f"descriptor {name}: {target}"
    return found


def _processes() -> dict[int, str]:
    own = os.getpid()
    parents = {}
    marked = {own}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = _read(name, "stat").rpartition(b")")[2].split()
            if stat[0] == b"Z":
                continue  # has ended; its parent may still be interested
            pid = int(name)
            parents[pid] = int(stat[1])
            if _is_marked(name, start=stat[19]):
                marked.add(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or another user's
    found = {}
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor not in marked:
            ancestor = parents[ancestor]
        if ancestor in marked and pid != own:
            found[pid] = _command_line(pid)
    return found


@functools.lru_cache(maxsize=10_000)
def _is_marked(name: str, start: bytes) -> bool:
    # Remembered by the time of its start too, because ids are used again.
    return f" {_MARK} ".encode() in _read(name, "limits")


def _read(pid: str, file: str) -> bytes:
    with open(f"/proc/{pid}/{file}", "rb") as opened:
        return opened.read()


def _command_line(pid: int) -> str:
    try:
        line = _read(str(pid), "cmdline")
    except (FileNotFoundError, ProcessLookupError):
        line = b""
    words = line.decode(errors="replace").split("\0")
    return f"process {' '.join(words).strip() or pid}"
