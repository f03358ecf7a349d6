"""harpd's command line: checks, the background, init actions, reload, what it tells
systemd, its surroundings."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_setup import (  # noqa: F401
    HARPD,
    PASSWORD,
    Caller,
    children_of,
    is_alive,
    make_harpd,
    request,
)
from harp import actions, pidfile, testing


def run(*arguments, **options) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "timeout": 50} | options
    return subprocess.run([*HARPD, *map(str, arguments)], **options)


ECHO = """
import os, sys
from harp import procedure
@procedure
def which(): return {name!r}
@procedure
def environment(): return dict(os.environ)
"""


def write_procedures(path, name="first") -> Path:
    path.write_text(ECHO.format(name=name))
    return path


def log_config(path, log) -> Path:
    path.write_text(
        json.dumps(
            {
                "root": {"handlers": ["file"], "level": "INFO"},
                "handlers": {
                    "file": {
                        "class": "logging.FileHandler",
                        "filename": str(log),
                        "formatter": "line",
                    }
                },
                "formatters": {"line": {"format": "%(levelname)s %(message)s"}},
            }
        )
    )
    return path


class Background:
    """A daemon that init actions start, with all that it writes in a directory."""

    def __init__(self, program, directory):
        self.directory = directory
        self.program = program
        self.procedures = write_procedures(directory / "procedures.py")
        self.log = directory / "log"
        self.pidfile = directory / "run" / "pid"
        self.arguments = [
            *("-c", program.config_file, "-r", self.procedures),
            *("-p", self.pidfile, "-l", log_config(directory / "l.json", self.log)),
        ]

    def do(self, *action) -> subprocess.CompletedProcess:
        return run(*self.arguments, *action)

    @property
    def pid(self):
        return pidfile.running(str(self.pidfile))

    def call(self, procedure) -> dict:
        port = re.findall(r'"addresses": "127.0.0.1:(\d+)"', self.log.read_text())[-1]
        with Caller(int(port)) as caller:
            caller.send_message(request(procedure))
            return caller.messages()[-1]


@pytest.fixture
def background(make_harpd, tmp_path):
    daemon = Background(make_harpd(start=False), tmp_path)
    yield daemon
    pid = daemon.pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


# --- printing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["status", "-p", "/nope"],
        ["passwd", "--random", "{directory}/passwords", "web"],
        ["setup", "--no-user", "--directory", "{directory}", "--host-line", "-"],
        ["call", "-r", "{directory}/procedures.py", "-u", str(os.getuid()), "which"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_cannot_be_printed_is_said_in_a_line(tmp_path, arguments):
    write_procedures(tmp_path / "procedures.py")
    arguments = [argument.format(directory=tmp_path) for argument in arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # what an operator has
    with open("/dev/full", "w") as full:
        done = run(
            *arguments,
            env=environment,
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode in (1, 2)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("harpd") and last.endswith(": No space left on device")
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


# --- the check ----------------------------------------------------------------------


def test_check_of_good_files_says_so_and_starts_nothing(make_harpd, tmp_path):
    daemon = make_harpd(start=False)
    file = write_procedures(tmp_path / "procedures.py")
    done = run("-t", "-c", daemon.config_file, "-r", file)
    assert done.returncode == 0, done.stderr
    assert f"{daemon.config_file}: good, 2 procedures" in done.stderr


def test_check_names_every_fault_at_once_with_file_and_key(make_harpd, tmp_path):
    passwords = tmp_path / "passwords"
    passwords.write_text("broken\nuser:sha256:12\n")
    passwords.chmod(0o644)
    daemon = make_harpd(
        start=False,
        tls={"key": "/nope.pem"},
        users={"x": "secret"},
        password_file=str(passwords),
        front={"user": "no such user"},
        procedures={"user": "no such user", "python_path": ["/nope/path"]},
        logging="/nope.json",
    )
    file = tmp_path / "procedures.py"
    file.write_text("1/0\n")
    file.chmod(0o666)
    done = run("-t", "-c", daemon.config_file, "-r", file)
    assert done.returncode == 78
    for text in (
        "harpd.toml: tls.key: /nope.pem: No such file",
        "harpd.toml: users.x: password must be written as",
        f"harpd.toml: password_file: {passwords}: must not be readable by others "
        "(mode 0644",
        '"line": 1',
        '"line": 2',
        "harpd.toml: front.user: no user is called 'no such user'",
        "harpd.toml: procedures.user: no user is called 'no such user'",
        "harpd.toml: logging: /nope.json: No such file",
        f"{file}: everybody can write it (mode 0666",
        "procedures.python_path: /nope/path: is no directory",
    ):
        assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_a_line_of_the_password_file_that_lets_nobody_in(
    make_harpd, tmp_path
):
    passwords = tmp_path / "passwords"
    passwords.write_text("# A comment.\nuser:secret\n")
    passwords.chmod(0o600)
    daemon = make_harpd(start=False, password_file=str(passwords))
    file = write_procedures(tmp_path / "procedures.py")
    done = run("-t", "-c", daemon.config_file, "-r", file)
    assert done.returncode == 78 and done.stderr.count("\n") == 1
    begin = f"harpd: {daemon.config_file}: line of password file is skipped "
    assert done.stderr.startswith(begin) and '"line": 2' in done.stderr


def test_more_than_the_spawner_can_be_told_is_a_fault(make_harpd):
    daemon = make_harpd(start=False, procedures={"python_path": ["/nope" * 2000]})
    done = run("-t", "-c", daemon.config_file)
    assert done.returncode == 78
    assert "procedures: file, user, group and python_path are more than" in done.stderr


def test_check_names_faulty_keys_and_line_of_faulty_procedures(make_harpd, tmp_path):
    daemon = make_harpd(start=False, lisen=1, limits={"calls": 0})
    done = run("-t", "-c", daemon.config_file)
    assert done.returncode == 78 and done.stderr.count("\n") == 2
    good = make_harpd(start=False)
    file = tmp_path / "procedures.py"
    file.write_text("\n1/0\n")
    done = run("-t", "-c", good.config_file, "-r", file)
    assert done.returncode == 78
    assert done.stderr == f"harpd: {file}:2: ZeroDivisionError: division by zero\n"


def test_check_notices_a_key_of_another_certificate(make_harpd, tmp_path):
    other = testing.make_certificate(tmp_path)
    daemon = make_harpd(start=False, tls={"key": str(other.key)})
    done = run("-t", "-c", daemon.config_file)
    assert done.returncode == 78
    assert str(other.key) in done.stderr and "can't be used" in done.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "Expecting"),
        ("[]", "must be an object"),
        ('{"handlers": {"x": {"class": "no.such"}}}', "no"),
    ],
)
def test_check_names_what_is_wrong_with_logging(make_harpd, tmp_path, content, text):
    file = tmp_path / "logging.json"
    file.write_text(content)
    daemon = make_harpd(start=False)
    procedures = write_procedures(tmp_path / "procedures.py")
    done = run("-t", "-c", daemon.config_file, "-r", procedures, "-l", file)
    assert done.returncode == 78 and done.stderr.count("\n") == 1
    assert f"logging: {file}: " in done.stderr and text in done.stderr


@pytest.mark.parametrize("name", ["HOME", "HARP_JOB_ID"])
def test_variables_that_harpd_sets_are_not_for_the_configuration(make_harpd, name):
    daemon = make_harpd(start=False, environment={name: "x"})
    done = run("-t", "-c", daemon.config_file)
    assert done.returncode == 78
    assert f"environment.{name}: harpd sets it" in done.stderr


# --- the background -----------------------------------------------------------------


def test_background_returns_when_it_serves_and_lets_go_of_the_terminal(background):
    # All that holds the pipes of its output would make this wait.
    done = background.do("-d")
    assert done.returncode == 0, done.stderr
    assert background.call("which") == {"result": "first"}
    for fd in range(3):
        assert os.readlink(f"/proc/{background.pid}/fd/{fd}") == os.devnull
    assert background.do("stop").returncode == 0


def test_background_that_fails_says_why_on_the_terminal(background):
    background.procedures.write_text("1/0\n")
    done = background.do("-d")
    assert done.returncode == 1
    assert "procedures.py:1: ZeroDivisionError" in done.stderr
    assert background.pid is None and not background.pidfile.exists()
    background.program.config_file.write_text("lisen = 1\n")
    done = background.do("-d")
    assert done.returncode == 78
    assert "lisen: unknown key" in done.stderr


def test_second_daemon_with_the_same_pid_file_is_refused(background):
    assert background.do("start").returncode == 0
    done = background.do("-d")
    assert done.returncode == 1
    assert f"held by process {background.pid}" in done.stderr
    assert background.do("stop").returncode == 0


def test_pid_file_of_a_daemon_that_was_killed_is_stale(background, wait_for):
    background.do("start")
    first = background.pid
    (spawner,) = children_of(first)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not is_alive(first) and not is_alive(spawner))
    assert background.do("status").returncode == 1
    assert background.do("start").returncode == 0
    assert background.pid not in (None, first)
    assert background.do("stop").returncode == 0


def test_log_goes_to_a_file_that_may_be_moved_away(background, tmp_path):
    background.log = tmp_path / "harpd.log"
    background.arguments[-1] = background.log
    assert background.do("start").returncode == 0
    background.log.rename(tmp_path / "harpd.log.1")
    assert background.do("reload").returncode == 0
    assert "reloaded" in background.log.read_text()
    assert background.do("stop").returncode == 0


def test_check_makes_no_log_file(background, tmp_path):
    for target in (tmp_path / "new.log", background.arguments[-1]):
        background.arguments[-1] = target
        done = background.do("-t")
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "new.log").exists() and not background.log.exists()
    background.arguments[-1] = "/nope/log"
    done = background.do("-t")
    assert done.returncode == 78 and "logging: /nope/log: No such file" in done.stderr


def test_what_procedures_print_while_they_load_goes_to_the_log(background, wait_for):
    with background.procedures.open("a") as file:
        file.write("print('loaded, and said so')\n")
    assert background.do("start").returncode == 0
    wait_for(lambda: "loaded, and said so" in background.log.read_text())
    assert background.do("stop").returncode == 0


def test_log_goes_to_the_systems_log_only_if_there_is_one(background, tmp_path):
    if os.path.exists("/dev/log"):
        pytest.skip("here is a system's log, which tests don't write to")
    done = run(*background.arguments[:4], "--syslog")
    assert done.returncode == 78
    assert "logging: the system's log: No such file" in done.stderr
    assert 'set "logging" to a file' in done.stderr


# --- init actions -------------------------------------------------------------------


def test_harpd_is_an_init_script(background, tmp_path):
    link = tmp_path / "S99harpd"
    link.symlink_to(HARPD[-1])

    def do(*action):
        command = [sys.executable, str(link), *action, *map(str, background.arguments)]
        return subprocess.run(command, timeout=50).returncode

    assert do("status") == actions.STOPPED
    assert do("start") == 0
    first = background.pid
    assert do("start") == 0 and do("status") == 0 and background.pid == first
    assert do("restart") == 0
    assert background.pid not in (None, first)
    assert background.call("which") == {"result": "first"}
    assert do("try-restart") == 0
    assert do("force-reload") == 0
    assert do("stop") == 0
    assert do("status") == actions.STOPPED and do("reload") == actions.NOT_RUNNING


def test_init_script_has_the_header_of_the_standard_base():
    header = Path(HARPD[-1]).read_text().partition("### BEGIN INIT INFO\n")[2]
    lines = header.partition("### END INIT INFO")[0].splitlines()
    keys = {line[2:].partition(":")[0] for line in lines}
    assert {"Provides", "Required-Start", "Required-Stop", "Default-Start"} <= keys
    assert {"Default-Stop", "Short-Description"} <= keys


def test_start_of_a_faulty_configuration_exits_as_not_configured(background):
    background.program.config_file.write_text("lisen = 1\n")
    assert background.do("start").returncode == actions.NOT_CONFIGURED


def test_unknown_action_is_a_fault_of_usage(background):
    done = background.do("begin")
    assert done.returncode == 2 and "begin" in done.stderr


# --- reload -------------------------------------------------------------------------


def test_reload_exits_with_the_reason_when_the_old_files_stay(background):
    background.do("start")
    write_procedures(background.procedures, "second")
    assert background.do("reload").returncode == 0
    assert background.call("which") == {"result": "second"}
    background.procedures.write_text("1/0\n")
    done = background.do("reload")
    assert done.returncode == 1
    assert "procedures.py:1: ZeroDivisionError" in done.stderr
    assert background.call("which") == {"result": "second"}
    assert background.do("stop").returncode == 0


def test_reload_applies_logging_or_goes_on_with_the_old(background, tmp_path):
    background.do("start")
    other = tmp_path / "other.log"
    log_config(tmp_path / "l.json", other)
    assert background.do("reload").returncode == 0
    assert "reloaded" in other.read_text()
    (tmp_path / "l.json").write_text('{"root": {"handlers": ["none"]}}')
    done = background.do("reload")
    assert done.returncode == 1 and "logging: " in done.stderr
    assert "reload failed" in other.read_text()
    assert background.call("which") == {"result": "first"}
    assert background.do("stop").returncode == 0


def test_reload_applies_environment_and_python_path(make_harpd, tmp_path, certificate):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "operators_own.py").write_text(f"WHICH = {name!r}\n")
    file = write_procedures(tmp_path / "procedures.py")
    with file.open("a") as source:
        source.write(
            "import operators_own\n"
            "@procedure\ndef imported(): return operators_own.WHICH\n"
        )

    def changes(name):
        return {
            "procedures": {"python_path": [str(tmp_path / name)]},
            "environment": {name.upper(): "set", "PATH": "/opt/bin"},
        }

    daemon = make_harpd(file, **changes("one"))
    assert daemon.end("imported") == {"result": "one"}
    found = daemon.end("environment")["result"]
    assert found["ONE"] == "set" and found["PATH"] == "/opt/bin"
    daemon.write_config(certificate, {**changes("two")})
    daemon.reload()
    assert daemon.end("imported") == {"result": "two"}
    found = daemon.end("environment")["result"]
    assert found["TWO"] == "set" and "ONE" not in found


def test_reload_during_the_start_is_done_after_it(make_harpd, tmp_path, wait_for):
    file = write_procedures(tmp_path / "procedures.py")
    with file.open("a") as source:
        source.write(
            "import time\n"
            f"open({str(tmp_path / 'loading')!r}, 'w').close()\n"
            f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
        )
    daemon = make_harpd(file, start=False)
    daemon.argv += ["-p", str(tmp_path / "pid")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(tmp_path / "notify"))
        notices.settimeout(20)
        process = subprocess.Popen(
            daemon.argv,
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for((tmp_path / "loading").exists)
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGUSR1)
            (tmp_path / "go").touch()
            assert notices.recv(1000).startswith(b"READY=1")
            assert notices.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert notices.recv(1000) == b"READY=1"
            process.terminate()
            assert notices.recv(1000) == b"STOPPING=1"
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


# --- the rest -----------------------------------------------------------------------


def test_sigusr1_writes_the_stacks_of_all_threads_to_the_log(background, wait_for):
    background.do("start")
    os.kill(background.pid, signal.SIGUSR1)
    for name in ("MainThread", "reload", "call-accept", "spawner-channel"):
        text = f"stack of thread {name} "
        wait_for(lambda text=text: text in background.log.read_text())
    assert background.call("which") == {"result": "first"}
    assert background.do("stop").returncode == 0


def test_relative_paths_of_the_configuration_are_beside_it(make_harpd, certificate):
    daemon = make_harpd(start=False)
    for name in ("certificate", "key"):
        source = getattr(certificate, name)
        target = daemon.directory / f"{name}.pem"
        target.touch(mode=0o600)
        target.write_bytes(Path(source).read_bytes())
    changes = {"tls": {"certificate": "certificate.pem", "key": "key.pem"}}
    daemon.write_config(certificate, changes)
    daemon.start()
    assert daemon.end("echo", 1) == {"result": 1}


def test_user_on_the_command_line_goes_before_the_configured(make_harpd):
    daemon = make_harpd(start=False, procedures={"user": "no such user"})
    done = run("-t", "-c", daemon.config_file, "-u", str(os.getuid()))
    assert "no such user" not in done.stderr
    done = run("-t", "-c", daemon.config_file, "-u", "not this", "-g", "0")
    assert "no user is called 'not this'" in done.stderr


def test_passwords_are_in_no_complaint(make_harpd):
    daemon = make_harpd(start=False, users={"x": PASSWORD})
    assert PASSWORD not in run("-t", "-c", daemon.config_file).stderr
