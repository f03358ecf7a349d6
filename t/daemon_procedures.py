"""Procedures that the tests of harpd call."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal

from harp import Result, procedure, streaming_procedure


@procedure
def echo(value=None):
    return value


@procedure
def add(a, b=0, *, c=0):
    return a + b + c


@procedure
def noted(path):
    with open(path, "a") as file:
        file.write("ran\n")


@procedure(name="a name with blanks")
def renamed():
    return "renamed"


# --- streams ------------------------------------------------------------------------


@streaming_procedure
def count(n):
    yield from range(n)
    return n


@streaming_procedure
def result_in_stream():
    try:
        yield 1
        yield Result("the end")
        yield "never sent"
    finally:
        print("generator was closed")


@streaming_procedure
def nothing():
    yield from ()


@streaming_procedure
def listed():
    return [1, 2]


@streaming_procedure
def only_result():
    return Result(5)


@streaming_procedure
def text():
    return "not a stream"


@streaming_procedure
def stream_that_fails():
    yield 1
    raise KeyError("in the middle")


@streaming_procedure
def stream_of_anything():
    yield 1
    yield {1}


@streaming_procedure
def lines_of(size, n):
    for _ in range(n):
        yield "x" * size


@streaming_procedure
def report_pid():
    yield os.getpid()
    while True:
        pass


# --- results and exceptions ---------------------------------------------------------


@procedure
def invalid(kind):
    deep = []
    for _ in range(200):
        deep = [deep]
    circle = []
    circle.append(circle)
    return {
        "decimal": {"disks": [1, 2, 3, {"size": Decimal(1)}]},
        "key": {"a": {5: 1}},
        "nan": [float("nan")],
        "infinity": {"x y": float("inf")},
        "set": {1},
        "deep": deep,
        "circle": circle,
        "digits": [10**5000],
        "generator": (n for n in ()),
        "class": Result,
        "large": "x" * (17 << 20),
    }[kind]


@procedure
def valid():
    return {"tuple": (1, (2,)), "true": True, "float": 1.5, "none": None, "": "ä"}


@procedure
def surrogate():
    return os.fsdecode(b"\xff")


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


@procedure
def raise_(kind):
    if kind == "recursion":
        return raise_(kind)
    raise {
        "value": ValueError("a text"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "generator exit": GeneratorExit(),
        "stop": StopIteration(1),
        "memory": MemoryError(),
        "unprintable": Unprintable(),
        "surrogate": OSError("\udcff"),
        "object": Exception(object),
        "long": ValueError("x" * 100_000),
    }[kind]


# --- ends ---------------------------------------------------------------------------


@procedure
def leave(status):
    os._exit(status)


@procedure
def crash():
    ctypes.string_at(0)


@procedure
def fork_twice():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return "parent" if child else "child"


@streaming_procedure
def fork_in_stream():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    yield "parent" if child else "child"


@procedure
def close_stdout():
    sys.stdout.close()
    os.close(1)
    os.close(2)
    return "closed"


@procedure
def leave_running():
    """Start a process that holds all that it can inherit, without exec."""
    child = os.fork()
    if child == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
    return child


@procedure
def thread_goes_on():
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "returned"


@streaming_procedure
def close_everything():
    """Close the descriptor that harpd speaks over, but stay."""
    yield os.getpid()
    os.closerange(3, 100)
    time.sleep(600)


@procedure
def prints(text):
    print(text)
    print("error", file=sys.stderr)
    subprocess.run(["echo", "from below"])
    print("no newline", end="")


# --- calls that take time -----------------------------------------------------------


@streaming_procedure
def compute():
    yield os.getpid()
    while True:
        pass


@streaming_procedure
def stubborn():
    """A tree of processes, none of which minds SIGTERM, one in another session."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    script = "trap '' TERM; setsid sh -c 'sleep 600; :' & sleep 600 & echo $!; wait"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    sleep = int(child.stdout.readline())
    pids = {os.getpid(), child.pid, sleep}
    while len(pids) < 5:
        for pid in list(pids):
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                pids.update(map(int, file.read().split()))
    yield sorted(pids)
    child.wait()


@procedure
def wait_until(path):
    """Return when there is such a file."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return "there"


@streaming_procedure
def finish_when_terminated(kind):
    """End in an own way when asked to."""

    def on_term(*_):
        if kind == "raise":
            raise RuntimeError("terminated")
        os.write(w, b"x")

    r, w = os.pipe()
    signal.signal(signal.SIGTERM, on_term)
    yield os.getpid()
    os.read(r, 1)
    return "finished"


@procedure(timeout=0.3)
def too_long():
    time.sleep(600)


@streaming_procedure(timeout=0.3)
def stream_too_long():
    yield os.getpid()
    time.sleep(600)


# --- who and where ------------------------------------------------------------------


def surroundings():
    return {
        "uid": os.getresuid(),
        "gid": os.getresgid(),
        "groups": sorted(os.getgroups()),
        "session": os.getsid(0) == os.getpid(),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "stdin": os.readlink("/proc/self/fd/0"),
        "descriptors": {
            fd: os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
            or os.path.islink(f"/proc/self/fd/{fd}")
        },
        "name": open("/proc/self/comm").read().strip(),
        "umask": os.umask(0),
    }


@procedure
def whereami():
    return surroundings()


@procedure(uid="nobody")
def as_nobody():
    return surroundings()


@streaming_procedure(uid=65534)
def stream_as_number():
    yield surroundings()


@procedure(uid="nobody", gid="daemon")
def as_nobody_in_group():
    return surroundings()


@procedure(gid="daemon")
def in_group():
    return surroundings()


@procedure(uid="no such user")
def as_nobody_known():
    return "ran"


@procedure(uid=54321)
def as_number_without_account():
    return "ran"


@streaming_procedure
def lose_main_thread_in_a_child():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        threading.Thread(target=time.sleep, args=(3600,)).start()
        os.write(writer, b"1")
        # As pthread_exit() in main() does: the process goes on without this thread.
        ctypes.CDLL(None).syscall(60, 0)
    os.read(reader, 1)
    yield pid
    time.sleep(3600)


@streaming_procedure
def daemonise_a_grandchild():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, b"%d" % os.getpid())
            time.sleep(3600)
        os._exit(0)
    pid = int(os.read(reader, 32))
    os.wait()
    yield pid
    time.sleep(3600)


@procedure
def write_to_the_socket():
    for fd in range(3, 256):
        try:
            os.write(fd, b'garbage\n{"result":"forged"}\n')
        except OSError:
            pass
    time.sleep(3600)


class EvilMeta(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")


class EvilText(str):
    def __len__(self):
        raise RuntimeError("no length")


class EvilName(Exception, metaclass=EvilMeta):
    pass


class EvilStr(Exception):
    def __str__(self):
        return EvilText("text")


class EvilModule(Exception):
    pass


EvilModule.__module__ = 5


@procedure
def raise_evil(name):
    raise globals()[name]("text")
