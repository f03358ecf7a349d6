"""What starts the daemons for tests, people's own among them."""

import os
import subprocess
import sys
import tomllib

import harp
import pytest
from harp import testing

READY = """
import signal, sys
from harp import service
with service.Signals() as signals:
    service.notify(READY="1", X_HARP_ADDRESS="127.0.0.1:4306 unix:/run/socket")
    while signals.wait() == signal.SIGHUP:
        print("reloading", flush=True)
        service.notify(READY="1")
sys.exit(7)
"""


@pytest.fixture
def program(tmp_path, request):
    """``program(code)``: Python code as a program."""

    def make(code):
        made = testing.Program([sys.executable, "-c", code], tmp_path / "log")
        request.addfinalizer(made.kill)
        return made

    return make


def test_program_is_started_when_it_says_so_and_where_it_listens(program):
    started = program(READY)
    started.start()
    assert started.is_running
    assert started.addresses == ["127.0.0.1:4306", "unix:/run/socket"]
    assert started.stop() == 7
    assert not started.is_running
    assert started.stop() == 7


def test_program_that_is_running_is_not_started_twice(program):
    started = program(READY)
    started.start()
    with pytest.raises(testing.ProgramError, match="runs already"):
        started.start()
    assert started.is_running


def test_program_can_be_started_again(program):
    started = program(READY)
    started.start()
    first = started.pid
    started.kill()
    assert started.stop() == -9
    started.start()
    assert started.pid != first


def test_reload_returns_when_it_is_done(program):
    started = program(READY)
    started.start()
    started.reload()
    assert started.log() == "reloading\n"


def test_program_that_ends_shows_its_log(program):
    ended = program("print('no such file'); raise SystemExit(3)")
    with pytest.raises(testing.ProgramError, match="(?s)status 3.*no such file"):
        ended.start()
    assert not ended.is_running


def test_program_that_is_not_ready_in_time_is_killed(program):
    slow = program("print('thinking', flush=True); import signal; signal.pause()")
    with pytest.raises(testing.ProgramError, match="not ready in time"):
        slow.start(timeout=0.3)
    assert not slow.is_running


def test_program_that_does_not_stop_is_killed(program):
    stubborn = program(READY.replace("signal.SIGHUP", "signal.SIGTERM"))
    stubborn.start()
    with pytest.raises(testing.ProgramError, match="does not stop within 0.3 s"):
        stubborn.stop(timeout=0.3)
    assert not stubborn.is_running


def test_program_that_can_not_be_run_leaves_nothing(tmp_path):
    missing = testing.Program([tmp_path / "none"], tmp_path / "log")
    with pytest.raises(FileNotFoundError):
        missing.start()
    with pytest.raises(testing.ProgramError, match="never started"):
        _ = missing.pid


def test_certificate_is_for_its_names_and_its_key_private(tmp_path):
    made = testing.make_certificate(tmp_path, ["web01.example.net", "192.0.2.1"])
    text = subprocess.run(
        ["openssl", "x509", "-in", made.certificate, "-noout", "-text", "-fingerprint"]
        + ["-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "DNS:web01.example.net, IP Address:192.0.2.1" in text
    assert "prime256v1" in text
    assert made.sha256.upper() in text.replace(":", "")
    assert os.stat(made.key).st_mode & 0o777 == 0o600


def test_certificate_without_openssl_is_an_error_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(testing.OpensslMissing, match="install"):
        testing.make_certificate(tmp_path)


def test_certificate_that_can_not_be_written_says_why(tmp_path):
    with pytest.raises(testing.SetupError, match="No such file"):
        testing.make_certificate(tmp_path / "none")


def test_toml_is_read_back_as_it_was():
    table = {
        "listen": [{"address": "127.0.0.1:0", "anonymous": True}, "unix:/x"],
        "size": 5,
        "ratio": 0.5,
        "users": {"panel": 'a "quoted" \\ \n \x7f text, ü 🎵', "two words": "x"},
        "outer": {"inner": {"flag": False}, "empty": []},
    }
    assert tomllib.loads(testing.to_toml(table)) == table


def test_toml_of_what_has_none_is_a_type_error():
    with pytest.raises(TypeError, match="None"):
        testing.to_toml({"key": None})


def test_changes_reach_into_the_tables_of_a_configuration(make_servers):
    servers = make_servers(
        daemon={"users": {"other": "plain:secret"}},
        dispatcher={"limits": {"running": 5}, "default_timeout": 7},
    )
    host, port = servers.daemon_address
    pin = servers.certificate.sha256
    other = harp.HarpServer(host, "other", "secret", port=port, cert_sha256=pin)
    assert other.add(1, 2) == servers.direct().add(1, 2) == 3
    job = servers.caller().localhost.add(1, 2)
    assert job.get() == 3
    assert job.status()["timeout"] == 7


def test_procedures_of_a_module_are_called_on_hosts_of_any_name(make_servers):
    import procedures_for_tests

    servers = make_servers(procedures_for_tests, hosts=["web01", "web02"])
    with servers.caller() as rpc:
        results = rpc.hosts(["web01", "web02"]).add(1, 2).results(timeout=30)
    assert results == {"web01": 3, "web02": 3}


def test_module_without_a_file_is_named(tmp_path):
    with pytest.raises(testing.SetupError, match="module sys has no file"):
        testing.Servers(sys, tmp_path)


def test_dispatcher_that_was_killed_starts_where_it_was(make_servers):
    servers = make_servers()
    rpc = servers.caller()
    job = rpc.localhost.add(1, 2)
    assert job.get() == 3
    servers.dispatcher.kill()
    with pytest.raises(harp.CommunicationError):
        job.get()
    servers.start_dispatcher()
    assert job.get() == 3
