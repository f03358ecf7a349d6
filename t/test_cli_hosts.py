"""The harpcaller command where it is about several hosts, with the real daemons."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest
from conftest import PROCEDURES, TOP
from harp import jobid, testing
from terminals import run_on_terminal

COMMAND = [sys.executable, str(TOP / "bin" / "harpcaller")]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Both daemons, for three names of the same host."""
    place = tmp_path_factory.mktemp("many")
    names = ["web01", "web02", "db"]
    with testing.Servers(PROCEDURES, place, hosts=names) as servers:
        yield servers


@pytest.fixture
def run(many):
    """``run(*arguments)`` runs the command with that dispatcher and returns it,
    ended."""

    def run(*arguments, **options):
        return subprocess.run(
            [*command(many), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )

    return run


def command(servers):
    return [*COMMAND, "--dispatcher", "%s:%d" % servers.dispatcher_address]


def rows(process):
    """The closing table, by host."""
    _, _, table = process.stderr.rpartition("HOST ")
    lines = [line.split() for line in table.splitlines()[1:-1]]
    return {words[0]: words[1:] for words in lines}


# --- call on several ----------------------------------------------------------------


def test_results_are_prefixed_with_the_host_and_a_table_closes_them(run):
    process = run("call", "web01,web02", "count", "2")
    assert process.returncode == 0
    assert sorted(process.stdout.splitlines()) == [
        *("web01: 0", "web01: 1", "web01: 2"),
        *("web02: 0", "web02: 1", "web02: 2"),
    ]
    found = rows(process)
    assert {host: words[0] for host, words in found.items()} == {
        "web01": "result",
        "web02": "result",
    }
    assert all(jobid.is_valid(words[-1]) for words in found.values())
    assert "2 of 2 succeeded" in process.stderr


def test_some_failed_hosts_exit_with_20_and_the_others_print(run):
    process = run("call", "web01,nowhere", "add", "1", "2")
    assert (process.returncode, process.stdout) == (20, "web01: 3\n")
    assert "nowhere: unknown_host" in process.stderr
    assert rows(process)["nowhere"][:3] == ["error", "unknown_host", "no"]


def test_pattern_stands_for_the_hosts_that_the_dispatcher_knows(run):
    process = run("call", "web*,db", "add", "1")
    lines = sorted(process.stdout.splitlines())
    assert lines == ["db: 1", "web01: 1", "web02: 1"]


def test_pattern_that_fits_no_host_is_an_error(run):
    process = run("call", "db,mail*", "add", "1")
    assert (process.returncode, process.stdout) == (2, "")
    assert "no host like 'mail*'" in process.stderr


def test_json_of_several_hosts_is_one_document(run):
    process = run("call", "web01,nowhere", "count", "1", "--json")
    assert process.returncode == 20
    document = json.loads(process.stdout)
    by_host = {entry["host"]: entry for entry in document["hosts"]}
    assert by_host["web01"]["result"] == 1
    assert [packet["data"] for packet in by_host["web01"]["stream"]] == [0]
    assert by_host["nowhere"]["error"]["ran"] == "no"
    # The group can be looked at again.
    again = json.loads(run("wait", "--group", document["group"], "--json").stdout)
    assert sorted(again["hosts"], key=lambda entry: entry["host"]) == sorted(
        document["hosts"], key=lambda entry: entry["host"]
    )


def test_lines_of_several_hosts_say_host_and_job(run):
    process = run("call", "web01,web02", "count", "1", "--jsonl")
    lines = list(map(json.loads, process.stdout.splitlines()))
    assert all(jobid.is_valid(line["job_id"]) for line in lines)
    for host in ("web01", "web02"):
        packet, end = [line for line in lines if line["host"] == host]
        assert (packet["packet"], packet["data"], end["result"]) == (0, 0, 1)


def test_detached_group_can_be_waited_for_and_cancelled(run, tmp_path):
    path = str(tmp_path / "never")
    hosts = ("web01,web02", "wait_for_file", json.dumps(path))
    group = run("call", "--detach", *hosts).stdout.strip()
    assert run("wait", "--group", group, "--timeout", "0").returncode == 75
    assert run("cancel", "--group", group).returncode == 0
    process = run("wait", "--group", group)
    assert process.returncode == 20
    assert {words[0] for words in rows(process).values()} == {"cancelled"}
    again = run("cancel", "--group", group)
    assert again.returncode == 4
    assert "nothing to cancel" in again.stderr


def test_calls_at_a_time_are_no_more_than_asked_for(run):
    process = run(
        *("call", "web01,web02,db", "add", "1"),
        *("--at-a-time", "1", "--detach", "--json"),
    )
    for job in json.loads(process.stdout)["jobs"].values():
        status = json.loads(run("status", job).stdout)
        assert status["queue"]["concurrency"] == 1


def test_more_failures_than_allowed_cancel_the_others(run, tmp_path):
    words = ["nowhere,web01,db", "wait_for_file", str(tmp_path / "never")]
    process = run("call", *words, "--max-failures", "0")
    assert process.returncode == 20
    assert "1 calls have failed: cancelling the others" in process.stderr
    found = {host: words[0] for host, words in rows(process).items()}
    assert found == {"nowhere": "error", "web01": "cancelled", "db": "cancelled"}


@pytest.fixture
def interrupted(many, tmp_path, wait_for):
    """``interrupted(*options)`` calls something on two hosts, interrupts the command
    when both run, and returns what it told. The calls end when there is a file
    ``end``."""

    def interrupted(*options):
        started = tmp_path / "started"
        words = ["append_and_wait", str(started), "x", str(tmp_path / "end")]
        with subprocess.Popen(
            [*command(many), "call", "web01,web02", *words, *options],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            wait_for(lambda: started.exists() and len(started.read_text()) == 4, 30)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in told
        return told

    return interrupted


def test_interrupted_group_says_how_to_go_on_and_is_not_cancelled(
    run, interrupted, tmp_path
):
    told = interrupted()
    group = re.search("cancel --group ([0-9a-f-]+)", told)[1]
    assert f"wait --group {group}" in told
    (tmp_path / "end").touch()
    assert run("wait", "--group", group).returncode == 0


def test_interrupted_group_is_cancelled_where_that_was_asked_for(interrupted):
    assert "cancelled 2 calls" in interrupted("--cancel-on-interrupt")


# --- on a terminal ------------------------------------------------------------------


def test_progress_line_is_shown_on_a_terminal_and_erased(many, tmp_path):
    printed = run_on_terminal(
        [*command(many), "call", "web01,web02", "add", "1"],
        environment={"TERM": "xterm", "NO_COLOR": "1"},
        answer=b"",
    )
    assert "2/2 done, 0 running, 0 waiting, 0 failed" in printed
    # What is left of each line when the terminal has shown it all.
    shown = [line.split("\r\x1b[K")[-1] for line in printed.split("\n")]
    assert {"web01: 1", "web02: 1"} <= set(shown)
    assert not [line for line in shown if "running" in line]


def test_terminal_that_can_not_erase_gets_no_progress_line(many):
    printed = run_on_terminal(
        [*command(many), "call", "web01,web02", "add", "1"],
        environment={"TERM": "dumb"},
        answer=b"",
    )
    assert "running" not in printed
    assert "\x1b" not in printed


def test_progress_line_keeps_to_a_terminal_that_shrinks(many, tmp_path):
    end = tmp_path / "end"
    ours, its = pty.openpty()
    resize(its, 80)
    words = ["call", "web01,web02", "wait_for_file", str(end)]
    with subprocess.Popen(
        [*command(many), *words],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(its)
        seen = read_until(ours, b"failed, 0:")
        resize(ours, 12)
        seen = read_until(ours, b"\x1b[K0/2 done, 2\r")
        end.touch()
        seen += read_until(ours, None)
    os.close(ours)
    assert process.returncode == 0
    assert b"Traceback" not in seen


def resize(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))


def read_until(terminal, wanted):
    """Read until something was printed; None: until the end."""
    seen = b""
    while wanted is None or wanted not in seen:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # EIO: closed by all that had it
            assert wanted is None, seen
            return seen
        seen += data
    return seen


# --- hosts, ping, procedures --------------------------------------------------------


def test_hosts_are_listed(run):
    lines = map(json.loads, run("hosts", "--jsonl").stdout.splitlines())
    assert [line["hostname"] for line in lines] == ["db", "web01", "web02"]
    assert len(json.loads(run("hosts", "--json").stdout)) == 3


def test_ping_tells_of_each_host_what_it_is_and_what_is_wrong(many, run):
    process = run("ping", "web*", "nowhere", "--json")
    assert process.returncode == 20
    found = {row["host"]: row for row in json.loads(process.stdout)}
    assert set(found) == {"web01", "web02", "nowhere"}
    good, bad = found["web01"], found["nowhere"]
    assert (good["ok"], good["error"], good["problem"]) == (True, None, None)
    assert good["cert_sha256"] == many.certificate.sha256
    assert good["cert_expires"] and good["digest"] and good["version"]
    assert (good["address"], good["port"]) == tuple(many.daemon_address)
    assert (bad["ok"], bad["error"]) == (False, "unknown_host")
    assert "nowhere" in bad["problem"]


@pytest.mark.parametrize(
    "change, error, status",
    [
        ({"port": 1}, "network_error", 69),
        ({"cert_sha256": "00" * 32}, "certificate_error", 4),
        ({"credentials": {"user": "harp", "password": "x"}}, "auth_error", 77),
    ],
)
def test_ping_says_what_is_wrong_with_a_host(make_servers, change, error, status):
    servers = make_servers()
    servers.write_hosts([servers.host_entry("bad") | change])
    # The dispatcher reads the changed file when it is asked to.
    servers.dispatcher.reload()
    process = subprocess.run(
        [*command(servers), "ping", "bad"], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == status, process.stdout
    assert json.loads(process.stdout)["error"] == error


def test_ping_on_a_terminal_is_a_table_and_the_problems_whole(many):
    printed = run_on_terminal(
        [*command(many), "ping", "web01,nowhere"], columns=120, status=20
    )
    lines = printed.splitlines()
    assert lines[0].split()[:3] == ["HOST", "ANSWER", "MS"]
    assert lines[1].split()[:2] == ["web01", "ok"]
    assert lines[-1].startswith("nowhere: unknown_host: ")


def test_procedures_are_listed_and_one_has_its_help(many, run):
    entries = json.loads(run("procedures", "web01", "--json").stdout)
    assert "count" in [entry["name"] for entry in entries]
    printed = run_on_terminal([*command(many), "procedures", "web01", "count"])
    assert printed.splitlines()[:2] == [
        "count(n, pause=0)",
        "    Stream 0 to n - 1 and return n.",
    ]
    missing = run("procedures", "web01", "no_such")
    assert missing.returncode == 4
    assert "no procedure 'no_such'" in missing.stderr


# --- rerun --------------------------------------------------------------------------


def test_failed_calls_that_have_not_run_are_made_again_unasked(many, run):
    group = run("call", "web01,nowhere", "add", "1", "--detach").stdout.strip()
    run("wait", "--group", group)
    process = run("rerun", "--failed", group, "--detach", "--json")
    assert list(json.loads(process.stdout)["jobs"]) == ["nowhere"]


def test_failed_calls_that_have_run_are_asked_about_first(many, run):
    group = run("call", "web01,nowhere", "fail", "--detach").stdout.strip()
    run("wait", "--group", group)
    refused = run("rerun", "--failed", group)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "1 of 2" in refused.stderr and "--yes" in refused.stderr
    some = run("rerun", "--failed", group, "--not-run", "--detach", "--json")
    assert list(json.loads(some.stdout)["jobs"]) == ["nowhere"]
    every = run("rerun", "--failed", group, "--yes", "--detach", "--json")
    assert sorted(json.loads(every.stdout)["jobs"]) == ["nowhere", "web01"]


@pytest.mark.parametrize("answer, status", [(b"y\n", 0), (b"n\n", 4), (b"\xff\n", 4)])
def test_call_that_has_run_is_made_again_if_somebody_says_so(
    many, run, tmp_path, answer, status
):
    path = tmp_path / "lines"
    job = run("call", "web01", "append", str(path), "--detach").stdout.strip()
    run("wait", job)
    printed = run_on_terminal(
        [*command(many), "rerun", job], status=status, answer=answer
    )
    assert "append on web01 has run" in printed
    assert path.read_text().count("x") == (2 if status == 0 else 1)


def test_call_with_secret_arguments_is_not_made_again(run):
    job = run("call", "web01", "add", "1", "--secret", "1", "--detach").stdout.strip()
    run("wait", job)
    process = run("rerun", job, "--yes")
    assert process.returncode == 4
    assert "secret" in process.stderr


# --- direct -------------------------------------------------------------------------


@pytest.fixture
def direct(many, tmp_path):
    """``direct(*words)`` calls the daemon itself."""
    password = tmp_path / "password"
    password.write_text(many.password + "\n")

    def direct(*words, pin=many.certificate.sha256):
        return subprocess.run(
            [*COMMAND, "direct", "%s:%d" % many.daemon_address, *words]
            + ["--user", many.user, "--password-file", password, "--cert-sha256", pin],
            capture_output=True,
            text=True,
            timeout=60,
        )

    return direct


def test_direct_call_prints_stream_and_result(direct):
    process = direct("count", "2")
    assert (process.returncode, process.stdout) == (0, "0\n1\n2\n")
    document = json.loads(direct("count", "1", "--json").stdout)
    assert [packet["data"] for packet in document["stream"]] == [0]
    assert document["result"] == 1


def test_direct_call_has_the_same_exit_statuses(direct):
    assert direct("fail").returncode == 1
    assert direct("no_such").returncode == 4
    untrusted = direct("add", "1", pin="00" * 32)
    assert untrusted.returncode == 69
    assert untrusted.stderr.count("\n") == 1


# --- completion ---------------------------------------------------------------------


@pytest.fixture
def complete(many, tmp_path):
    """``complete(*words)``: what bash makes of the words, the last one being there to
    be completed."""
    (tmp_path / "harpcaller").symlink_to(TOP / "bin" / "harpcaller")
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HARPCALLER_URL": "harp://%s:%d" % many.dispatcher_address,
    }
    script = (
        'eval "$(harpcaller completion bash)" || exit 1; '
        # As bash sets them: a colon is a word of its own in the one, not in the other.
        'COMP_LINE="harpcaller $*"; COMP_POINT=${#COMP_LINE}; '
        'for word; do COMP_WORDS+=(${word//:/ : }); done; '
        '[[ -z $word ]] && COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); '
        '_harpcaller; printf "%s\\n" "${COMPREPLY[@]}"'
    )

    def complete(*words):
        process = subprocess.run(
            ["bash", "-c", script, "bash", *words],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
        assert process.stderr == ""
        return process.stdout.split()

    return complete


@pytest.mark.parametrize(
    "words, found",
    [
        (["re"], ["rerun", "result"]),
        (["--dispatcher", "127.0.0.1:1", "pi"], ["ping"]),
        (["--disp"], ["--dispatcher"]),
        (["--color", "never", "ho"], ["hosts"]),
        (["call", "--max-"], ["--max-exec-time", "--max-failures"]),
        (["call", "web"], ["web01", "web02"]),
        (["call", "db,web"], ["db,web01", "db,web02"]),
        (["call", "--timeout", "5", "w"], ["web01", "web02"]),
        (["call", "--timeout", "w"], []),
        (["call", "--detach", "d"], ["db"]),
        (["call", "db", "w"], []),
        (["ping", "db", "w"], ["web01", "web02"]),
        (["procedures", "d"], ["db"]),
        (["completion", ""], ["bash", "zsh"]),
        (["nonsense", "x"], []),
    ],
)
def test_bash_completes_commands_options_and_hosts(complete, words, found):
    assert complete(*words) == found


@pytest.mark.parametrize(
    "words", [["--dispatcher", "127.0.0.1:1"], ["--dispatcher=127.0.0.1:1"]]
)
def test_completion_is_silent_where_there_is_no_dispatcher(complete, words):
    assert complete(*words, "call", "w") == []
