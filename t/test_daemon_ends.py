"""How calls on a real harpd end if not by their result: cancelled, timed out, dead."""

import os
import signal
import socket
import struct
import time

import pytest
from daemon_setup import (  # noqa: F401
    Caller,
    call_processes,
    error_of,
    harpd,
    is_alive,
    make_harpd,
)


def died(message) -> dict:
    assert error_of(message)[0] == "process_died"
    return message["error"]["data"]


def logged_end(daemon, pid, wait_for) -> str:
    """Return how the call of that process ended, as the log says."""

    def lines():
        return [line for line in daemon.log().splitlines() if f'"pid": {pid},' in line]

    (line,) = wait_for(lines)
    return line.partition('"end": "')[2].partition('"')[0]


def standby_of(daemon) -> list[int]:
    return call_processes(daemon, "harpd-standby")


# --- cancel -------------------------------------------------------------------------


def reset(caller):
    caller.sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    caller.close()


@pytest.mark.parametrize("leave", [Caller.close, Caller.half_close, reset])
def test_caller_that_goes_away_in_any_manner_cancels_a_computation(
    harpd, wait_for, leave
):
    with harpd.begin("compute") as caller:
        caller.message()
        pid = caller.message()["stream"]
        assert is_alive(pid)
        leave(caller)
        wait_for(lambda: not is_alive(pid))
    assert logged_end(harpd, pid, wait_for) == "cancelled"


def test_cancel_kills_a_whole_tree_that_ignores_sigterm(harpd, wait_for):
    with harpd.begin("stubborn") as caller:
        caller.message()
        pids = caller.message()["stream"]
        assert len(pids) == 5 and all(map(is_alive, pids))
        caller.half_close()
        # The connection is closed when they are gone, and nothing is said.
        assert caller.messages() == []
        assert not any(map(is_alive, pids))


def test_connection_of_a_cancelled_call_stays_until_its_processes_are_gone(
    make_harpd,
):
    daemon = make_harpd(limits={"kill_grace": 0.2})
    with daemon.begin("stubborn") as caller:
        caller.message()
        caller.message()
        begin = time.monotonic()
        caller.half_close()
        assert caller.messages() == []
        assert time.monotonic() - begin >= 0.2


def test_result_that_comes_while_it_is_being_cancelled_is_sent(harpd):
    with harpd.begin("finish_when_terminated", "return") as caller:
        caller.message()
        caller.message()
        caller.half_close()
        assert caller.messages() == [{"result": "finished"}]


def test_exception_that_the_kill_raised_is_no_end_of_the_call(harpd, wait_for):
    with harpd.begin("finish_when_terminated", "raise") as caller:
        caller.message()
        pid = caller.message()["stream"]
        caller.half_close()
        assert caller.messages() == []
    assert logged_end(harpd, pid, wait_for) == "cancelled"


def test_caller_that_has_left_before_its_call_started_starts_nothing(
    make_harpd, tmp_path, wait_for
):
    daemon = make_harpd()
    wait_for(lambda: len(standby_of(daemon)) == 2)
    # With its spawner stopped, no process becomes ready after those on standby.
    os.kill(daemon.spawner(), signal.SIGSTOP)
    try:
        waiting = [daemon.begin("wait_until", str(tmp_path / "go")) for _ in range(2)]
        for caller in waiting:
            caller.message()
        late = daemon.begin("noted", str(tmp_path / "ran"))
        late.half_close()
    finally:
        os.kill(daemon.spawner(), signal.SIGCONT)
    assert late.messages() == []
    (tmp_path / "go").touch()
    for caller in waiting:
        assert caller.messages() == [{"result": "there"}]
        caller.close()
    late.close()
    assert not (tmp_path / "ran").exists()


def test_caller_that_takes_nothing_is_given_up(make_harpd, wait_for):
    daemon = make_harpd(limits={"send_timeout": 0.3})
    with daemon.begin("lines_of", 1_000_000, 1000) as caller:
        caller.message()
        (pid,) = call_processes(daemon, "lines_of")
        wait_for(lambda: not is_alive(pid))
    assert logged_end(daemon, pid, wait_for) == "cancelled"


# --- timeouts -----------------------------------------------------------------------


def test_timeout_of_a_procedure_kills_it(harpd):
    acknowledged, message = harpd.call("too_long")
    assert error_of(message) == ("timeout", "the call took longer than 0.3 s")


def test_timeout_of_a_streaming_procedure_counts_for_the_whole_run(harpd):
    _, value, message = harpd.call("stream_too_long")
    assert error_of(message)[0] == "timeout"
    assert not is_alive(value["stream"])


def test_procedure_without_a_timeout_has_the_configured_one(make_harpd):
    daemon = make_harpd(procedures={"timeout": 0.2})
    assert error_of(daemon.end("compute")) == (
        "timeout",
        "the call took longer than 0.2 s",
    )


def test_procedure_may_be_allowed_a_month(make_harpd):
    daemon = make_harpd(procedures={"timeout": 31 * 86400})
    assert daemon.end("add", a=1, c=5) == {"result": 6}


def test_call_that_times_out_before_it_was_acknowledged_has_not_run(
    make_harpd, tmp_path, wait_for
):
    daemon = make_harpd(procedures={"timeout": 0.2})
    for pid in wait_for(lambda: len(found := standby_of(daemon)) == 2 and found):
        os.kill(pid, signal.SIGSTOP)
    (message,) = daemon.call("noted", str(tmp_path / "ran"))
    assert error_of(message)[0] == "timeout"
    assert not (tmp_path / "ran").exists()


# --- processes that die -------------------------------------------------------------


def test_process_that_exits_without_a_result_is_reported_with_its_status(harpd):
    assert died(harpd.end("leave", 0)) == {"exit_status": 0}
    assert died(harpd.end("leave", 7)) == {"exit_status": 7}


def test_process_that_crashes_is_reported_with_its_signal(harpd):
    assert died(harpd.end("crash")) == {"signal": signal.SIGSEGV}


def test_process_killed_from_outside_is_reported_at_once(harpd):
    with harpd.begin("compute") as caller:
        caller.message()
        os.kill(caller.message()["stream"], signal.SIGKILL)
        assert died(caller.message()) == {"signal": signal.SIGKILL}


def test_process_killed_in_the_middle_of_a_long_line_closes_without_an_end(harpd):
    with harpd.begin("lines_of", 15_000_000, 1) as caller:
        caller.message()
        # More than is buffered: a part of the line is on its way.
        received = caller.sock.recv(100)
        assert received.startswith(b'{"stream":"xxx')
        (pid,) = call_processes(harpd, "lines_of")
        os.kill(pid, signal.SIGKILL)
        rest = b""
        while data := caller.sock.recv(1 << 20):
            rest = data
        assert set(rest) == {ord("x")}


def test_standby_process_that_dies_harms_no_call(make_harpd, wait_for):
    daemon = make_harpd(limits={"standby": 4})
    pids = wait_for(lambda: len(standby := standby_of(daemon)) == 4 and standby)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: daemon.log().count("standby process ended") == 4)
    for number in range(8):
        assert daemon.end("echo", number) == {"result": number}


def test_process_that_closes_its_socket_and_stays_is_killed(harpd):
    _, value, message = harpd.call("close_everything")
    assert died(message)["signal"] in (signal.SIGTERM, signal.SIGKILL)
    assert not is_alive(value["stream"])


# --- other corners ------------------------------------------------------------------


def test_copy_that_a_procedure_forked_cannot_answer(harpd):
    assert harpd.call("fork_twice")[1:] == [{"result": "parent"}]
    assert harpd.call("fork_in_stream")[1:] == [{"stream": "parent"}, {"result": None}]


def test_closed_stdout_harms_no_call(harpd):
    assert harpd.end("close_stdout") == {"result": "closed"}


def test_thread_left_running_does_not_keep_a_call(harpd):
    assert harpd.end("thread_goes_on") == {"result": "returned"}


def test_process_left_running_does_not_keep_a_call_though_it_holds_its_pipes(
    harpd, wait_for
):
    with harpd.begin("leave_running") as caller:
        _, message = caller.messages()
    pid = message["result"]
    try:
        wait_for(lambda: '"procedure": "leave_running"' in harpd.log())
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_only_the_call_of_a_caller_that_leaves_is_cancelled(harpd, tmp_path):
    with harpd.begin("wait_until", str(tmp_path / "go")) as other:
        other.message()
        for _ in range(5):
            with harpd.begin("compute") as caller:
                caller.message()
        (tmp_path / "go").touch()
        assert other.messages() == [{"result": "there"}]


# --- processes that are hard to find ------------------------------------------------


@pytest.mark.parametrize(
    "procedure", ["lose_main_thread_in_a_child", "daemonise_a_grandchild"]
)
def test_process_that_hides_is_killed_too(harpd, wait_for, procedure):
    with harpd.begin(procedure) as caller:
        caller.message()
        pid = caller.message()["stream"]
        tasks = f"/proc/{pid}/task"
        assert os.listdir(tasks)
    wait_for(lambda: not os.path.exists(tasks) or len(os.listdir(tasks)) <= 1)
    wait_for(lambda: not is_alive(pid))


def test_line_that_a_procedure_writes_to_its_socket_is_not_relayed(harpd):
    acknowledgement, end = harpd.call("write_to_the_socket")
    assert acknowledgement == {"harp": 1, "stream_result": False}
    assert error_of(end)[0] == "invalid_result"


@pytest.mark.parametrize("name", ["EvilName", "EvilStr", "EvilModule"])
def test_exception_is_told_whatever_it_looks_like(harpd, wait_for, name):
    exception = harpd.end("raise_evil", name)["exception"]
    assert (exception["type"], exception["message"]) == (name, "text")
    wait_for(lambda: f'"exception": "{name}"' in harpd.log())
