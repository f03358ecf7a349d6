"""The harpcaller command, as a process of its own, with the real daemons."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import TOP
from harp import jobid

COMMAND = [sys.executable, str(TOP / "bin" / "harpcaller")]


@pytest.fixture
def run():
    """``run(*arguments)`` runs the command and returns it, ended."""

    def run(*arguments, **options):
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            **options,
        )

    return run


@pytest.fixture
def harpcaller(run, servers):
    """``harpcaller(*arguments)``: that, with the dispatcher that runs."""
    host, port = servers.dispatcher_address

    def harpcaller(*arguments, **options):
        return run("--dispatcher", f"{host}:{port}", *arguments, **options)

    return harpcaller


def assert_one_line(process, *parts):
    assert process.stderr.count("\n") == 1, process.stderr
    assert "Traceback" not in process.stderr
    for part in parts:
        assert part in process.stderr


# --- call ---------------------------------------------------------------------------


def test_call_prints_the_result_and_exits_with_0(harpcaller):
    process = harpcaller("call", "localhost", "add", "1", "2")
    assert (process.returncode, process.stdout, process.stderr) == (0, "3\n", "")


@pytest.mark.parametrize(
    "words, arguments",
    [
        (["1", "-5", "1.5", "true", "null"], [1, -5, 1.5, True, None]),
        (["nginx", "", '{"a": [1]}', '"5"'], ["nginx", "", {"a": [1]}, "5"]),
        (["NaN", "Infinity", "{", "a b"], ["NaN", "Infinity", "{", "a b"]),
        (["/x=1", "5=6"], ["/x=1", "5=6"]),
        (["--", "-x", "--y"], ["-x", "--y"]),
    ],
)
def test_argument_is_json_where_it_parses_else_a_string(harpcaller, words, arguments):
    process = harpcaller("call", "localhost", "arguments", *words)
    assert json.loads(process.stdout) == {"positional": arguments, "named": {}}


def test_name_and_value_is_a_named_argument(harpcaller):
    words = ["a=1", "b=x=y", "c=", "ä=[]"]
    process = harpcaller("call", "localhost", "arguments", *words)
    named = {"a": 1, "b": "x=y", "c": "", "ä": []}
    assert json.loads(process.stdout) == {"positional": [], "named": named}


def test_options_may_stand_anywhere(harpcaller):
    for words in (
        ["--timeout", "5", "localhost", "add", "1", "2"],
        ["localhost", "--timeout", "5", "add", "1", "2"],
        ["localhost", "add", "1", "--timeout", "5", "2"],
        ["localhost", "add", "1", "2", "--timeout=5"],
    ):
        assert harpcaller("call", *words).stdout == "3\n", words


def test_call_prints_what_is_streamed_before_the_result(harpcaller):
    assert harpcaller("call", "localhost", "count", "3").stdout == "0\n1\n2\n3\n"


def test_text_is_printed_as_utf8_in_any_locale(harpcaller):
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    process = harpcaller("call", "localhost", "echo", "Grüße", env=environment)
    assert (process.returncode, process.stdout) == (0, '"Grüße"\n')


def test_detached_call_prints_its_id_alone(harpcaller):
    process = harpcaller("call", "localhost", "add", "1", "--detach")
    assert jobid.is_valid(process.stdout.removesuffix("\n"))
    result = harpcaller("result", process.stdout.strip())
    assert (result.returncode, result.stdout) == (0, "1\n")


def test_options_of_a_call_are_in_its_status(harpcaller):
    job = harpcaller(
        "call",
        *("--detach", "--queue", '{"for": "web01"}', "--concurrency", "3"),
        *("--timeout", "7", "--max-exec-time", "9", "--info", "ticket 5"),
        *("localhost", "add", "1"),
    ).stdout.strip()
    status = json.loads(harpcaller("status", job).stdout)
    assert status["call"]["procedure"] == "add"
    assert status["queue"] == {"name": {"for": "web01"}, "concurrency": 3}
    assert (status["timeout"], status["max_exec_time"]) == (7, 9)
    assert status["info"] == "ticket 5"


# --- exit statuses ------------------------------------------------------------------


def test_exception_exits_with_1(harpcaller):
    process = harpcaller("call", "localhost", "fail", "so\nnicht \x1b[31m")
    assert (process.returncode, process.stdout) == (1, "")
    assert_one_line(process, "ValueError: so\\nnicht \\x1b[31m")


@pytest.mark.parametrize(
    "host, procedure, type",
    [
        ("localhost", "no_such", "no_such_procedure"),
        ("nowhere", "add", "unknown_host"),
        ("localhost", "fail_with", "no_such_procedure"),
    ],
)
def test_call_not_carried_out_exits_with_4(harpcaller, host, procedure, type):
    process = harpcaller("call", host, procedure)
    assert (process.returncode, process.stdout) == (4, "")
    assert_one_line(process, type, "(ran: no)")


def test_timeout_exits_with_124(harpcaller):
    process = harpcaller("call", "localhost", "sleep_too_long")
    assert process.returncode == 124
    assert_one_line(process, "timeout", "(ran: yes)")


def test_unknown_job_exits_with_4(harpcaller):
    for command in ("result", "status", "stream", "follow"):
        process = harpcaller(command, "../../etc/passwd")
        assert process.returncode == 4, command
        assert_one_line(process, "invalid_jobid")


def test_unfinished_then_cancelled_call_exits_with_75_then_3(harpcaller, tmp_path):
    path = str(tmp_path / "never")
    job = harpcaller(
        "call", "--detach", "localhost", "wait_for_file", json.dumps(path)
    ).stdout.strip()
    process = harpcaller("result", "--no-wait", job)
    assert process.returncode == 75
    assert_one_line(process, "not ended")
    assert harpcaller("cancel", job).returncode == 0
    assert harpcaller("result", job).returncode == 3
    assert harpcaller("follow", job).returncode == 3
    again = harpcaller("cancel", job)
    assert again.returncode == 4
    assert_one_line(again, "nothing to cancel")


def test_unreachable_dispatcher_exits_with_69(run):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % bound.getsockname()[1]
        for arguments in (["status", "x"], ["call", "web01", "uptime"]):
            process = run("--dispatcher", address, *arguments)
            assert process.returncode == 69
            assert_one_line(process, address)


def test_missing_unix_socket_exits_with_69(run, tmp_path):
    process = run("--dispatcher", f"unix:{tmp_path}/none", "status", "x")
    assert process.returncode == 69
    assert_one_line(process, f"unix:{tmp_path}/none")


@pytest.mark.parametrize(
    "arguments, fault",
    [
        ([], "COMMAND"),
        (["nonsense"], "nonsense"),
        (["call", "web01"], "PROCEDURE"),
        (["call", "web01", "add", "a=1", "2"], "all NAME=VALUE or none"),
        (["call", "web01", "add", "a=1", "a=2"], "given twice"),
        (["call", "web01", "add", "--no-such"], "--no-such"),
        (["call", "web01", "add", "--timeout", "0"], "--timeout"),
        (["call", "web01", "add", "--timeout", "x"], "--timeout"),
        (["call", "web01", "add", "--queue", "x"], "--queue"),
        (["call", "web01", "add", "--concurrency", "2"], "--queue"),
        (["call", "web01", "add", "1e999"], "JSON"),
        (["call", "web01", "add", "[" * 9999], "nested too deep"),
        (["call", "web01", "add", "1" * 5000], "digits"),
        (["status"], "JOB"),
        (["status", "x", "y"], "unrecognized arguments: y"),
        (["follow", "x", "--since", "-1"], "--since"),
        (["follow", "x", "--since", "1", "--recent", "1"], "not allowed with"),
        (["--dispatcher", "a:b:c", "status", "x"], "a:b:c"),
        (["--dispatcher", "a:99999", "status", "x"], "65535"),
        (["--dispatcher", "unix:relative", "status", "x"], "absolute"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(run, arguments, fault):
    process = run(*arguments)
    assert (process.returncode, process.stdout) == (2, "")
    assert fault in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


# --- streams ------------------------------------------------------------------------


def test_stream_prints_what_is_there(harpcaller):
    job = harpcaller("call", "localhost", "count", "3", "--detach").stdout.strip()
    harpcaller("result", job)
    assert harpcaller("stream", job).stdout == "0\n1\n2\n"
    assert harpcaller("stream", job, "--since", "1").stdout == "1\n2\n"
    assert harpcaller("stream", job, "--recent", "1").stdout == "2\n"
    assert harpcaller("follow", job, "--since", "2").stdout == "2\n3\n"


def test_interrupted_call_says_how_to_go_on_or_cancel(servers, harpcaller, tmp_path):
    address = "%s:%d" % servers.dispatcher_address
    path = tmp_path / "end"
    arguments = ["localhost", "count_then_wait", "2", json.dumps(str(path))]
    process = subprocess.Popen(
        [*COMMAND, "--dispatcher", address, "call", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "0\n"
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in told
    cancel, follow = (line.split(": ", 1)[1].split() for line in told.splitlines()[1:])
    # As it was called, so that it can be pasted.
    assert cancel[:3] == follow[:3] == [str(COMMAND[-1]), "--dispatcher", address]
    # What it was just printing is rather printed twice than not at all.
    assert follow[3:6] in (["follow", "--since", "2"], ["follow", "--since", "1"])
    path.touch()
    assert harpcaller(*follow[3:]).stdout.endswith("2\n")
    assert harpcaller(*cancel[3:]).returncode == 4


def test_call_whose_stream_breaks_exits_with_69_and_says_how_to_go_on(
    run, scripted_peer
):
    job = jobid.make()

    def script(connection):
        request = connection.readline()
        if b'"since":1' in request:
            connection.send(b"another server\n")
        elif b"follow_stream" in request:
            connection.send(b'{"packet": 0, "data": "a"}\n')
        else:
            connection.send(b'{"harpcaller": 1, "job_id": "%s"}\n' % job.encode())

    address = "%s:%d" % scripted_peer(script).address
    process = run("--dispatcher", address, "call", "web01", "count")
    assert (process.returncode, process.stdout) == (69, '"a"\n')
    assert f"follow --since 1 {job}" in process.stderr
    assert "not the protocol" in process.stderr.splitlines()[-1]


# --- output that nobody reads -------------------------------------------------------


def test_broken_pipe_is_silent(servers):
    address = "%s:%d" % servers.dispatcher_address
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed_pipe:
        process = subprocess.run(
            [*COMMAND, "--dispatcher", address, "call", "localhost", "count", "9"],
            stdout=closed_pipe,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (process.returncode, process.stderr) == (141, b"")


def test_full_disk_is_told_in_one_line(servers):
    address = "%s:%d" % servers.dispatcher_address
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            [*COMMAND, "--dispatcher", address, "call", "localhost", "add", "1"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert process.returncode == 74
    assert_one_line(process, "No space left")


def test_command_runs_through_a_symbolic_link(tmp_path):
    link = tmp_path / "harpcaller"
    link.symlink_to(TOP / "bin" / "harpcaller")
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }
    process = subprocess.run(
        [sys.executable, str(link), "--version"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert process.returncode == 0
    assert process.stdout.startswith("harpcaller ")
