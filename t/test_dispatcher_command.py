"""harpcallerd's command line: the check, the background, init actions, status, reload,
logs."""

import argparse
import contextlib
import importlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIB
from daemon_setup import is_alive, needs_root
from dispatchers import (
    HARPCALLERD,
    Client,
    Dispatcher,
    call_request,
    host_entry,
)
from harp import actions, pidfile
from harp.cli.admin import command as command_line


def run(*arguments, **options) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "timeout": 50} | options
    done = subprocess.run([*HARPCALLERD, *map(str, arguments)], **options)
    assert "Traceback" not in done.stdout + done.stderr
    return done


class Background:
    """A dispatcher that init actions start, with all that it writes in a directory."""

    def __init__(self, directory, hosts=(), **changes) -> None:
        self.program = Dispatcher(directory, hosts, **changes)
        self.directory = self.program.directory
        self.log = self.directory / "log"
        self.pidfile = self.directory / "pid"
        self.configure(logging=self.log)
        self.config_file = self.program.config_file

    def configure(self, **changes) -> None:
        self.program.configure(**changes)
        self.program.write_config()

    def do(self, *arguments, **options) -> subprocess.CompletedProcess:
        common = ["-c", self.config_file, "-p", self.pidfile]
        return run(*common, *arguments, **options)

    @property
    def pid(self) -> int | None:
        return pidfile.running(str(self.pidfile))

    def client(self) -> Client:
        return Client(f"{self.directory}/client")


@pytest.fixture
def background(tmp_path, daemon, certificate):
    entry = host_entry(daemon.address, cert_sha256=certificate.sha256)
    started = Background(tmp_path / "d", [entry])
    yield started
    pid = started.pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


# --- the check ----------------------------------------------------------------------


def test_check_of_good_files_says_so_and_makes_nothing(background):
    before = sorted(os.listdir(background.directory))
    done = background.do("-t")
    assert done.returncode == 0, done.stderr
    assert f"{background.config_file}: good" in done.stderr
    assert sorted(os.listdir(background.directory)) == before


def test_check_names_every_fault_at_once_with_file_and_key(background, tmp_path):
    hosts = background.directory / "hosts"
    hosts.chmod(0o666)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    (tmp_path / "file").touch()
    background.configure(
        user="no such user",
        admin_group="no such group",
        logging="/nope/log",
        stream_directory=tmp_path / "file",
        listen=[
            {"address": "no.such.name.invalid:0", "anonymous": True},
            {"address": "no..name:0", "anonymous": True},
        ],
        trust={"ca_file": "/nope.pem"},
    )
    done = background.do("-t")
    assert done.returncode == 78
    for text in (
        "user: no user is called 'no such user'",
        "hosts.file: ",
        "everybody can write it (mode 0666",
        "must not be readable by others (mode 0666",
        "logging: /nope/log: No such file",
        "stream_directory: ",
        "is no directory",
        "listen: no.such.name.invalid:0: ",
        "listen: no..name:0: is no host name",
        "admin_group: no group is called 'no such group'",
        "/nope.pem: No such file",
    ):
        assert text in done.stderr, text
    prefix = f"harpcallerd: {background.config_file}: "
    assert all(line.startswith(prefix) for line in done.stderr.splitlines())
    background.configure(hosts={"script": script})
    assert f"hosts.script: {script}: can't be run" in background.do("-t").stderr


def test_check_names_a_socket_whose_path_is_too_long(background):
    directory = background.directory / ("x" * 100)
    background.configure(
        admin_socket=directory / "control",
        listen=[{"address": f"unix:{directory}/client"}],
    )
    done = background.do("-t")
    assert done.returncode == 78
    assert f"admin_socket: {directory}/control: a socket's path may" in done.stderr
    assert f"listen: {directory}/client: a socket's path may" in done.stderr


@needs_root
def test_check_names_lines_that_a_start_would_skip(background):
    passwords = background.directory / "passwords"
    passwords.write_text("# A comment.\nuser:secret\n")
    passwords.chmod(0o600)
    known = background.directory / "known_certs"
    known.write_text("web01 0123\n")
    background.configure(
        password_file=passwords, trust={"known_certs_file": str(known)}
    )
    done = background.do("-t")
    assert done.returncode == 78 and done.stderr.count("\n") == 2
    begin = f"harpcallerd: {background.config_file}: line of "
    for line, text in zip(
        sorted(done.stderr.splitlines()),
        ["password file is skipped", "the known certificates is skipped"],
    ):
        assert line.startswith(begin + text)


def test_check_names_a_job_log_of_another_layout_and_leaves_it_alone(background):
    jobs = background.directory / "jobs"
    background.configure(stream_directory=jobs)
    jobs.mkdir(mode=0o700)
    (jobs / "format").write_text("2\n")
    done = background.do("-t")
    assert done.returncode == 78
    assert f"stream_directory: {jobs}/format: layout '2'" in done.stderr
    assert os.listdir(jobs) == ["format"]


def test_check_looks_with_the_eyes_of_the_user_that_it_will_be(background):
    listener = {"address": f"unix:{background.directory}/c", "group": "no such group"}
    background.configure(user="nobody", admin_group="root", listen=[listener])
    done = background.do("-t")
    assert "admin_group: root: the dispatcher's user must be a member" in done.stderr
    assert "no group is called 'no such group'" in done.stderr
    assert done.returncode == 78
    # Which is root's alone, like the directory it is in.
    assert f"hosts.file: {background.directory}/hosts: Permission denied" in done.stderr


def test_relative_paths_of_the_configuration_are_beside_it(background):
    background.configure(admin_socket="run/control", logging="here")
    assert background.do("start", cwd="/").returncode == 0
    assert (background.directory / "run" / "control").is_socket()
    assert "serving" in (background.directory / "here").read_text()
    assert background.do("stop", cwd="/tmp").returncode == 0


# --- the background -----------------------------------------------------------------


def test_start_returns_when_it_serves_and_lets_go_of_the_terminal(background):
    # All that holds the pipes of its output would make this wait.
    done = background.do("start")
    assert done.returncode == 0, done.stderr
    with background.client() as client:
        assert client.ask({"harpcaller": 1, "list_queues": True}) == {"queues": []}
    for fd in range(3):
        assert os.readlink(f"/proc/{background.pid}/fd/{fd}") == os.devnull
    comm = Path(f"/proc/{background.pid}/comm")
    assert comm.read_text() == "harpcallerd\n"
    assert background.do("stop").returncode == 0
    assert background.pid is None and not background.pidfile.exists()


def test_option_d_does_what_start_does(background):
    assert background.do("-d").returncode == 0
    assert background.do("status").returncode == 0
    assert background.do("stop").returncode == 0


def test_start_that_fails_says_why_and_exits_as_the_standard_base_says(background):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        background.configure(listen=[{"address": address, "anonymous": True}])
        done = background.do("start")
    assert done.returncode == actions.FAILED
    assert f"harpcallerd: can't listen on {address}: Address already in use" in (
        done.stderr
    )
    background.config_file.write_text("lisen = 1\n")
    done = background.do("start")
    assert done.returncode == actions.NOT_CONFIGURED
    assert "lisen: unknown key; do you mean listen?" in done.stderr
    assert background.do("-d").returncode == 78
    assert background.pid is None and not background.pidfile.exists()


def test_second_dispatcher_is_refused_by_pid_file_and_by_log(background, tmp_path):
    assert background.do("start").returncode == 0
    first = background.pid
    done = background.do("start")
    assert done.returncode == 0 and f"runs already, process {first}" in done.stderr
    done = background.do("-d")
    assert done.returncode == 1 and f"held by process {first}" in done.stderr
    done = run("-c", background.config_file, "-l", "stderr")
    assert done.returncode == 1 and str(first) in done.stderr
    assert background.do("status").returncode == 0
    assert background.do("stop").returncode == 0


def test_init_actions_of_a_script_that_is_linked_to(background, tmp_path):
    link = tmp_path / "S99harpcallerd"
    link.symlink_to(HARPCALLERD[-1])

    def do(action):
        command = [sys.executable, link, action, "-c", background.config_file]
        command += ["-p", background.pidfile]
        return subprocess.run(command, timeout=50).returncode

    assert do("status") == actions.STOPPED
    assert do("try-restart") == 0 and background.pid is None
    assert do("reload") == actions.NOT_RUNNING == do("force-reload")
    assert do("stop") == 0
    assert do("start") == 0
    first = background.pid
    assert do("status") == 0 and do("start") == 0 and background.pid == first
    assert do("restart") == 0
    second = background.pid
    assert second not in (None, first) and not is_alive(first)
    assert do("try-restart") == 0 and background.pid not in (None, second)
    assert do("force-reload") == 0
    assert do("stop") == 0 and do("status") == actions.STOPPED


def test_init_script_has_the_header_of_the_standard_base():
    with open(HARPCALLERD[-1], encoding="utf-8") as file:
        header = file.read().partition("### BEGIN INIT INFO\n")[2]
    keys = {line[2:].partition(":")[0] for line in header.splitlines()}
    assert {"Provides", "Required-Start", "Required-Stop", "Default-Start"} <= keys


def test_status_of_one_that_was_killed_is_dead_with_a_pid_file(background, wait_for):
    background.do("start")
    first = background.pid
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not is_alive(first))
    assert background.do("status").returncode == actions.DEAD_WITH_PIDFILE
    # What it has left, socket and pid file, is stale.
    assert background.do("start").returncode == 0
    assert background.do("status").returncode == 0
    assert background.do("stop").returncode == 0


def test_dispatcher_in_the_foreground_is_found_without_a_pid_file(background):
    background.program.start()
    done = background.do("status")
    assert done.returncode == 0
    assert json.loads(done.stdout)["pid"] == background.program.pid
    assert "runs already" in background.do("start").stderr
    done = background.do("stop", "--print-pid")
    assert done.returncode == 0 and done.stdout == f"{background.program.pid}\n"
    assert background.program.stop() == 0


def test_status_can_wait_until_it_serves(background, in_thread):
    done = background.do("status", "--wait", "--timeout", "0.2")
    assert done.returncode == actions.STOPPED
    assert "does not serve after 0.2 s" in done.stderr
    waiting = in_thread(background.do, "status", "--wait", "--timeout", "50")
    assert background.do("start").returncode == 0
    done = waiting.result()
    assert done.returncode == 0 and json.loads(done.stdout)["pid"] == background.pid
    assert background.do("stop").returncode == 0


def test_faulty_configuration_does_not_keep_it_from_being_stopped(background):
    background.do("start")
    pid = background.pid
    background.config_file.write_text("lisen = 1\n")
    done = background.do("status")
    assert done.returncode == actions.UNKNOWN and "lisen" in done.stderr
    assert f"process {pid} runs" in done.stderr
    assert background.do("stop").returncode == 0
    assert not is_alive(pid)


def test_restart_with_a_faulty_configuration_stops_nothing(background):
    background.do("start")
    pid = background.pid
    background.config_file.write_text("lisen = 1\n")
    for action in ("restart", "try-restart"):
        done = background.do(action)
        assert done.returncode == actions.NOT_CONFIGURED and "lisen" in done.stderr
    assert background.pid == pid
    assert background.do("stop").returncode == 0


def test_missing_configuration_is_named_with_what_makes_one(tmp_path):
    done = run("-c", tmp_path / "nope.toml")
    assert done.returncode == 78
    assert done.stderr == (
        f"harpcallerd: {tmp_path}/nope.toml: does not exist; "
        '"harpcallerd setup" makes one\n'
    )


@pytest.mark.parametrize("action", ["start", "stop", "restart", "try-restart"])
def test_actions_are_systemds_where_its_unit_is_active(tmp_path, monkeypatch, action):
    log = tmp_path / "systemctl.log"
    command = tmp_path / "bin" / "systemctl"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\n[ $1 = is-active ] || exit 5\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.setattr(actions, "_SYSTEMD", str(tmp_path))
    assert command_line.main([action]) == 5
    assert log.read_text().splitlines()[1:] == [f"{action} harpcallerd.service"]
    # Another configuration is another dispatcher.
    options = ["-c", str(tmp_path / "x.toml"), "-p", str(tmp_path / "pid")]
    assert command_line.main([*options, "stop"]) != 5
    assert len(log.read_text().splitlines()) == 2


# --- stop ---------------------------------------------------------------------------


def test_stop_that_takes_too_long_says_so_and_is_still_on_its_way(
    background, daemon, wait_for
):
    background.do("start")
    with background.client() as client:
        job_id = client.ask(call_request("wait"))["job_id"]
    wait_for(lambda: daemon.called("wait"))
    pid = background.pid
    done = background.do("stop", "--drain", "--timeout", "0.2")
    assert done.returncode == 1
    assert f"process {pid} has not ended in 0.2 s" in done.stderr
    assert is_alive(pid)
    assert json.loads(background.do("status").stdout)["draining"] is True
    # A second stop cuts short.
    assert background.do("stop").returncode == 0
    assert '"type":"shutdown"' in background.program.done_path(job_id).read_text()


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "nan", "inf"])
def test_time_to_drain_must_be_one(background, seconds):
    done = background.do("stop", f"--drain={seconds}")
    assert done.returncode == 2 and "not a number of seconds" in done.stderr


# --- reload -------------------------------------------------------------------------


def test_reload_tells_the_reason_when_all_stays_and_what_needs_a_restart(background):
    background.do("start")
    assert background.do("reload").returncode == 0
    background.configure(trust={"ca_file": "/nope.pem"}, limits={"running": 1})
    done = background.do("reload")
    assert done.returncode == 1
    assert "/nope.pem: No such file" in done.stderr
    assert "all stays as it was" in done.stderr
    tcp = {"address": "127.0.0.1:0", "anonymous": True}
    background.configure(
        trust={}, listen=[tcp, f"unix:{background.directory}/other"], max_exec_time=10
    )
    for _ in range(2):  # it still does
        done = background.do("reload")
        assert done.returncode == 0
        assert done.stderr == (
            f"harpcallerd: listen (unix:{background.directory}/client) changes at the "
            "next start only\n"
            f"harpcallerd: listen (unix:{background.directory}/other) changes at the "
            "next start only\n"
        )
    with background.client() as client:
        job_id = client.ask(call_request("echo", max_exec_time=100))["job_id"]
        client.ask({"harpcaller": 1, "get_result": job_id})
    record = background.program.done_path(job_id).read_text()
    assert '"max_exec_time":10' in record
    assert background.do("stop").returncode == 0


def test_reload_of_a_faulty_file_names_the_fault(background):
    background.do("start")
    old = background.config_file.read_text()
    background.config_file.write_text(old + "\n[nope]\n")
    done = background.do("reload")
    assert done.returncode == actions.NOT_CONFIGURED
    assert "nope: unknown key" in done.stderr
    background.config_file.write_text(old)
    assert background.do("stop").returncode == 0


# --- logs ---------------------------------------------------------------------------


def test_log_file_may_be_moved_away_at_any_time(background):
    background.do("start")
    moved = background.directory / "log.1"
    background.log.rename(moved)
    assert background.do("reload").returncode == 0
    assert "reloaded" in background.log.read_text()
    assert "serving" in moved.read_text() and "reloaded" not in moved.read_text()
    assert background.do("reopen-logs").returncode == 0
    assert background.do("stop").returncode == 0


def configure_logging(background) -> Path:
    """Send the log to its file by way of another; return that."""
    name = str(background.log)
    handlers = {"file": {"class": "logging.FileHandler", "filename": name}}
    root = {"handlers": ["file"], "level": "INFO"}
    log_file = background.directory / "logging.json"
    log_file.write_text(json.dumps({"root": root, "handlers": handlers}))
    background.configure(logging=log_file)
    return log_file


def test_reload_with_faulty_logging_goes_on_with_what_the_file_held_before(background):
    log_file = configure_logging(background)
    background.do("start")
    log_file.write_text('{"root": {"handlers": ["none"]}}')
    done = background.do("reload")
    assert done.returncode != 0 and "logging: " in done.stderr
    assert "reload failed" in background.log.read_text()
    assert background.do("stop").returncode == 0
    assert "stopped" in background.log.read_text()


def test_reopen_logs_opens_files_that_do_not_look_by_themselves(background):
    configure_logging(background)
    background.do("start")
    moved = background.directory / "log.1"
    background.log.rename(moved)
    assert background.do("reopen-logs").returncode == 0
    assert background.do("stop").returncode == 0
    assert "stopped" in background.log.read_text()
    assert "serving" in moved.read_text() and "stopped" not in moved.read_text()


def test_reload_that_fails_leaves_the_log_where_it_was(background):
    background.do("start")
    background.configure(logging="/nope/log")
    done = background.do("reload")
    assert done.returncode == 1 and "logging: /nope/log: No such file" in done.stderr
    assert "reload failed" in background.log.read_text()
    other = background.directory / "other"
    background.configure(logging=other)
    assert background.do("reload").returncode == 0
    assert "reloaded" in other.read_text()
    assert background.do("stop").returncode == 0


def test_systems_log_is_used_only_if_there_is_one(background):
    if os.path.exists("/dev/log"):
        pytest.skip("here is a system's log, which tests don't write to")
    done = background.do("--syslog")
    assert done.returncode == 78
    assert "logging: the system's log: No such file" in done.stderr


# --- users and sockets --------------------------------------------------------------


# Another user may not be able to run this Python.
AS_NOBODY = """
import os, sys
sys.path.insert(0, {lib!r})
from harp.cli.admin.command import main
os.setresgid(65534, 65534, 65534)
os.setgroups([])
os.setresuid(65534, 65534, 65534)
sys.exit(main({arguments!r}))
"""


def let_in(directory) -> None:
    """Let others pass through a directory and those that it is in."""
    for one in [directory, *directory.parents]:
        if not one.stat().st_mode & stat.S_IXOTH:
            one.chmod(one.stat().st_mode | stat.S_IXOTH)


@needs_root
def test_root_makes_the_directories_and_becomes_the_user(background, tmp_path):
    import pwd

    nobody = pwd.getpwnam("nobody")
    let_in(background.directory)
    os.chown(background.directory / "hosts", nobody.pw_uid, nobody.pw_gid)
    (background.directory / "var").mkdir()
    sockets = background.directory / "run" / "harpcaller"
    background.configure(
        user="nobody",
        listen=[f"unix:{sockets}/client"],
        admin_socket=f"{sockets}/control",
        stream_directory=f"{background.directory}/var/jobs",
        logging=f"{background.directory}/var/log",
    )
    os.chmod(background.config_file, 0o644)
    done = background.do("start")
    assert done.returncode == actions.NOT_CONFIGURED
    assert "var/log: Permission denied" in done.stderr
    os.chown(background.directory / "var", nobody.pw_uid, nobody.pw_gid)
    done = background.do("start")
    assert done.returncode == 0, done.stderr
    status = Path(f"/proc/{background.pid}/status").read_text()
    assert re.search(rf"(?m)^Uid:(\s+{nobody.pw_uid}){{4}}$", status)
    assert background.pidfile.stat().st_uid == 0
    for path in (sockets, sockets / "client", sockets / "control"):
        assert path.stat().st_uid == nobody.pw_uid
    jobs = (background.directory / "var" / "jobs").stat()
    assert (jobs.st_uid, jobs.st_mode & 0o777) == (nobody.pw_uid, 0o700)
    # What it needs for that must not be read by the other user for the first time.
    assert background.do("reload").returncode == 0
    os.kill(background.pid, signal.SIGUSR1)
    assert background.do("stop").returncode == 0
    assert not background.pidfile.exists()


def test_admin_socket_is_the_groups_only_if_there_is_one(background):
    background.do("start")
    path = background.directory / "control"
    assert path.stat().st_mode & 0o777 == 0o600
    assert background.do("stop").returncode == 0
    background.configure(admin_group=os.getgid())
    background.do("start")
    assert path.stat().st_mode & 0o777 == 0o660
    assert path.stat().st_gid == os.getgid()
    assert background.do("stop").returncode == 0


@needs_root
def test_who_may_not_open_the_admin_socket_is_told_so(background, tmp_path):
    background.do("start")
    let_in(background.directory)
    os.chmod(background.config_file, 0o644)
    for action, status in [("status", actions.UNKNOWN), ("stop", 4), ("reload", 4)]:
        arguments = ["-c", background.config_file, "-p", background.pidfile, action]
        code = AS_NOBODY.format(lib=str(LIB), arguments=[*map(str, arguments)])
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=50
        )
        assert done.returncode == status, done.stderr
        assert "Permission denied" in done.stderr or "are you root?" in done.stderr
        assert "Traceback" not in done.stderr
    assert background.do("stop").returncode == 0


def test_socket_that_somebody_listens_on_is_left_alone(background):
    path = f"{background.directory}/control"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        done = background.do("-d")
        assert done.returncode == 0  # nobody listened: it was stale
        assert background.do("stop").returncode == 0
    with socket.socket(socket.AF_UNIX) as other:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        other.bind(path)
        other.listen()
        done = background.do("-d")
        assert done.returncode == 1 and "another process listens there" in done.stderr
        assert os.path.exists(path)


# --- the command itself -------------------------------------------------------------


@pytest.mark.parametrize("module", command_line._ACTIONS)
def test_module_adds_the_actions_that_it_is_loaded_for(module):
    added = []

    def add(name, run, text):
        added.append(name)
        return argparse.ArgumentParser()

    importlib.import_module(f"harp.cli.admin.{module}").add_actions(add)
    assert tuple(added) == command_line._ACTIONS[module]


def test_reply_that_is_none_of_ours_is_said_in_one_line(tmp_path):
    path = tmp_path / "control"
    config = tmp_path / "harpcaller.toml"
    config.write_text(f'admin_socket = "{path}"\n')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        asking = subprocess.Popen(
            [*HARPCALLERD, "-c", config, "stop"], stderr=subprocess.PIPE, text=True
        )
        listener.settimeout(50)
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as lines:
            lines.readline()
            lines.write(b'{"pid":"many"}\n')
            lines.flush()
            _, said = asking.communicate(timeout=50)
    assert asking.returncode == 4
    assert said == (
        "harpcallerd: the dispatcher's reply is not understood: "
        '"pid" must be an integer\n'
    )


@pytest.mark.parametrize(
    "redirection, reason",
    [
        (">/dev/full", "No space left on device"),
        (">&-", "standard output is closed"),
    ],
)
def test_output_that_cannot_be_printed_is_told_in_one_line(
    tmp_path, redirection, reason
):
    log = tmp_path / "jobs"
    (log / "active").mkdir(parents=True)
    (log / "active" / "x").touch()  # a fault to tell of
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *HARPCALLERD, "check-log", log],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 74
    assert done.stderr == f"harpcallerd: can't print: {reason}\n"


def test_hosts_from_a_closed_standard_input_are_none(tmp_path):
    config = tmp_path / "harpcaller.toml"
    config.write_text('hosts.file = "hosts.jsonl"\n')
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *HARPCALLERD, "-c", config, "hosts-add"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 4
    assert done.stderr.startswith("harpcallerd: no line on standard input\n")
