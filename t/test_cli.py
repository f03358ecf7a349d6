"""The harpcaller command, as a process of its own, with the real daemons."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import pytest
from conftest import TOP
from harp import jobid
from terminals import run_on_terminal

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


def test_argument_may_be_the_content_of_a_file_or_of_standard_input(
    harpcaller, tmp_path
):
    file = tmp_path / "file"
    for content, value in [
        ('{"a": [1]}\n', {"a": [1]}),
        ("two\nlines\n", "two\nlines\n"),
        ("", ""),
    ]:
        file.write_text(content)
        process = harpcaller("call", "localhost", "echo", f"@{file}")
        assert json.loads(process.stdout) == value
        process = harpcaller("call", "localhost", "echo", "value=-", input=content)
        assert json.loads(process.stdout) == value
    process = harpcaller("call", "localhost", "echo", '"@x"')
    assert json.loads(process.stdout) == "@x"


def test_secret_argument_is_masked_in_the_status(harpcaller):
    job = harpcaller(
        *("call", "localhost", "arguments", "open", "sesame", "--secret", "2"),
        "--detach",
    ).stdout.strip()
    status = json.loads(harpcaller("status", job).stdout)
    assert status["call"]["arguments"] == ["open", "***"]


def test_call_under_the_same_id_is_run_once(harpcaller, tmp_path):
    path, job = tmp_path / "lines", jobid.make()
    words = ("call", "localhost", "append", str(path), "--job-id", job)
    for _ in range(2):
        process = harpcaller(*words)
        assert (process.returncode, process.stdout) == (0, "null\n")
    assert path.read_text() == "x\n"
    assert harpcaller(*words, "--detach").stdout == f"{job}\n"
    other = harpcaller("call", "localhost", "add", "1", "--job-id", job)
    assert other.returncode == 4
    assert_one_line(other, "invalid_request")


def test_json_is_one_document_and_jsonl_a_line_for_each_thing(harpcaller):
    count = ("call", "localhost", "count", "2")
    document = json.loads(harpcaller(*count, "--json").stdout)
    assert [packet["data"] for packet in document["stream"]] == [0, 1]
    assert document["result"] == 2
    job = document["job_id"]
    for command in (["follow", job, "--since", "0"], count):
        lines = harpcaller(*command, "--jsonl").stdout.splitlines()
        packets, end = list(map(json.loads, lines[:-1])), json.loads(lines[-1])
        assert [(line["packet"], line["data"]) for line in packets] == [(0, 0), (1, 1)]
        assert end["result"] == 2
    failed = harpcaller("call", "localhost", "fail", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["exception"]["type"] == "ValueError"
    for command in ("list", "queues"):
        assert isinstance(json.loads(harpcaller(command, "--json").stdout), list)


def test_timestamps_say_when_the_dispatcher_got_a_value(harpcaller):
    job = harpcaller("call", "localhost", "count", "1", "--detach").stdout.strip()
    harpcaller("wait", job)
    told = json.loads(harpcaller("stream", job, "--jsonl").stdout)["time"]
    first = harpcaller("stream", job, "--timestamps").stdout
    again = harpcaller("follow", job, "--since", "0", "--timestamps").stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z 0\n", first)
    assert f"{int(told * 1000) % 1000:03}Z" in first
    assert again.startswith(first)


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


def test_times_of_a_month_are_waited_for(harpcaller):
    month = str(31 * 86400)
    call = ["call", "localhost", "add", "1", "2"]
    process = harpcaller(*call, "--timeout", month, "--max-exec-time", month)
    assert (process.returncode, process.stdout, process.stderr) == (0, "3\n", "")
    job = harpcaller(*call, "--detach").stdout.strip()
    process = harpcaller("result", job, "--timeout", "9" * 18)
    assert (process.returncode, process.stdout, process.stderr) == (0, "3\n", "")


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
        for arguments in (["status", "x"], ["call", "web01", "up"], ["ping", "a,b"]):
            process = run("--dispatcher", address, *arguments)
            assert process.returncode == 69
            assert_one_line(process, address)


def test_missing_unix_socket_exits_with_69(run, tmp_path):
    process = run("--dispatcher", f"unix:{tmp_path}/none", "status", "x")
    assert process.returncode == 69
    assert_one_line(process, f"unix:{tmp_path}/none")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_socket_that_others_may_open_exits_with_77(run_python):
    # Where a stranger can get to.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{directory}/client")
            listener.listen()
            os.chmod(f"{directory}/client", 0o660)
            told = run_python(STRANGER.format(path=f"{directory}/client"))
    assert told.splitlines()[-1] == "77"


STRANGER = """
import grp, os
from harp.cli import jobs, main
main.main(["version"])  # loads what a stranger may have no access to
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(main.main(["--dispatcher", "unix:{path}", "status", "x"]))
"""


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
        (["call", "web01", "add", "1e999"], "1e999"),
        (["call", "web01", "add", "[" * 9999], "nested too deep"),
        (["call", "web01", "add", "1" * 5000], "digits"),
        (["status"], "JOB"),
        (["status", "x", "y"], "unrecognized arguments: y"),
        (["follow", "x", "--since", "-1"], "--since"),
        (["follow", "x", "--since", "1", "--recent", "1"], "not allowed with"),
        (["call", "web01", "add", "@/no/such/file"], "/no/such/file: can't be read"),
        (["call", "web01", "add", "@/"], "Is a directory"),
        (["call", "web01", "add", "@/dev/zero"], "/dev/zero: is larger than 64 MiB"),
        (["call", "web01", "add", "-", "-"], "one argument only"),
        (["call", "web01", "add", "1", "--secret", "2"], "no argument 2"),
        (["call", "web01", "add", "--json", "--jsonl"], "not allowed with"),
        (["call", "web01,,web02", "add"], "name is missing"),
        (["call", "web01", "add", "--at-a-time", "2"], "several hosts"),
        (["call", "web01", "add", "--job-id", "1"], "UUID"),
        (["list", "--from", "noon"], "noon"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--queue", "[]"], "--queue"),
        (["wait"], "--group"),
        (["cancel", "x", "--group", "y"], "--group"),
        (["rerun"], "--failed"),
        (["completion"], "bash"),
        (["completion", "fish"], "fish"),
        (["call", "web01", "add", "@"], "@: can't be read"),
        (["demo", "--dir", "/dev/null"], "/dev/null: can't be made: File exists"),
        (["direct", "web01", "add"], "--user"),
        (["--color", "red", "list"], "red"),
        (["--dispatcher", "http://a", "list"], "URL"),
        (["--dispatcher", "harp://u:p@a", "list"], "password"),
        (["--dispatcher", "harps://a", "--ca-file", "/none", "list"], "/none"),
        (["--dispatcher", "a:b:c", "status", "x"], "a:b:c"),
        (["--dispatcher", "a:99999", "status", "x"], "65535"),
        (["--dispatcher", "unix:relative", "status", "x"], "absolute"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(run, arguments, fault):
    process = run(*arguments)
    assert (process.returncode, process.stdout) == (2, "")
    assert_one_line(process, fault)


def test_faults_of_the_configuration_exit_with_2(run):
    for url in ("nonsense:1:2://", "harps://u@a"):
        process = run("list", env=os.environ | {"HARPCALLER_URL": url})
        assert process.returncode == 2
        assert_one_line(process, "HARPCALLER_URL")


@pytest.mark.parametrize(
    "words",
    [
        *(["list"], ["hosts"], ["queues"], ["status", "x"], ["why", "x"]),
        *(["procedures", "x"], ["ping", "x"], ["wait", "--group", "x"]),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "reply",
    [
        b"nonsense",
        b"{}",
        b'{"jobs": [1], "hosts": [1], "queues": [1], "procedures": [1]}',
        b'{"jobs": [{}], "hosts": [{}], "queues": [{}], "explain": {}, "next": null}',
        b'{"call": {}, "time": {}, "explain": {"state": "queued", "position": "x"}}',
        b'{"procedures": [{"name": "x", "parameters": [{"name": "y", "kind": {}}]}], '
        b'"explain": {"state": "done", "outcome": "error", "end": null, "step": {}}}',
    ],
)
def test_reply_that_is_not_the_protocol_is_told_in_one_line(
    words, reply, scripted_peer
):
    def script(connection):
        while connection.readline():
            connection.send(reply + b"\n")

    address = "%s:%d" % scripted_peer(script).address
    command = [*COMMAND[1:], "--dispatcher", address, *words]
    printed = run_on_terminal([sys.executable, "-c", ON_TERMINAL, *command])
    status, _, told = printed.rpartition("status ")[2].partition("\n")
    assert int(status) in (0, 69), printed
    assert "Traceback" not in told
    if words[0] != "ping":  # which tells it of the host
        assert told.count("\n") == (status == "69"), printed


@pytest.mark.parametrize(
    "listed, status, fault",
    [([], 4, "no such call"), (["other"], 69, "'other', which was not asked for")],
)
def test_call_of_a_group_that_is_listed_no_more_is_not_waited_for(
    scripted_peer, run, listed, status, fault
):
    def entry(job_id):
        call = {"host": "web01", "procedure": "add", "arguments": []}
        time = {"submit": 1, "start": 1, "end": None}
        return {"call": call, "time": time, "job_id": job_id, "state": "running"}

    def script(connection):
        while line := connection.readline():
            wanted = json.loads(line).get("list_jobs")
            if wanted is None:
                error = {"type": "invalid_jobid", "message": "no such call"}
                reply = {"harpcaller": 1, "error": error}
            else:
                jobs = ["gone"] if "group" in wanted else listed
                reply = {"jobs": [entry(job_id) for job_id in jobs], "next": None}
            connection.send(json.dumps(reply).encode() + b"\n")

    address = "%s:%d" % scripted_peer(script).address
    process = run("--dispatcher", address, "wait", "--group", "x")
    assert process.returncode == status, process.stderr
    assert_one_line(process, fault)


# Its errors are looked at, too, but are on no terminal.
ON_TERMINAL = """
import subprocess, sys
command = [sys.executable, *sys.argv[1:]]
process = subprocess.run(command, stderr=subprocess.PIPE, timeout=60)
print("status", process.returncode)
print(process.stderr.decode(), end="")
"""


# --- several jobs, listings ---------------------------------------------------------


def test_wait_tells_whether_all_came_to_their_results(harpcaller):
    good = harpcaller("call", "localhost", "add", "1", "--detach").stdout.strip()
    bad = harpcaller("call", "localhost", "fail", "--detach").stdout.strip()
    assert harpcaller("wait", good).returncode == 0
    assert harpcaller("wait", bad).returncode == 1
    process = harpcaller("wait", good, bad, "--json")
    assert process.returncode == 20
    assert [entry["job_id"] for entry in json.loads(process.stdout)] == [good, bad]
    assert_one_line(process, f"{bad}: the procedure raised")


def test_wait_tells_of_all_calls_also_where_one_is_unknown(harpcaller):
    good = harpcaller("call", "localhost", "add", "1", "--detach").stdout.strip()
    process = harpcaller("wait", "unknown", good, "--json")
    assert process.returncode == 20
    assert_one_line(process, "unknown: invalid_jobid")
    unknown, ended = json.loads(process.stdout)
    assert unknown["error"]["type"] == "invalid_jobid"
    assert ended == {"job_id": good, "result": 1}


def test_wait_and_result_have_a_time_limit(harpcaller, tmp_path):
    words = ["wait_for_file", str(tmp_path / "never"), "--detach"]
    job = harpcaller("call", "localhost", *words).stdout.strip()
    assert harpcaller("wait", job, "--timeout", "0").returncode == 75
    assert harpcaller("result", job, "--timeout", "0").returncode == 75
    assert harpcaller("cancel", job).returncode == 0


def test_list_shows_those_asked_for_newest_first(harpcaller):
    jobs = [
        harpcaller("call", "localhost", "add", "1", "--detach", "--group", "listed")
        for _ in range(3)
    ]
    ids = [process.stdout.strip() for process in jobs]
    for job in ids:
        harpcaller("wait", job)
    listed = harpcaller("list", "--group", "listed", "--jsonl").stdout.splitlines()
    assert [json.loads(line)["job_id"] for line in listed] == ids[::-1]
    newest = harpcaller("list", "--group", "listed", "--limit", "1", "--json").stdout
    assert [entry["job_id"] for entry in json.loads(newest)] == ids[2:]
    assert json.loads(harpcaller("list", "--to", "1d", "--json").stdout) == []


def test_why_and_status_are_sentences_and_fields_on_a_terminal(servers, harpcaller):
    job = harpcaller("call", "localhost", "no_such", "--detach").stdout.strip()
    harpcaller("wait", job)
    address = "%s:%d" % servers.dispatcher_address
    why = run_on_terminal([*COMMAND, "--dispatcher", address, "why", job])
    assert "no_such_procedure" in why and "safe to call it again" in why
    status = run_on_terminal([*COMMAND, "--dispatcher", address, "status", job])
    assert ["procedure", "no_such"] in [line.split() for line in status.splitlines()]
    assert json.loads(harpcaller("why", job).stdout)["ran"] == "no"


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


def test_interrupted_call_is_cancelled_where_that_was_asked_for(
    servers, harpcaller, tmp_path
):
    process = start(servers, tmp_path, "--cancel-on-interrupt")
    with process:
        job = interrupt(process)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"cancelling call {job}" not in told  # which interrupt() has read
    assert "it is cancelled" in told
    assert harpcaller("result", job).returncode == 3


def test_second_interrupt_leaves_at_once(scripted_peer, tmp_path):
    """The dispatcher never answers the cancel that the first one asks for."""
    job = jobid.make()

    def script(connection):
        request = connection.readline()
        if b"follow_stream" in request:
            connection.send(b'{"packet": 0, "data": "a"}\n')
        elif b"cancel" not in request:
            connection.send(b'{"harpcaller": 1, "job_id": "%s"}\n' % job.encode())
        connection.readline()

    address = "%s:%d" % scripted_peer(script).address
    with subprocess.Popen(
        [*COMMAND, "--dispatcher", address, "call", "web01", "x"]
        + ["--cancel-on-interrupt"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == '"a"\n'
        assert interrupt(process) == job
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT  # the shell says 130
    assert told == ""


def test_interrupt_leaves_at_once_while_a_group_is_cancelled(scripted_peer):
    """The dispatcher never answers, and each of several connections waits for it."""
    asked = threading.Semaphore(0)
    jobs = [
        {"job_id": jobid.make(), "call": {"host": "web01"}, "outcome": None}
        for _ in range(2)
    ]

    def script(connection):
        while request := connection.readline():
            if b"list_jobs" not in request:
                asked.release()
                continue
            found = [] if b"queued" in request else jobs
            reply = {"jobs": found, "next": None}
            connection.send(json.dumps(reply).encode() + b"\n")

    address = "%s:%d" % scripted_peer(script).address
    with subprocess.Popen(
        [*COMMAND, "--dispatcher", address, "cancel", "--group", "g"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in jobs:
            assert asked.acquire(timeout=30)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT  # the shell says 130
    assert told == ""


def start(servers, tmp_path, *options):
    """Start a call that doesn't end, and wait for what it streams."""
    address = "%s:%d" % servers.dispatcher_address
    words = ["call", "localhost", "count_then_wait", "1", str(tmp_path / "never")]
    process = subprocess.Popen(
        [*COMMAND, "--dispatcher", address, *words, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "0\n"
    return process


def interrupt(process):
    """Interrupt it, wait until it says so, and return the id that it names."""
    process.send_signal(signal.SIGINT)
    return re.search("call ([0-9a-f-]{36})", process.stderr.readline())[1]


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


@pytest.mark.parametrize("words", [["hosts"], ["--help"], ["call", "--help"]])
def test_no_output_is_no_noise(servers, words):
    """The reader has gone, the disk is full, or standard output is closed."""
    address = "%s:%d" % servers.dispatcher_address
    script = '"$@" >&-; "$@" >/dev/full; "$@" | :'
    process = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "--dispatcher", address, *words],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    told = [line for line in process.stderr.splitlines() if "usage" not in line]
    if words == ["hosts"]:
        assert told == [
            "harpcaller: can't print: standard output is closed",
            "harpcaller: can't print: No space left on device",
        ]
    assert "Exception" not in process.stderr
    assert "Traceback" not in process.stderr


def test_closed_standard_error_leaves_standard_output_alone(servers):
    address = "%s:%d" % servers.dispatcher_address
    script = '"$@" 2>&-'
    process = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "--dispatcher", address]
        + ["call", "localhost", "fail"],
        capture_output=True,
        timeout=60,
    )
    assert (process.returncode, process.stdout) == (1, b"")


@pytest.mark.parametrize(
    "words, status",
    [(["call", "localhost", "fail"], 1), (["call", "nowhere", "add"], 4)],
)
def test_exit_status_is_the_same_where_nothing_can_be_told(servers, words, status):
    """The disk is full, or the reader of the errors has gone."""
    address = "%s:%d" % servers.dispatcher_address
    command = [*COMMAND, "--dispatcher", address, *words]
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full, open(writer, "wb") as closed_pipe:
        for stream in (full, closed_pipe):
            process = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=stream, timeout=60
            )
            assert (process.returncode, process.stdout) == (status, b"")


def test_table_shows_what_the_locale_can_say(servers, harpcaller):
    harpcaller("call", "localhost", "Grüße")
    address = "%s:%d" % servers.dispatcher_address
    command = [*COMMAND, "--dispatcher", address, "list", "--procedure", "Grüße"]
    variables = {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    printed = run_on_terminal(command, columns=150, environment=variables)
    assert "Gr\\xfc\\xdfe" in printed


def test_colour_is_for_terminals_unless_asked_for(servers, harpcaller):
    address = "%s:%d" % servers.dispatcher_address
    words = ["call", "localhost", "fail"]
    red = "\x1b[1;31m"
    assert red not in harpcaller(*words).stderr
    assert red in harpcaller(*words, "--color", "always").stderr

    def on_terminal(*options, **environment):
        environment = {"TERM": "xterm"} | environment
        command = [*COMMAND, "--dispatcher", address, *words, *options]
        return run_on_terminal(command, environment=environment, status=1, answer=b"")

    assert red in on_terminal()
    assert red not in on_terminal("--color=never")
    assert red not in on_terminal(NO_COLOR="1")
    assert red not in on_terminal(TERM="dumb")


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
