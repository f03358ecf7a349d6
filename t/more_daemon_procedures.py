"""Procedures with every option, for the tests of harpd's options and errors."""

import os
import resource
import subprocess
import time
from decimal import Decimal

from harp import (
    Procedure,
    ProcedureError,
    Result,
    StreamingProcedure,
    procedure,
    streaming_procedure,
)

# --- classes ------------------------------------------------------------------------


class Add(Procedure):
    """Add two numbers."""

    def run(self, a, b=0):
        return a + b


class Count(StreamingProcedure):
    name = "count"
    concurrency = 3

    def run(self, n: int):
        """Count up to a number."""
        yield from range(n)
        yield Result("done")


class Base(Procedure):
    """No ``run``, so it is no procedure."""

    context = True


class Who(Base):
    def run(self, context):
        return context.user


# --- context ------------------------------------------------------------------------


@procedure(context=True)
def who(context, a=None, **others):
    return [*context, a, others]


@streaming_procedure(context="me")
def who_by_name(a, me, b=2, **others):
    yield [me.user, a, b, others]


@procedure(context=True)
def who_by_position(context, /, **others):
    return [context.procedure, others]


# --- concurrency --------------------------------------------------------------------


@procedure(concurrency=2)
def two_at_a_time(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return "there"


@procedure(concurrency=1)
def one_at_a_time():
    return "done"


# --- limits -------------------------------------------------------------------------


@procedure(
    limits={"memory": "400 MiB", "open_files": 20, "processes": 1000, "cpu_time": 50}
)
def limited():
    return {
        "memory": resource.getrlimit(resource.RLIMIT_AS),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "processes": resource.getrlimit(resource.RLIMIT_NPROC),
        "cpu_time": resource.getrlimit(resource.RLIMIT_CPU),
    }


@procedure(limits={"memory": "400 MiB"})
def takes_memory():
    return len(bytearray(1 << 30))


@procedure(limits={"cpu_time": 1})
def takes_time():
    while True:
        pass


# --- errors -------------------------------------------------------------------------


class NotEnough(ProcedureError):
    pass


@procedure
def fails(kind):
    if kind == "chosen":
        raise ProcedureError("a text", type="a.type", data={"a": [1]})
    if kind == "subclass":
        raise NotEnough("too little")
    if kind == "invalid data":
        raise NotEnough("too little", data={"price": Decimal(1)})
    if kind == "command":
        script = "echo one >&2; echo two >&2; exit 3"
        subprocess.run(["sh", "-c", script], check=True, capture_output=True)
    if kind == "command, text":
        script = "yes | head -c 10000 >&2; exit 3"
        subprocess.run(["sh", "-c", script], check=True, stderr=-1, text=True)
    if kind == "command, nothing kept":
        subprocess.run(["false"], check=True)


@streaming_procedure
def ends(kind):
    yield 1
    if kind == "return":
        return "x"
    if kind == "Result":
        yield Result("x")
