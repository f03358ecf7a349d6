"""The actions of an init script, with a daemon that is as simple as can be."""

import os
import signal
import sys
from pathlib import Path

import pytest
from daemon_setup import is_alive

from harp import actions, pidfile

DAEMON = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(actions.__file__).parents[1])!r})
from harp import actions, pidfile, service
path, answer = sys.argv[1:]
if answer.startswith("exit"):
    sys.exit(int(answer[4:]))
background = service.Background()
background.enter()
with service.Signals() as signals:
    file = pidfile.Pidfile(path)
    file.take()
    background.serving()
    while signals.wait() == signal.SIGHUP:
        if answer == "die":
            os._exit(1)
        actions.answer_reload(path, answer.splitlines())
if answer != "leave":
    file.release()
"""


@pytest.fixture
def service(request, tmp_path):
    """``service(answer)``: a daemon that answers a reload with those lines; ``exit N``
    fails to start, ``die`` ends at a reload, ``leave`` doesn't remove its file."""
    path = str(tmp_path / "pid")

    def make(answer=""):
        command = [sys.executable, "-c", DAEMON, path, answer]
        return actions.Service("harp-no-such-unit", command, path)

    yield make
    pid = pidfile.running(path)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def test_start_returns_when_the_daemon_runs_and_stop_when_it_is_gone(service, capfd):
    daemon = service()
    assert actions.run("start", daemon) == 0
    pid = pidfile.running(daemon.pidfile)
    assert pid is not None
    assert actions.run("status", daemon) == 0
    assert str(pid) in capfd.readouterr().out
    assert actions.run("stop", daemon) == 0
    assert not is_alive(pid)
    assert not os.path.exists(daemon.pidfile)


def test_start_of_a_running_daemon_is_no_error_and_starts_none(service, capfd):
    daemon = service()
    actions.run("start", daemon)
    pid = pidfile.running(daemon.pidfile)
    assert actions.run("start", daemon) == 0
    assert pidfile.running(daemon.pidfile) == pid
    assert "runs already" in capfd.readouterr().err


@pytest.mark.parametrize(("exits", "status"), [(1, 1), (3, 1), (78, 6)])
def test_start_that_fails_tells_a_faulty_configuration_from_the_rest(
    service, exits, status
):
    assert actions.run("start", service(f"exit{exits}")) == status


def test_stop_of_a_stopped_daemon_is_no_error(service):
    assert actions.run("stop", service()) == 0


def test_status_tells_stopped_from_dead(service, capfd):
    daemon = service()
    assert actions.run("status", daemon) == 3
    Path(daemon.pidfile).write_text("1\n")
    assert actions.run("status", daemon) == 1
    assert daemon.pidfile in capfd.readouterr().out


def test_stop_removes_the_pid_file_that_the_daemon_could_not(service):
    daemon = service("leave")
    actions.run("start", daemon)
    assert actions.run("stop", daemon) == 0
    assert not os.path.exists(daemon.pidfile)
    assert actions.run("status", daemon) == 3


def test_restart_replaces_the_process_and_starts_one_where_none_runs(service):
    daemon = service()
    assert actions.run("restart", daemon) == 0
    first = pidfile.running(daemon.pidfile)
    assert actions.run("restart", daemon) == 0
    assert pidfile.running(daemon.pidfile) not in (None, first)


def test_try_restart_starts_nothing_where_none_runs(service):
    daemon = service()
    assert actions.run("try-restart", daemon) == 0
    assert pidfile.running(daemon.pidfile) is None
    actions.run("start", daemon)
    first = pidfile.running(daemon.pidfile)
    assert actions.run("try-restart", daemon) == 0
    assert pidfile.running(daemon.pidfile) not in (None, first)


@pytest.mark.parametrize("action", ["reload", "force-reload"])
def test_reload_says_how_it_went(service, capfd, action):
    daemon = service()
    assert actions.run(action, daemon) == 7
    actions.run("start", daemon)
    assert actions.run(action, daemon) == 0
    actions.run("stop", daemon)
    faulty = service("first reason\nsecond reason")
    actions.run("start", faulty)
    capfd.readouterr()
    assert actions.run(action, faulty) == 1
    assert capfd.readouterr().err == (
        "harp-no-such-unit: first reason\nharp-no-such-unit: second reason\n"
    )
    assert os.listdir(os.path.dirname(faulty.pidfile)) == ["pid"]


def test_reload_of_a_daemon_that_dies_fails_at_once(service, capfd):
    daemon = service("die")
    actions.run("start", daemon)
    assert actions.run("reload", daemon) == 1
    assert "has ended" in capfd.readouterr().err


def test_reload_is_not_hindered_by_one_that_was_interrupted(service):
    daemon = service()
    actions.run("start", daemon)
    os.mkfifo(daemon.pidfile + ".reload")
    assert actions.run("reload", daemon) == 0


def test_reload_that_nobody_waits_for_is_answered_to_nobody(tmp_path):
    path = str(tmp_path / "pid")
    actions.answer_reload(path, [])
    os.mkfifo(path + ".reload")
    actions.answer_reload(path, ["a reason"])


@pytest.mark.skipif(os.getuid() != 0, reason="root takes another user's place")
@pytest.mark.parametrize(("action", "status"), [("start", 4), ("status", 4)])
def test_user_who_may_not_is_told_so(service, tmp_path, capfd, action, status):
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        assert actions.run(action, service()) == status
    finally:
        os.seteuid(0)
    assert "are you root?" in capfd.readouterr().err


SYSTEMCTL = """#!/bin/sh
echo "$@" >> {log}
case $1 in is-active) exit {active} ;; *) exit 5 ;; esac
"""


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """``systemctl(active)`` puts such a command in place; returns what logs its use."""

    def make(active):
        log = tmp_path / "systemctl.log"
        command = tmp_path / "bin" / "systemctl"
        command.parent.mkdir()
        command.write_text(SYSTEMCTL.format(log=log, active=0 if active else 3))
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
        monkeypatch.setattr(actions, "_SYSTEMD", str(tmp_path))
        return log

    return make


@pytest.mark.parametrize(
    ("action", "handed_on"),
    [("restart", "restart"), ("force-reload", "reload-or-restart")],
)
def test_actions_are_systemds_where_its_unit_is_active(
    service, systemctl, action, handed_on
):
    log = systemctl(active=True)
    assert actions.run(action, service()) == 5
    assert log.read_text().splitlines()[1:] == [
        f"{handed_on} harp-no-such-unit.service"
    ]


def test_actions_are_ours_where_the_unit_is_not_active(service, systemctl):
    log = systemctl(active=False)
    assert actions.run("reload", service()) == 7
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize("variable", ["SYSTEMD_EXEC_PID", "MAINPID"])
def test_unit_that_reloads_by_the_action_is_not_asked_again(
    service, systemctl, monkeypatch, variable
):
    log = systemctl(active=True)
    monkeypatch.setenv(variable, str(os.getpid()))
    assert actions.run("reload", service()) == 7
    assert not log.exists()


def test_pid_file_of_another_configuration_is_another_one():
    default = ("/etc/harpd/harpd.toml", "/run/harpd.pid")
    assert actions.default_pidfile("/etc/harpd/harpd.toml", *default) == default[1]
    other = actions.default_pidfile("/srv/try/harpd.toml", *default)
    assert other == "/run/harpd-srv-try-harpd.toml.pid"
