"""A procedure run on the spot, as a daemon would."""

import json
import os
import signal
import subprocess
import sys

import pytest
from daemon_setup import TOP, is_alive, needs_root

SCRIPT = """
import json, os, sys
from harp.commandline import put
from harp.config import DaemonConfig
from harp.daemon.children import ProceduresFailed
from harp.daemon.local import run_locally
config = DaemonConfig(
    procedures_file=sys.argv[1], procedures_user=os.getuid(), standby=1, kill_grace=0.2
)
try:
    status = run_locally(config, sys.argv[2], json.loads(sys.argv[3]), put)
except ProceduresFailed as error:
    status = str(error)
except KeyboardInterrupt:
    status = 130
sys.exit(status)
"""
PROCEDURES = TOP / "t" / "daemon_procedures.py"
MORE = TOP / "t" / "more_daemon_procedures.py"


def command(procedure, arguments, file):
    argv = [sys.executable, "-c", SCRIPT, file, procedure, json.dumps(arguments)]
    return [os.fspath(part) for part in argv]


def run(procedure, *positional, file=PROCEDURES, **named):
    """Return the exit status, the lines printed and standard error."""
    process = subprocess.run(
        command(procedure, named or list(positional), file),
        capture_output=True,
        text=True,
        timeout=30,
    )
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    return process.returncode, lines, process.stderr


def test_result_and_stream_are_printed_as_a_caller_gets_them():
    assert run("add", 1, 2) == (0, [{"result": 3}], "")
    assert run("count", n=2) == (
        0,
        [{"stream": 0}, {"stream": 1}, {"result": 2}],
        "",
    )


def test_what_the_procedure_prints_goes_to_standard_error():
    status, lines, stderr = run("prints", "a text")
    assert (status, lines) == (0, [{"result": None}])
    assert sorted(stderr.split("\n")) == sorted(
        ["a text", "error", "from below", "no newline"]
    )


@pytest.mark.parametrize(
    "procedure, arguments, type_",
    [
        ("of no such name", [], "no_such_procedure"),
        ("add", [], "invalid_argument_list"),
        ("invalid", ["set"], "invalid_result"),
        ("too_long", [], "timeout"),
        ("leave", [3], "process_died"),
    ],
)
def test_errors_are_those_of_the_daemon(procedure, arguments, type_):
    status, lines, _ = run(procedure, *arguments)
    assert status == 1 and lines[-1]["error"]["type"] == type_


def test_exception_and_limits_and_context_are_those_of_the_daemon():
    status, (message,), _ = run("fails", "chosen", file=MORE)
    assert (status, message["exception"]["type"]) == (1, "a.type")
    _, (message,), _ = run("limited", file=MORE)
    assert message["result"]["open_files"] == [20, 20]
    _, (message,), _ = run("who", file=MORE)
    assert message["result"][1:4] == ["local", None, "who"]


def test_procedures_that_do_not_load_are_named(tmp_path):
    file = tmp_path / "procedures.py"
    file.write_text("1/0\n")
    status, lines, stderr = run("add", file=file)
    assert (status, lines) == (1, []) and f"{file}:1: ZeroDivisionError" in stderr


def test_interrupt_cancels_the_call_and_waits_until_it_is_gone():
    process = subprocess.Popen(
        command("compute", [], PROCEDURES), stdout=subprocess.PIPE, text=True
    )
    with process:
        pid = json.loads(process.stdout.readline())["stream"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert not is_alive(pid)


# --- the command --------------------------------------------------------------------


def harpd_call(*arguments):
    return subprocess.run(
        [sys.executable, TOP / "sbin" / "harpd", "call", *map(os.fspath, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_command_runs_a_procedure_without_any_configuration():
    user = ("-u", str(os.getuid()))
    process = harpd_call("-r", PROCEDURES, "add", "2", "1", *user)
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads(process.stdout) == {"result": 3}
    process = harpd_call("-r", PROCEDURES, "add", "a=2", "c=5", *user)
    assert json.loads(process.stdout) == {"result": 7}


@needs_root
def test_root_is_told_how_to_say_who_runs_a_call():
    process = harpd_call("-r", PROCEDURES, "add", "2", "1")
    assert process.returncode == 1
    error = json.loads(process.stdout)["error"]
    assert error["type"] == "system_error" and "give -u" in error["message"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["-r", "/nope.py", "echo"], "/nope.py: No such file"),
        (["-c", "/nope.toml", "echo"], "/nope.toml: does not exist"),
        (["-r", PROCEDURES, "echo", "1", "a=2"], "all NAME=VALUE or none"),
    ],
)
def test_command_says_in_a_line_why_nothing_was_called(arguments, said):
    process = harpd_call(*arguments)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith("harpd call: ") and said in line


def test_end_stands_behind_what_the_procedure_has_printed(tmp_path):
    path = tmp_path / "printing.py"
    path.write_text(
        "from harp import procedure\n"
        "@procedure\n"
        "def tell():\n"
        "    for number in range(20_000):\n"
        "        print(number)\n"
    )
    done = subprocess.run(
        command("tell", [], path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    lines = [b"%d" % number for number in range(20_000)]
    assert done.stdout.splitlines() == [*lines, b'{"result":null}']
