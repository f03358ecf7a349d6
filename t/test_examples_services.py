"""What examples/ has for the system that the daemons run on does what it says: units,
init scripts, their defaults, logrotate's and logging configurations."""

import configparser
import contextlib
import grp
import json
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_setup import TOP, Harpd
from dispatchers import host_entry

from harp import config, pidfile, testing

EXAMPLES = TOP / "examples"
DAEMONS = ["harpd", "harpcallerd"]
INSTALLED = "/usr/local/sbin"

TESTED = {
    "systemd": [
        "harpd.service",
        "harpd.service.d/hardening.conf",
        "harpcallerd.service",
        "harpcallerd.service.d/credentials.conf",
    ],
    "init.d": DAEMONS,
    "default": DAEMONS,
    "logrotate": DAEMONS,
    "logging": [
        "journald.toml",
        "json-lines.toml",
        "rotating.toml",
        "stderr.toml",
        "syslog.toml",
    ],
}
"""What the tests below load or run, by directory."""

ELSEWHERE = {
    "procedures.py": "test_daemon_examples.py",
    "harpd.toml": "test_configuration.py",
    "harpcaller.toml": "test_configuration.py",
    "hosts/": "test_examples_clients.py",
    "clients/": "test_examples_clients.py",
    "webpanel/": "test_webpanel.py",
}
"""Where the others are."""


def tracked_examples() -> list[str]:
    """Return the files of examples/, relative to it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if (TOP / ".git").exists() and shutil.which("git"):
        command += ["-z", "--", "examples"]
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
        if done.returncode == 0:
            paths = [TOP / name for name in done.stdout.split("\0") if name]
            return [str(path.relative_to(EXAMPLES)) for path in paths if path.exists()]
    paths = [path for path in EXAMPLES.rglob("*") if path.is_file()]
    names = [str(path.relative_to(EXAMPLES)) for path in paths]
    return [name for name in names if "__pycache__" not in name]


def test_every_example_is_loaded_or_run_by_a_test():
    ours = {f"{directory}/{name}" for directory in TESTED for name in TESTED[directory]}
    found = set(tracked_examples())
    assert ours <= found, "these are gone"
    for name in sorted(found - ours):
        claim = name.partition("/")[0] + "/" if "/" in name else name
        assert claim in ELSEWHERE, f"examples/{name}: which test loads it?"
        test = TOP / "t" / ELSEWHERE[claim]
        assert claim.rstrip("/") in test.read_text(), f"examples/{name}: not {test}"


# --- systemd ------------------------------------------------------------------------


class Unit(configparser.RawConfigParser):
    """A unit, or a drop-in of one. A key that stands there twice has all its values,
    with line feeds between them."""

    class _Several(dict):
        def __setitem__(self, key, value):
            if isinstance(value, list) and key in self:
                value = self[key] + value
            super().__setitem__(key, value)

    def __init__(self, path):
        super().__init__(
            dict_type=self._Several,
            strict=False,
            delimiters=("=",),
            comment_prefixes=("#",),
            interpolation=None,
        )
        self.optionxform = str
        self.read_string(Path(path).read_text())

    def command(self, key) -> list[str]:
        return shlex.split(self["Service"][key])


def unit(name: str) -> Unit:
    return Unit(EXAMPLES / "systemd" / name)


SANDBOX = {
    "CapabilityBoundingSet", "KeyringMode", "LockPersonality", "NoNewPrivileges",
    "PrivateDevices", "PrivateTmp", "ProcSubset", "ProtectClock",
    "ProtectControlGroups", "ProtectHome", "ProtectHostname", "ProtectKernelLogs",
    "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem",
    "RemoveIPC", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime",
    "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallErrorNumber",
    "SystemCallFilter",
}  # fmt: skip
KNOWN = {
    "Unit": {"Description", "Documentation", "After", "Wants"},
    "Service": SANDBOX
    | {"Type", "Environment", "EnvironmentFile", "ExecStart", "ExecReload", "KillMode"}
    | {"TimeoutStartSec", "TimeoutStopSec", "Restart", "RestartSec", "OOMPolicy"}
    | {"RestartPreventExitStatus", "TasksMax", "LimitNOFILE", "User", "Group", "UMask"}
    | {"RuntimeDirectory", "StateDirectory", "StateDirectoryMode", "LogsDirectory"}
    | {"LogsDirectoryMode", "CacheDirectory", "CacheDirectoryMode", "LoadCredential"},
    "Install": {"WantedBy"},
}
"""Of systemd.unit(5), systemd.service(5), systemd.exec(5), what the examples use."""


@pytest.mark.parametrize("name", TESTED["systemd"])
def test_unit_has_nothing_but_what_systemd_knows(name):
    found = unit(name)
    assert found.sections()
    for section in found.sections():
        assert set(found[section]) <= KNOWN[section]
        assert all(value.strip() for value in found[section].values()) or (
            found[section].get("CapabilityBoundingSet") == ""
        )


def test_systemd_accepts_the_units_with_their_drop_ins(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    shutil.copytree(EXAMPLES / "systemd", tmp_path / "units")
    for name in DAEMONS:
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        path = tmp_path / "units" / f"{name}.service"
        path.write_text(path.read_text().replace(f"{INSTALLED}/{name}", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no"]
        + [str(tmp_path / "units" / f"{name}.service") for name in DAEMONS],
        capture_output=True,
        text=True,
    )
    # It may have remarks on the machine's own units.
    said = [line for line in done.stderr.splitlines() if "harp" in line]
    assert said == [] and (done.returncode == 0 or done.stderr)


def test_times_to_stop_are_beyond_what_the_daemons_may_take():
    daemon, dispatcher = config.DaemonConfig(), config.DispatcherConfig()
    seconds = int(unit("harpd.service")["Service"]["TimeoutStopSec"])
    assert seconds > 2 * daemon.kill_grace + 10
    seconds = int(unit("harpcallerd.service")["Service"]["TimeoutStopSec"])
    assert seconds > dispatcher.cancel_grace + 20


def test_unit_leaves_the_calls_to_harpd_and_clients_their_users():
    service = unit("harpd.service")["Service"]
    assert service["KillMode"] == "process" and service["OOMPolicy"] == "continue"
    assert "User" not in service and not SANDBOX & set(service)
    hardened = unit("harpd.service.d/hardening.conf")["Service"]
    # It finds its calls' processes in /proc, and changes their user.
    assert not {"ProtectProc", "ProcSubset", "PrivateUsers"} & set(hardened)
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_KILL"} <= set(
        hardened["CapabilityBoundingSet"].split()
    )
    # Clients on the Unix socket are known by their user.
    assert "PrivateUsers" not in unit("harpcallerd.service")["Service"]


def test_directories_of_the_dispatchers_unit_are_those_of_its_configuration():
    service = unit("harpcallerd.service")["Service"]
    settings = config.DispatcherConfig()
    assert settings.stream_directory == f"/var/lib/{service['StateDirectory']}"
    runtime = f"/run/{service['RuntimeDirectory']}"
    assert os.path.dirname(settings.admin_socket) == runtime
    assert {os.path.dirname(one.address.path) for one in settings.listen} == {runtime}


@pytest.fixture
def prepared(tmp_path, certificate):
    """``prepared(name)``: a daemon's configuration file, and the procedures file of
    harpd's or the hosts' file of harpcallerd's."""

    def make(name):
        if name == "harpd":
            procedures = tmp_path / "procedures.py"
            procedures.write_text("from harp import procedure\n")
            program = Harpd(tmp_path, certificate, procedures)
            text = program.config_file.read_text()
            program.config_file.write_text(
                text.replace("[procedures]\n", f"[procedures]\nfile = '{procedures}'\n")
            )
            return program.config_file, procedures
        hosts = tmp_path / "hosts.jsonl"
        hosts.touch(mode=0o600)
        hosts.write_text(json.dumps(host_entry(("127.0.0.1", 1))) + "\n")
        path = tmp_path / "harpcaller.toml"
        settings = {
            "listen": [f"unix:{tmp_path}/client"],
            "admin_socket": tmp_path / "control",
            "stream_directory": tmp_path / "jobs",
            "hosts": {"file": hosts},
        }
        path.write_text(testing.to_toml(settings))
        return path, hosts

    return make


def spoil(name, path, file) -> str:
    """Make a reload fail; return what names the reason."""
    spoilt = file if name == "harpd" else path
    spoilt.write_text(spoilt.read_text() + "\nnonsense(\n")
    return f"{spoilt}:"


@pytest.mark.parametrize("name", DAEMONS)
def test_command_lines_of_the_unit_start_and_reload_the_daemon(
    name, prepared, tmp_path
):
    path, file = prepared(name)
    found = unit(f"{name}.service")
    variable = f"${name.upper()}_OPTIONS"

    def command(key):
        for argument in found.command(key):
            if argument == variable:
                yield from ("-c", str(path))
            elif argument == f"{INSTALLED}/{name}":
                yield from (sys.executable, str(TOP / "sbin" / name))
            else:
                yield argument.replace(f"/run/{name}/", f"{tmp_path}/run/")

    program = testing.Program(command("ExecStart"), tmp_path / "log")
    program.start()
    try:
        environment = os.environ | {"MAINPID": str(program.pid)}
        reload = list(command("ExecReload"))
        assert subprocess.run(reload, env=environment).returncode == 0
        reason = spoil(name, path, file)
        done = subprocess.run(reload, env=environment, capture_output=True, text=True)
        assert done.returncode != 0 and reason in done.stderr
    finally:
        assert program.stop() == 0


# --- init scripts and their defaults ------------------------------------------------


class InitScript:
    """An init script as it would be installed, but for the directories."""

    def __init__(self, name, directory, options=()):
        self.name = name
        self.program = directory / "sbin" / name
        self.program.parent.mkdir()
        program = shlex.join([sys.executable, str(TOP / "sbin" / name)])
        self.program.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        self.program.chmod(0o755)
        self.defaults = directory / "default"
        text = (EXAMPLES / "default" / name).read_text()
        setting = f'{name.upper()}_OPTIONS=""'
        assert setting in text
        words = " ".join(map(str, options))
        self.defaults.write_text(text.replace('""', f'"{words}"'))
        text = (EXAMPLES / "init.d" / name).read_text()
        for installed, here in (
            (f"{INSTALLED}/{name}", self.program),
            (f"/etc/default/{name}", self.defaults),
        ):
            assert installed in text
            text = text.replace(installed, str(here))
        self.path = directory / "init.d"
        self.path.write_text(text)
        self.path.chmod(0o755)

    def run(self, *arguments) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.path, *arguments], capture_output=True, text=True, timeout=50
        )


@pytest.mark.parametrize("name", DAEMONS)
def test_init_script_starts_reloads_and_stops(name, prepared, tmp_path):
    path, file = prepared(name)
    pid_path = tmp_path / "pid"
    log = tmp_path / "log"
    script = InitScript(name, tmp_path, ["-c", path, "-p", pid_path, "-l", log])
    try:
        assert script.run("status").returncode == 3
        started = script.run("start")
        assert started.returncode == 0, started.stderr
        assert pidfile.running(str(pid_path))
        assert script.run("status").returncode == 0
        assert script.run("reload").returncode == 0
        reason = spoil(name, path, file)
        failed = script.run("reload")
        assert failed.returncode != 0 and reason in failed.stderr
    finally:
        stopped = script.run("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert pidfile.running(str(pid_path)) is None
    assert "serving" in log.read_text()


@pytest.mark.parametrize("name", DAEMONS)
def test_init_script_of_a_daemon_that_is_not_installed(name, tmp_path):
    script = InitScript(name, tmp_path)
    script.program.unlink()
    script.defaults.unlink()
    statuses = {action: script.run(action).returncode for action in ("start", "stop")}
    assert statuses == {"start": 5, "stop": 0}
    assert script.run("status").returncode == 3
    for wrong in ([], ["sing"]):
        done = script.run(*wrong)
        assert done.returncode == 2 and "Usage: " in done.stderr


@pytest.mark.parametrize("name", DAEMONS)
def test_init_script_says_what_insserv_wants(name):
    text = (EXAMPLES / "init.d" / name).read_text()
    head = text.partition("### BEGIN INIT INFO\n")[2].partition("### END INIT INFO")[0]
    said = dict(re.findall(r"# ([A-Z][A-Za-z-]+): +(.+)\n", head))
    assert said["Provides"] == name
    assert said.keys() >= {"Required-Start", "Required-Stop", "Default-Start"}
    assert said.keys() >= {"Default-Stop", "Short-Description", "Description"}


@pytest.mark.parametrize("name", DAEMONS)
def test_defaults_are_understood_by_systemd_as_by_the_shell(name):
    path = EXAMPLES / "default" / name
    variable = f"{name.upper()}_OPTIONS"
    printed = subprocess.run(
        ["sh", "-eu", "-c", f'. {shlex.quote(str(path))}; printf "<%s>" "${variable}"'],
        capture_output=True,
        text=True,
    )
    assert printed.stdout == "<>"
    lines = [line for line in path.read_text().splitlines() if line]
    plain = re.compile(r'[A-Z_]+="[^"$`\\]*"')
    assert all(line.startswith("#") or plain.fullmatch(line) for line in lines)
    service = unit(f"{name}.service")["Service"]
    assert service["EnvironmentFile"] == f"-/etc/default/{name}"
    # Where the file is missing, there is no variable but this one.
    assert service["Environment"] == f"{variable}="


# --- logrotate ----------------------------------------------------------------------

DIRECTIVES = {
    "su", "daily", "weekly", "rotate", "dateext", "missingok", "notifempty", "nocreate",
    "compress", "delaycompress",
}  # fmt: skip


def rotation(name: str, directory: Path) -> str:
    """Return logrotate's configuration of a daemon, for other directories and for who
    runs the tests."""
    user = pwd.getpwuid(os.getuid()).pw_name
    group = grp.getgrgid(os.getgid()).gr_name
    text = (EXAMPLES / "logrotate" / name).read_text()
    text = re.sub(r"/var/log/[a-z]+", str(directory), text)
    return re.sub(r"\bsu \w+ \w+\n", f"su {user} {group}\n", text)


def rotated(configuration: str) -> list[str]:
    """Return the patterns of files that a configuration is for."""
    text = re.sub(r"#.*", "", configuration)
    patterns = []
    for names, body in re.findall(r"([^{}]+)\{([^{}]*)\}", text):
        patterns += names.split()
        words = [line.split()[0] for line in body.splitlines() if line.strip()]
        assert set(words) <= DIRECTIVES
        assert {"nocreate", "delaycompress", "missingok"} <= set(words)
    return patterns


def rotate(name: str, directory: Path) -> None:
    """Rotate the files of a daemon, by logrotate(8) where there is one."""
    text = rotation(name, directory)
    patterns = rotated(text)
    assert patterns
    if shutil.which("logrotate"):
        path = directory.parent / f"logrotate-{name}"
        path.write_text(text)
        path.chmod(0o644)
        command = ["logrotate", "-f", "-s", f"{path}.state", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    for pattern in patterns:
        for file in directory.glob(Path(pattern).name):
            file.rename(f"{file}.1")


def test_daemons_go_on_in_new_files_when_logrotate_has_moved_theirs(
    make_servers, tmp_path, wait_for
):
    logs = {name: tmp_path / name for name in DAEMONS}
    for directory in logs.values():
        directory.mkdir(mode=0o700)
    servers = make_servers(
        daemon={"logging": logs["harpd"] / "harpd.log"},
        dispatcher={
            "logging": logs["harpcallerd"] / "harpcallerd.log",
            "audit": {"file": logs["harpcallerd"] / "audit"},
        },
    )
    files = {
        "harpd": ["harpd.log"],
        "harpcallerd": ["harpcallerd.log", "audit"],
    }
    with servers.caller() as caller:
        server = caller.host(servers.hostname)
        first = server["echo"](1)
        assert first.result(timeout=30) == 1
        # The last that is logged of it; it may come after the result.
        for name, directory in logs.items():
            log = directory / f"{name}.log"
            ended = re.compile(rf"ended .*{first.id()}")
            wait_for(lambda: ended.search(log.read_text()), deadline=30)
            rotate(name, directory)
            for file in files[name]:
                assert not (directory / file).exists()
        second = server["echo"](2)
        assert second.result(timeout=30) == 2
    servers.stop()  # after which all is logged
    for name, directory in logs.items():
        for file in files[name]:
            (old,) = directory.glob(f"{file}[.-]*")
            assert first.id() in old.read_text()
            text = (directory / file).read_text()
            assert second.id() in text and first.id() not in text


# --- logging ------------------------------------------------------------------------

LINE = """
import logging, sys
from harp import log
log.send(sys.argv[1], "harpd")
logging.getLogger("harp.gate").warning("refused %s", log.fields(job="x", peer="here"))
"""


def logged(path: Path) -> subprocess.CompletedProcess:
    """Write a line of log as the daemons do, where a file says."""
    return subprocess.run(
        [sys.executable, "-c", LINE, str(path)], capture_output=True, text=True
    )


def changed(name: str, directory: Path, changes: dict[str, str]) -> Path:
    """Return a copy of a configuration with some text replaced."""
    text = (EXAMPLES / "logging" / name).read_text()
    for installed, here in changes.items():
        assert installed in text
        text = text.replace(installed, here)
    path = directory / name
    path.write_text(text)
    return path


@contextlib.contextmanager
def datagrams(path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(20)
        yield listener


def test_log_to_standard_error(tmp_path):
    done = logged(EXAMPLES / "logging" / "stderr.toml")
    text = 'WARNING harp.gate: refused {"job": "x", "peer": "here"}\n'
    assert (done.returncode, done.stderr) == (0, text)


def test_log_to_syslog(tmp_path):
    with datagrams(tmp_path / "log") as system_log:
        path = changed("syslog.toml", tmp_path, {"/dev/log": f"{tmp_path}/log"})
        assert logged(path).stderr == ""
        # 19 is local3, 4 is warning.
        text = 'harpcallerd: WARNING harp.gate: refused {"job": "x", "peer": "here"}'
        assert system_log.recv(10_000).decode().rstrip("\0") == f"<{19 * 8 + 4}>{text}"


def test_log_to_the_journal(tmp_path):
    line = 'identifier = "harpcallerd"\n'
    with datagrams(tmp_path / "socket") as journal:
        path = changed(
            "journald.toml", tmp_path, {line: f"{line}path = '{tmp_path}/socket'\n"}
        )
        assert logged(path).stderr == ""
        entry = journal.recv(10_000).decode().splitlines()
    assert entry[0] == 'MESSAGE=refused {"job": "x", "peer": "here"}'
    assert {"PRIORITY=4", "HARP_JOB=x", "HARP_PEER=here"} < {*entry}


def test_log_to_files_that_the_daemon_rotates_itself(tmp_path):
    log = tmp_path / "harpcallerd.log"
    changes = {"/var/log/harpcaller": str(tmp_path), "10_000_000": "100"}
    path = changed("rotating.toml", tmp_path, changes)
    for _ in range(2):
        assert logged(path).stderr == ""
    assert log.read_text().endswith('refused {"job": "x", "peer": "here"}\n')
    assert (tmp_path / "harpcallerd.log.1").exists()


def test_log_as_lines_of_json(tmp_path):
    path = changed("json-lines.toml", tmp_path, {"/var/log/harpcaller": str(tmp_path)})
    assert logged(path).stderr == ""
    line = json.loads((tmp_path / "harpcallerd.jsonl").read_text())
    assert line.pop("time")
    assert line == {
        "level": "WARNING",
        "logger": "harp.gate",
        "message": "refused",
        "fields": {"job": "x", "peer": "here"},
    }


@pytest.mark.parametrize("name", DAEMONS)
def test_daemons_check_a_logging_configuration_and_use_it(name, prepared, tmp_path):
    path, _ = prepared(name)
    logging_path = changed(
        "json-lines.toml", tmp_path, {"/var/log/harpcaller": str(tmp_path)}
    )
    command = [sys.executable, str(TOP / "sbin" / name), "-c", str(path)]
    command += ["-l", str(logging_path)]
    done = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = tmp_path / "harpcallerd.jsonl"
    assert not log.exists()
    program = testing.Program(command, tmp_path / "stderr")
    program.start()
    assert program.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (serving,) = [line for line in lines if line["message"] == "serving"]
    assert serving["fields"]["addresses"]
