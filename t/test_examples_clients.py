"""What examples/ has for the dispatcher's hosts (examples/hosts/) and for programs that
call (examples/clients/) does what it says."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from conftest import TOP
from dispatchers import HARPCALLERD

from harp import testing
from harp.dispatcher.hostlines import parse_hosts

HOSTS = TOP / "examples" / "hosts"
CLIENTS = TOP / "examples" / "clients"
SECONDS = 50


def test_all_of_them_are_tested_here():
    for path in CLIENTS.iterdir():
        if path.name != "__pycache__":
            assert path.suffix == ".py" and f"test_{path.stem}" in globals(), path
    scripts = {"from-files", "from-etc-hosts", "from-sqlite", "inventory.sql"}
    assert {path.name for path in HOSTS.iterdir()} == scripts


@pytest.mark.parametrize("path", sorted(CLIENTS.glob("*.py")), ids=os.path.basename)
def test_client_without_arguments_tells_how_it_is_used(path):
    environment = {**os.environ, "PYTHONPATH": str(TOP / "lib")}
    done = subprocess.run(
        [sys.executable, path], env=environment, capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 1
    assert f"python3 {path.name} ".encode() in done.stderr.replace(b"/srv/", b"")
    assert b"Traceback" not in done.stderr


# --- hosts --------------------------------------------------------------------------


def script(name, directory, changes):
    """Return a copy of a hosts' script, set up as an operator would."""
    text = (HOSTS / name).read_text()
    for installed, here in changes.items():
        assert installed in text
        text = text.replace(installed, here)
    if text.startswith("#!/usr/bin/env python3\n"):
        text = text.replace("/usr/bin/env python3", sys.executable, 1)
    path = directory / name
    path.write_text(text)
    path.chmod(0o750)
    return path


def printed(path):
    """Run a hosts' script; return the hosts that the dispatcher finds in its output."""
    done = subprocess.run([path], capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    lines = parse_hosts(done.stdout)
    assert lines.faults == []
    return lines.hosts


def failure_of(path):
    """Run a hosts' script that must fail; return what it says, a line."""
    done = subprocess.run([path], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def from_files(tmp_path):
    directory = tmp_path / "hosts.d"
    directory.mkdir()
    return directory, script(
        "from-files", tmp_path, {"/etc/harpcaller/hosts.d\n": f"'{directory}'\n"}
    )


def line_of(hostname):
    credentials = {"user": "harp", "password": "x"}
    entry = {"hostname": hostname, "address": hostname, "credentials": credentials}
    return json.dumps(entry)


def test_hosts_of_several_files_also_without_a_last_line_feed(tmp_path):
    directory, path = from_files(tmp_path)
    (directory / "a.jsonl").write_text(f"# ours\n{line_of('web01')}")
    (directory / "b.jsonl").write_text(f"{line_of('web02')}\n\n")
    (directory / "b.jsonl~").write_text(line_of("old07"))
    assert printed(path).keys() == {"web01", "web02"}


def test_hosts_of_no_file_are_a_failure_and_not_none(tmp_path):
    directory, path = from_files(tmp_path)
    assert failure_of(path)
    directory.rmdir()
    assert failure_of(path)


ETC_HOSTS = """\
127.0.0.1 localhost web00
192.0.2.11\tweb01.example.net web01   # the first
192.0.2.12  intranet web02
2001:db8::7 db01
192.0.2.80 printer
#192.0.2.99 web99

::1 db00
nonsense web98
"""


def test_hosts_of_etc_hosts(tmp_path):
    password = tmp_path / "password"
    hosts = tmp_path / "hosts"
    changes = {
        '"/etc/hosts"': f'"{hosts}"',
        '"/etc/harpcaller/hosts.password"': f'"{password}"',
    }
    path = script("from-etc-hosts", tmp_path, changes)
    assert str(password) in failure_of(path)
    password.write_text("\n")
    hosts.write_bytes(b"192.0.2.81 printer2 # caf\xe9\n" + ETC_HOSTS.encode())
    assert "no password" in failure_of(path)
    password.write_bytes(b"caf\xe9\n")
    assert failure_of(path).endswith("is not UTF-8\n")
    password.write_text("a secret\n")
    found = printed(path)
    assert {name: found[name].address for name in found} == {
        "web01.example.net": "192.0.2.11",
        "web02": "192.0.2.12",
        "db01": "2001:db8::7",
    }
    assert {(host.user, host.password) for host in found.values()} == {
        ("harpcaller", "a secret")
    }
    changes["BY_NAME = False"] = "BY_NAME = True"
    path = script("from-etc-hosts", tmp_path, changes)
    assert printed(path)["web02"].address == "web02"


def from_sqlite(tmp_path):
    database = tmp_path / "inventory.sqlite"
    path = script(
        "from-sqlite",
        tmp_path,
        {"/var/lib/inventory/inventory.sqlite": str(database)},
    )
    return database, path


def test_hosts_of_a_database(tmp_path):
    database, path = from_sqlite(tmp_path)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executescript((HOSTS / "inventory.sql").read_text())
    found = printed(path)
    assert found.keys() == {"web01", "web02"}
    assert (found["web01"].port, found["web01"].cert_sha256) == (4306, None)
    assert (found["web02"].address, found["web02"].port) == ("192.0.2.12", 4307)
    assert found["web02"].cert_sha256.startswith("b5bb9d80")
    assert found["web02"].password == "a secret of web02"


def test_hosts_of_no_database_are_a_failure_and_make_none(tmp_path):
    database, path = from_sqlite(tmp_path)
    assert str(database) in failure_of(path)
    assert not database.exists()


def test_dispatcher_runs_a_hosts_script(tmp_path):
    # In the hands that the dispatcher wants.
    directory, path = from_files(tmp_path)
    (directory / "a.jsonl").write_text(line_of("web01") + "\n")
    configuration = tmp_path / "harpcaller.toml"
    settings = {
        "listen": [f"unix:{tmp_path}/client"],
        "admin_socket": tmp_path / "control",
        "stream_directory": tmp_path / "jobs",
        "hosts": {"script": path},
    }
    configuration.write_text(testing.to_toml(settings))
    command = [*HARPCALLERD, "-c", str(configuration)]
    program = testing.Program(command, tmp_path / "log")
    program.start()
    try:
        with open(directory / "b.jsonl", "w") as file:
            file.write(line_of("web02") + "\n")
        for action in ("hosts-refresh", "hosts-list"):
            done = subprocess.run(
                [*command, action, "--json"], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        hosts = [json.loads(line)["hostname"] for line in done.stdout.splitlines()]
        assert hosts == ["web01", "web02"]
    finally:
        assert program.stop() == 0


# --- clients ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """The procedures of the examples, on three hosts; nobody is at the fourth."""
    names = ["web01", "web02", "web03"]
    started = testing.Servers(
        TOP / "examples" / "procedures.py",
        tmp_path_factory.mktemp("servers"),
        hosts=names,
    )
    with started:
        nowhere = started.host_entry("nowhere") | {"port": 1}
        known = [started.host_entry(name) for name in names]
        started.write_hosts([*known, nowhere])
        command = [*HARPCALLERD, "-c", str(started.directory / "harpcaller.toml")]
        subprocess.run([*command, "hosts-refresh"], check=True, capture_output=True)
        yield started


@pytest.fixture
def start(servers, request):
    """``start(client, *arguments)`` starts a client program."""

    def run(name, *arguments):
        host, port = servers.dispatcher_address
        process = subprocess.Popen(
            [sys.executable, CLIENTS / f"{name}.py", *map(str, arguments)],
            env=os.environ | {"HARPCALLER_URL": f"harp://{host}:{port}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        request.addfinalizer(lambda: (process.kill(), process.communicate()))
        return process

    return run


@pytest.fixture
def run(start):
    """``run(client, *arguments)`` returns exit status, output and messages."""

    def finished(*arguments):
        process = start(*arguments)
        output, messages = process.communicate(timeout=SECONDS)
        assert "Traceback" not in messages
        return process.returncode, output, messages

    return finished


def test_call_and_wait(run):
    status, output, messages = run("call_and_wait", "web01", "withdraw", 30)
    assert (status, output) == (0, "70\n") and messages.startswith("job ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("web01", "withdraw", 300), "the procedure raised NotEnough: "),
        (("nowhere", "uptime"), "the call failed (safe to call again): "),
        (("web01", "withdraw"), "the call failed (safe to call again): "),
    ],
)
def test_call_that_fails_says_how(run, arguments, text):
    status, output, messages = run("call_and_wait", *arguments)
    assert status == 1 and output == "" and text in messages


@pytest.mark.slow
def test_call_without_a_dispatcher_says_that_nothing_was_called():
    process = subprocess.run(
        [sys.executable, CLIENTS / "call_and_wait.py", "web01", "uptime"],
        env=os.environ | {"HARPCALLER_URL": "harp://127.0.0.1:1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("nothing was called: ")


def test_follow_stream(servers, run):
    with servers.caller() as caller:
        job = caller.web01.count_down(2, 0.01)
        status, output, _ = run("follow_stream", job.id(), 1)
    assert (status, output) == (0, '2\n1\nresult: "lift-off"\n')
    status, _, messages = run("follow_stream", "no-job")
    assert status == 1 and messages.startswith("after 0 values: ")


def test_stream_that_is_left_is_taken_up_where_it_was(servers, start):
    with servers.caller() as caller:
        job = caller.web01.count_down(1000, 0.1)
        process = start("follow_stream", job.id(), 1)
        assert process.stdout.readline() == "1000\n"
        process.send_signal(signal.SIGINT)
        # Not communicate(), which forgets what readline() has read beyond the line.
        output, messages = process.stdout.read(), process.stderr.read()
        assert process.wait(SECONDS) == 1 and messages.startswith("to go on: ")
        job_id, next_number = messages.split()[-2:]
        # Left between printing a value and counting it, that one comes again.
        assert int(next_number) - output.count("\n") in (1, 2)
        process = start("follow_stream", job_id, next_number)
        assert process.stdout.readline() == f"{1001 - int(next_number)}\n"
        assert job.cancel()
        process.stdout.read()
        messages = process.stderr.read()
        assert process.wait(SECONDS) == 1 and "was cancelled" in messages


def test_many_hosts(run):
    status, output, messages = run("many_hosts", "web01,web02,web03", "uptime")
    assert (status, messages) == (0, "")
    hosts = [line.partition(": ")[0] for line in output.splitlines()[1:]]
    assert sorted(hosts) == ["web01", "web02", "web03"]


def test_many_hosts_of_which_one_cant_be_reached(run):
    status, output, messages = run("many_hosts", "web01,nowhere", "uptime")
    assert (status, messages) == (1, "failed: nowhere\n")
    assert output.count("nowhere: ") == 2 and output.count("web01: ") == 1


def test_cancel_when_late(run):
    status, output, _ = run("cancel_when_late", 0.5, "web01", "count_down", 1000)
    assert status == 0
    cancelled, streamed = output.splitlines()
    assert cancelled == "cancelled after 0.5 s"
    assert streamed.startswith("it had streamed ")
    status, output, _ = run("cancel_when_late", SECONDS, "web01", "withdraw", 1)
    assert (status, output) == (0, "99\n")


def test_with_asyncio(run):
    status, output, messages = run("with_asyncio", "web01")
    assert (status, messages) == (0, "")
    lines = output.splitlines()
    assert "result: lift-off" in lines
    assert [line for line in lines if line.startswith("value: ")][1:] == [
        "value: 3",
        "value: 2",
        "value: 1",
    ]
    assert any(line.startswith("load: ") for line in lines)


def test_nightly(servers, run):
    with servers.caller() as caller:
        for hosts in ("web01", "web01,web02", "web01,web02"):
            assert run("nightly", hosts, "load") == (0, "", "")
        jobs = caller.jobs(queue={"nightly": "load"})
        called = [status["call"]["host"] for status in jobs]
    assert called == ["web02", "web01"]
    status, output, messages = run("nightly", "web01,nowhere", "uptime")
    assert (status, output) == (1, "")
    assert messages.startswith("nowhere: ") and messages.count("\n") == 1
