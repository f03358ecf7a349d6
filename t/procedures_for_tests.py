"""Procedures that the tests call."""

import os
import signal
import subprocess
import sys
import time

from harp import Result, procedure, streaming_procedure


@procedure
def echo(value):
    return value


@procedure
def add(a, b=0):
    return a + b


@procedure
def arguments(*positional, **named):
    return {"positional": positional, "named": named}


@procedure
def fail(message="it failed"):
    raise ValueError(message)


@procedure
def whoami():
    """Return who, where and in what surroundings this runs."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "stdin": os.readlink("/proc/self/fd/0"),
        "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
    }


@procedure(uid="nobody")
def whoami_nobody():
    return whoami()


@streaming_procedure(uid="nobody")
def stream_whoami_nobody():
    yield whoami()


# --- streams ------------------------------------------------------------------------


@streaming_procedure
def count(n, pause=0):
    """Stream 0 to n - 1 and return n."""
    for number in range(n):
        yield number
        time.sleep(pause)
    return n


@streaming_procedure
def count_with_result(n):
    """Stream 0 to n - 1 and end with a Result."""
    yield from range(n)
    yield Result({"counted": n})


@streaming_procedure
def count_then_fail(n):
    yield from range(n)
    raise ValueError("after the last number")


@streaming_procedure
def count_then_wait(n, path):
    """Stream 0 to n - 1, then return n as soon as there is a file."""
    yield from range(n)
    wait_for_file(path)
    return n


@streaming_procedure
def flood(n, size):
    """Stream n strings of that size."""
    for _ in range(n):
        yield "x" * size


# --- calls that take time -----------------------------------------------------------


@procedure
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@procedure
def compute_for_ever():
    while True:
        pass


@procedure(timeout=0.5)
def sleep_too_long(seconds=60):
    time.sleep(seconds)


@streaming_procedure(timeout=0.5)
def stream_too_long(seconds=60):
    yield "started"
    time.sleep(seconds)


@procedure
def append(path, text="x"):
    """Add a line to a file: tests count how often something ran."""
    with open(path, "a") as file:
        file.write(f"{text}\n")


@procedure
def wait_for_file(path):
    """Return when there is a file of that name."""
    while not os.path.exists(path):
        time.sleep(0.005)


@procedure
def leave_together(directory, number):
    """Go on after SIGTERM until so many calls have got it."""
    pid = os.getpid()
    told = f"{directory}/told-{pid}"
    signal.signal(signal.SIGTERM, lambda *_: open(told, "x").close())
    open(f"{directory}/ready-{pid}", "x").close()
    while sum(name.startswith("told") for name in os.listdir(directory)) < number:
        time.sleep(0.01)
    open(f"{directory}/left-{pid}", "x").close()


@procedure
def append_and_wait(started, text, path):
    """Add a line to one file, then wait until there is the other."""
    append(started, text)
    wait_for_file(path)


TREE = """
trap '' TERM
sleep 600 & echo $! >>"$0"
setsid sleep 600 & echo $! >>"$0"
(sleep 600 & echo $! >>"$0"; exec sleep 600) & echo $! >>"$0"
echo $$ >>"$0"
echo whole >>"$0"
wait
"""


@procedure
def process_tree(path):
    """Start processes that don't want to end, one in a session of its own, and wait for
    them. Their ids go to a file, a line each, then ``whole``."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    subprocess.run(["sh", "-c", TREE, path])


@procedure
def leave_running(path):
    """Start a process that outlives the call and holds its output open; its id goes to
    a file."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open(path, "w") as file:
        file.write(f"{process.pid}\n")
    process.returncode = 0  # it is not to be warned about


# --- results that are special -------------------------------------------------------


@procedure
def big(size):
    return "x" * size


@procedure
def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


@procedure
def no_json():
    return object()


@procedure
def nan():
    return float("nan")


@procedure
def file_name_that_is_not_utf8():
    return os.fsdecode(b"\xff")


# --- ends without a result ----------------------------------------------------------


@procedure
def exit(status):
    os._exit(status)


@procedure
def exit_by_exception(status):
    sys.exit(status)


@procedure
def kill_itself(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    signal.pause()


@procedure
def fork_and_return():
    """Both copies return from the procedure."""
    return "child" if os.fork() == 0 else "parent"


@procedure
def output(text):
    print(text)
    print(text, file=sys.stderr)
    subprocess.run(["echo", text])
