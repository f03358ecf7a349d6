"""harpcallerd as a service: a start that can be interrupted, drain, stop, reload by
signal, what it tells the service manager."""

import os
import signal
import socket
import subprocess

import pytest
from dispatchers import Dispatcher, host_entry, request


@pytest.fixture
def make_dispatcher(request, tmp_path, daemon, certificate):
    """``make_dispatcher(**changes)`` starts one with a host; ``start=False`` leaves
    that to the test."""
    made = []

    def make(start=True, **changes):
        entry = host_entry(daemon.address, cert_sha256=certificate.sha256)
        dispatcher = Dispatcher(tmp_path / f"d{len(made)}", [entry])
        limits = {"cancel_grace": 0.2} | changes.pop("limits", {})
        dispatcher.configure(limits=limits, **changes)
        made.append(dispatcher)
        request.addfinalizer(dispatcher.kill)
        if start:
            dispatcher.start()
        return dispatcher

    return make


def released(daemon):
    """A procedure that ends when the test says so."""

    def script(connection, received):
        connection.send(b'{"harp":1,"stream_result":false}\n')
        daemon.released.wait(30)
        connection.send(b'{"result":"done"}\n')

    return script


@pytest.fixture
def running(make_dispatcher, daemon, wait_for):
    """``running(**changes)``: a dispatcher with a job that runs until the daemon's
    ``released`` is set, and its id."""

    def make(**changes):
        dispatcher = make_dispatcher(**changes)
        daemon.scripts["released"] = released(daemon)
        job_id = dispatcher.call("released")
        wait_for(lambda: daemon.called("released"))
        return dispatcher, job_id

    return make


def stop(dispatcher, **options) -> dict:
    with dispatcher.connect_unix("control") as client:
        return client.ask(request("stop", True, **options))


def gone(dispatcher) -> int:
    """Wait until it has ended and return the exit status."""
    dispatcher._process.wait(30)
    return dispatcher.stop()


def trailer(dispatcher, job_id) -> dict:
    return dispatcher.file(job_id)[-1]


# --- the start ----------------------------------------------------------------------

SCRIPT = """#!/bin/sh
echo $$ > {directory}/started
exec sleep 1000
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_start_that_waits_for_the_hosts(
    make_dispatcher, tmp_path, wait_for, number
):
    script = tmp_path / "script"
    script.write_text(SCRIPT.format(directory=tmp_path))
    script.chmod(0o755)
    dispatcher = make_dispatcher(start=False, hosts={"script": str(script)})
    dispatcher.write_config()
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(dispatcher.argv, stderr=log)
    try:
        wait_for(lambda: (tmp_path / "started").exists())
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "stack of thread start" in (tmp_path / "log").read_text())
        process.send_signal(number)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    text = (tmp_path / "log").read_text()
    assert f'stopping during the start {{"by": "{number.name}"}}' in text
    assert "serving" not in text and "Traceback" not in text


def test_jobs_that_wait_are_not_started_by_a_start_that_is_stopped(
    running, daemon, tmp_path, wait_for
):
    dispatcher, _ = running(limits={"running": 1})
    waiting = dispatcher.call("echo")
    dispatcher.kill()
    script = tmp_path / "script"
    script.write_text(SCRIPT.format(directory=tmp_path))
    script.chmod(0o755)
    dispatcher.configure(hosts={"script": str(script)})
    dispatcher.write_config()
    with subprocess.Popen(dispatcher.argv, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: (tmp_path / "started").exists())
        process.terminate()
        assert process.wait(30) == 0
    assert dispatcher.path(waiting).exists() and not daemon.called("echo")
    dispatcher.configure(hosts={"file": str(dispatcher.directory / "hosts")})


# --- drain --------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["request", "SIGTERM"])
def test_drain_lets_running_jobs_end_and_starts_none(running, daemon, wait_for, by):
    dispatcher, job_id = running(on_sigterm="drain")
    if by == "request":
        assert stop(dispatcher, drain=True) == {
            "stopping": True,
            "pid": dispatcher.pid,
        }
        by = "harpcallerd stop by root" if os.getuid() == 0 else "harpcallerd stop by"
    else:
        os.kill(dispatcher.pid, signal.SIGTERM)
    wait_for(lambda: dispatcher.admin("status")["draining"])
    later = dispatcher.call("echo", 1)
    assert dispatcher.state(later) == "queued"
    assert dispatcher.state(job_id) == "running"
    with dispatcher.connect() as client:
        client.send(request("get_result", job_id))
        daemon.released.set()
        assert client.reply() == {"result": "done"}
    assert gone(dispatcher) == 0
    assert not daemon.called("echo")
    log = dispatcher.log()
    assert f'draining, no job is started any more {{"by": "{by}' in log
    assert "stopping: drained" in log
    dispatcher.start()
    assert dispatcher.result(later) == {"result": [1]}
    assert dispatcher.stop() == 0


def test_drain_with_nothing_running_stops_at_once(make_dispatcher):
    dispatcher = make_dispatcher()
    stop(dispatcher, drain=True)
    assert gone(dispatcher) == 0


def test_time_to_drain_is_bounded(running):
    dispatcher, job_id = running(on_sigterm="drain 1")
    os.kill(dispatcher.pid, signal.SIGTERM)
    assert gone(dispatcher) == 0
    assert "stopping: the time for draining is over" in dispatcher.log()
    assert trailer(dispatcher, job_id)["outcome"] == "error"
    assert dispatcher.file(job_id)[-2]["error"]["type"] == "shutdown"


def test_another_drain_sets_the_time_anew(running, wait_for):
    dispatcher, _ = running()
    stop(dispatcher, drain=True)
    wait_for(lambda: dispatcher.admin("status")["draining"])
    stop(dispatcher, drain=True, seconds=0.1)
    assert gone(dispatcher) == 0
    assert "the time for draining is over" in dispatcher.log()


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGINT])
def test_second_stop_cuts_a_drain_short(running, wait_for, number):
    dispatcher, job_id = running(on_sigterm="drain")
    stop(dispatcher, drain=True)
    wait_for(lambda: dispatcher.admin("status")["draining"])
    if number is None:
        stop(dispatcher)
    else:
        os.kill(dispatcher.pid, number)
    assert gone(dispatcher) == 0
    end = dispatcher.file(job_id)[-2]["error"]
    assert (end["type"], end["ran"]) == ("shutdown", "yes")
    by = "harpcallerd stop by" if number is None else number.name
    assert f'stopping {{"by": "{by}' in dispatcher.log()


def test_interrupt_from_the_keyboard_does_not_drain(running):
    dispatcher, job_id = running(on_sigterm="drain")
    os.kill(dispatcher.pid, signal.SIGINT)
    assert gone(dispatcher) == 0
    assert dispatcher.file(job_id)[-2]["error"]["type"] == "shutdown"


@pytest.mark.parametrize(
    "options",
    [{"seconds": 1}, {"drain": True, "seconds": 0}, {"drain": 1}, {"seconds": "x"}],
)
def test_stop_that_makes_no_sense_is_refused_and_stops_nothing(
    make_dispatcher, options
):
    dispatcher = make_dispatcher()
    assert stop(dispatcher, **options)["error"]["type"] == "invalid_request"
    assert dispatcher.admin("status")["stopping"] is False


# --- reload -------------------------------------------------------------------------


def test_reload_by_signal_applies_what_is_new(make_dispatcher):
    dispatcher = make_dispatcher(max_exec_time=1000)
    before = dispatcher.call("echo", max_exec_time=500)
    dispatcher.configure(max_exec_time=100)
    dispatcher.write_config()
    dispatcher.reload()
    after = dispatcher.call("echo", max_exec_time=500)
    for job_id, allowed in ((before, 500), (after, 100)):
        dispatcher.result(job_id)
        assert dispatcher.file(job_id)[0]["max_exec_time"] == allowed
    assert ": reloaded" in dispatcher.log()


def test_reload_of_what_is_at_fault_changes_nothing(make_dispatcher):
    dispatcher = make_dispatcher(max_exec_time=1000)
    dispatcher.configure(max_exec_time=100, trust={"ca_file": "/nope.pem"})
    dispatcher.write_config()
    dispatcher.reload()
    text = "reload failed, all stays as it was: "
    assert text in dispatcher.log() and "/nope.pem" in dispatcher.log()
    job_id = dispatcher.call("echo", max_exec_time=500)
    assert dispatcher.result(job_id) == {"result": []}
    assert dispatcher.file(job_id)[0]["max_exec_time"] == 500


def test_reload_lets_more_jobs_run_at_once_and_fewer_again(
    make_dispatcher, daemon, wait_for
):
    dispatcher = make_dispatcher(limits={"running": 1})
    daemon.scripts["released"] = released(daemon)
    jobs = [dispatcher.call("released") for _ in range(6)]
    wait_for(lambda: daemon.called("released") == 1)
    dispatcher.configure(limits={"running": 4})
    dispatcher.write_config()
    dispatcher.reload()
    wait_for(lambda: daemon.called("released") == 4)
    dispatcher.configure(limits={"running": 1})
    dispatcher.write_config()
    dispatcher.reload()
    # Those that run are not disturbed, and as long as they do, no other is started.
    assert dispatcher.admin("status")["running"] == 4
    daemon.released.set()
    assert all(dispatcher.result(job) == {"result": "done"} for job in jobs)
    daemon.released.clear()
    jobs = [dispatcher.call("released") for _ in range(3)]
    wait_for(lambda: daemon.called("released") == 7)
    states = sorted(dispatcher.state(job) for job in jobs)
    assert states == ["queued", "queued", "running"]
    daemon.released.set()
    assert all(dispatcher.result(job) == {"result": "done"} for job in jobs)


def test_fewer_jobs_run_after_a_reload_although_threads_wait(
    make_dispatcher, daemon, wait_for
):
    dispatcher = make_dispatcher(limits={"running": 8})
    daemon.scripts["released"] = released(daemon)
    jobs = [dispatcher.call("released") for _ in range(8)]
    wait_for(lambda: daemon.called("released") == 8)
    daemon.released.set()
    assert all(dispatcher.result(job) == {"result": "done"} for job in jobs)
    dispatcher.configure(limits={"running": 2, "cancel_grace": 0.2})
    dispatcher.write_config()
    dispatcher.reload()
    daemon.released.clear()
    jobs = [dispatcher.call("released") for _ in range(5)]
    wait_for(lambda: daemon.called("released") == 10)
    assert dispatcher.admin("status")["running"] == 2
    daemon.released.set()
    assert all(dispatcher.result(job) == {"result": "done"} for job in jobs)


def test_reload_that_somebody_waits_for_is_told_of_the_stop(running, wait_for):
    dispatcher, _ = running()
    with dispatcher.connect_unix("control") as client:
        client.send(*(request("reload", True) for _ in range(20)))
        assert client.reply() == {"reloaded": True, "faults": [], "restart": []}
        os.kill(dispatcher.pid, signal.SIGTERM)
        # Each of them, or none: but never half a line, and no hanging.
        for reply in client.rest():
            assert reply.get("faults") in ([], ["the dispatcher stops"]), reply
    assert gone(dispatcher) == 0


# --- the service manager ------------------------------------------------------------


def test_service_manager_is_told_of_start_reload_and_stop(running, daemon, tmp_path):
    dispatcher, _ = running()
    dispatcher.kill()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(tmp_path / "notify"))
        notices.settimeout(30)
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        process = subprocess.Popen(
            dispatcher.argv, env=environment, stderr=subprocess.DEVNULL
        )
        try:
            assert notices.recv(1000).startswith(b"READY=1\nX_HARP_ADDRESS=127.0.0.1:")
            process.send_signal(signal.SIGHUP)
            lines = notices.recv(1000).decode().splitlines()
            assert lines[0] == "RELOADING=1"
            assert lines[1].removeprefix("MONOTONIC_USEC=").isdigit()
            assert notices.recv(1000) == b"READY=1"
            process.terminate()
            assert notices.recv(1000) == b"STOPPING=1"
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("on_sigterm", "seconds"),
    [("drain 300", 360), ("drain", 366 * 86400 + 60)],
)
def test_service_manager_is_told_how_long_a_drain_may_take(
    running, daemon, on_sigterm, seconds
):
    dispatcher, _ = running(on_sigterm=on_sigterm)
    notices = dispatcher._notices
    notices.settimeout(30)
    os.kill(dispatcher.pid, signal.SIGTERM)
    assert notices.recv(1000) == b"STOPPING=1\nSTATUS=draining"
    granted = notices.recv(1000).decode()
    assert granted == f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}"
    daemon.released.set()
    assert gone(dispatcher) == 0
