"""Procedures for harpd to start from: what a panel asks its servers for.

    sbin/harpd -c harpd.toml -r examples/procedures.py

Arguments come from the caller and are not checked beyond their number and names, so
each procedure looks at its own. All is Python's standard library and Linux.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

from harp import Result, procedure, streaming_procedure

# --- the machine --------------------------------------------------------------------


@procedure
def load():
    """Return the load averages of 1, 5 and 15 minutes, and the number of processors."""
    return {"load": os.getloadavg(), "processors": os.cpu_count()}


@procedure
def uptime():
    """Return the seconds since the machine was started."""
    return float(Path("/proc/uptime").read_text().split()[0])


@procedure
def disk_usage(*paths):
    """Return size and free space, in bytes, of the file systems that hold the paths;
    without any, of all that are on a disk."""
    found = []
    for path in paths or _mount_points():
        usage = shutil.disk_usage(path)
        found.append({"path": path, "total": usage.total, "free": usage.free})
    return found


def _mount_points():
    for line in Path("/proc/mounts").read_text().splitlines():
        device, path = line.split()[:2]
        path = path.replace("\\040", " ")  # as the kernel writes a blank
        if device.startswith("/dev/") and os.path.isdir(path):
            yield path


# --- processes ----------------------------------------------------------------------


@procedure
def process_state(name):
    """Return what is running under a name: process id, state (as in proc(5): R running,
    S sleeping, ...), memory in bytes and seconds since its start, for each process."""
    page = os.sysconf("SC_PAGE_SIZE")
    ticks = os.sysconf("SC_CLK_TCK")
    now = float(Path("/proc/uptime").read_text().split()[0])
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            before, _, after = (directory / "stat").read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended while we were looking
        if before.partition("(")[2] == name:
            fields = after.split()
            found.append(
                {
                    "pid": int(directory.name),
                    "state": fields[0],
                    "memory": int(fields[21]) * page,
                    "seconds": round(now - int(fields[19]) / ticks, 2),
                }
            )
    return sorted(found, key=lambda process: process["pid"])


# --- streams ------------------------------------------------------------------------


@streaming_procedure
def follow_file(path, lines=10):
    """Stream the last lines of a file, then each one that is added, until the call is
    cancelled. A file that is replaced, as logs are, is followed on."""
    yield from _output_of(["tail", "-n", str(int(lines)), "-F", "--", path])


@streaming_procedure
def watch_load(interval=1.0, times=None):
    """Stream the load average of one minute at every interval, so many times or until
    the call is cancelled; return the highest."""
    highest = 0.0
    while times is None or times > 0:
        now = os.getloadavg()[0]
        highest = max(highest, now)
        yield {"time": time.time(), "load": now}
        if times is not None:
            times -= 1
        if times != 0:
            time.sleep(interval)
    return highest


COMMANDS = {
    "disks": ["df", "-h"],
    "processes": ["ps", "-e"],
    "kernel": ["uname", "-a"],
}
"""What :func:`run` may run: a caller chooses a name, never a command line."""


@streaming_procedure(timeout=600)
def run(command):
    """Stream the output of one of the commands above line by line; the result is its
    exit status."""
    if command not in COMMANDS:
        raise ValueError(f"no such command, there are: {', '.join(COMMANDS)}")
    status = yield from _output_of(COMMANDS[command])
    yield Result({"exit_status": status})


def _output_of(command):
    """Yield the lines that a command writes, and return its exit status."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
    ) as process:
        for line in process.stdout:
            yield line.rstrip("\n")
    return process.returncode


# --- to try things out --------------------------------------------------------------


class NotEnough(Exception):
    """Raised when a withdrawal asks for more than there is."""


@procedure
def withdraw(amount, balance=100):
    """Return what is left of a balance. What a procedure raises goes to the caller,
    with its class and text."""
    if amount > balance:
        raise NotEnough(f"{amount} is more than the balance of {balance}")
    return balance - amount


@procedure
def wait(seconds):
    """Take some time, and return when it began and ended."""
    begin = time.time()
    time.sleep(seconds)
    return {"begin": begin, "end": time.time()}


@streaming_procedure
def count_down(start, interval=1.0):
    """Stream the process id, then numbers down to 1 with a pause after each. It can be
    cancelled meanwhile: the process is gone then."""
    yield {"pid": os.getpid()}
    for number in range(start, 0, -1):
        yield number
        time.sleep(interval)
    return "lift-off"
