"""``harpcallerd setup``: what a dispatcher needs, made once."""

import os
import pwd
import re
import ssl
import subprocess

import pytest
from daemon_setup import needs_root
from dispatchers import HARPCALLERD, Client, Daemon, call_request, host_entry, to_line
from harp import config, template
from harp.config import DispatcherConfig

NAMES = ["cert.pem", "harpcaller.toml", "hosts.jsonl", "key.pem", "known_certs"] + [
    "passwords"
]


def setup(directory, *arguments, env=None) -> subprocess.CompletedProcess:
    command = [*HARPCALLERD, "setup", "--directory", directory / "etc"]
    command += ["--jobs", directory / "jobs", "--logs", directory / "logs"]
    if "--user" not in arguments:
        command.append("--no-user")
    done = subprocess.run(
        [*map(str, command), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | (env or {}),
    )
    assert done.stdout == "" and "Traceback" not in done.stderr
    return done


def run(directory, *arguments) -> subprocess.CompletedProcess:
    command = [*HARPCALLERD, "-c", directory / "etc" / "harpcaller.toml"]
    command += ["-p", directory / "pid", *arguments]
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=50
    )


def contents(directory) -> dict[str, bytes]:
    etc = directory / "etc"
    return {name: (etc / name).read_bytes() for name in os.listdir(etc)}


def test_setup_makes_what_is_missing_and_the_check_finds_no_fault(tmp_path):
    done = setup(tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "etc")) == NAMES
    for name in NAMES:
        assert f"{tmp_path}/etc/{name}: made" in done.stderr
    assert f"harpcallerd -c {tmp_path}/etc/harpcaller.toml start" in done.stderr
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700
    done = run(tmp_path, "-t")
    assert done.returncode == 0, done.stderr


def test_secrets_are_for_nobody_else(tmp_path):
    setup(tmp_path)
    for name in ("harpcaller.toml", "key.pem", "hosts.jsonl", "passwords"):
        assert (tmp_path / "etc" / name).stat().st_mode & 0o777 == 0o600


def test_in_another_directory_all_is_in_it(tmp_path):
    directory = tmp_path / 'all of "it"'
    command = [*HARPCALLERD, "setup", "--no-user", "--directory", directory]
    command = [*map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    # As a shell reads it.
    assert f"-c '{directory}/harpcaller.toml' start" in done.stderr
    made = config.load(f"{directory}/harpcaller.toml", DispatcherConfig)
    assert str(made.listen[0].address) == f"unix:{directory}/run/client"
    assert made.admin_socket == f"{directory}/run/control"
    assert made.stream_directory == f"{directory}/jobs"
    if not os.path.exists("/dev/log"):
        assert made.logging == f"{directory}/log/harpcallerd.log"


@needs_root
def test_files_are_those_of_the_user_that_the_dispatcher_becomes(tmp_path):
    nobody = pwd.getpwnam("nobody")
    done = setup(tmp_path, "--user", "nobody")
    assert "user nobody: exists" in done.stderr
    own = (nobody.pw_uid, nobody.pw_gid)
    for name, mode, owner in [
        ("etc", 0o755, (0, 0)),
        ("etc/hosts.jsonl", 0o600, own),
        ("etc/harpcaller.toml", 0o640, (0, nobody.pw_gid)),
        ("etc/key.pem", 0o640, (0, nobody.pw_gid)),
        ("etc/passwords", 0o640, (0, nobody.pw_gid)),
        ("etc/known_certs", 0o644, (0, 0)),
        ("jobs", 0o700, own),
    ]:
        status = (tmp_path / name).stat()
        assert status.st_mode & 0o777 == mode, name
        assert (status.st_uid, status.st_gid) == owner, name
    file = str(tmp_path / "etc" / "harpcaller.toml")
    assert config.load(file, DispatcherConfig).user == "nobody"


def test_setup_can_be_repeated_and_changes_nothing(tmp_path):
    setup(tmp_path)
    (tmp_path / "etc" / "hosts.jsonl").write_text("a host\n")
    before = contents(tmp_path)
    done = setup(tmp_path)
    assert done.returncode == 0 and ": made" not in done.stderr
    assert contents(tmp_path) == before
    (tmp_path / "etc" / "harpcaller.toml").unlink()
    assert setup(tmp_path).returncode == 0
    assert contents(tmp_path) == before


def test_certificate_is_for_the_machine_and_fits_its_key(tmp_path):
    setup(tmp_path, "--hostname", "dispatcher.example")
    etc = tmp_path / "etc"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(etc / "cert.pem", etc / "key.pem")
    command = ["openssl", "x509", "-in", etc / "cert.pem", "-noout", "-text"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "DNS:dispatcher.example" in done.stdout


def test_configuration_holds_every_key_with_its_default(tmp_path):
    text = template.configuration(DispatcherConfig, "# head\n", {})
    (tmp_path / "some.toml").write_text(text)
    default = DispatcherConfig()
    assert config.load(str(tmp_path / "some.toml"), DispatcherConfig) == default
    # What is commented out and has a value is the default.
    (tmp_path / "all.toml").write_text(re.sub(r"(?m)^# (\w+ = .+)$", r"\1", text))
    assert config.load(str(tmp_path / "all.toml"), DispatcherConfig) == default
    for name, (_, row) in config.keys(DispatcherConfig).items():
        last = name.rpartition(".")[2]
        assert re.search(rf"(?m)^# ({last} =|\[{last}\])", text), name
        assert row.meaning.split()[0] in text
    assert max(map(len, text.splitlines())) <= 88


def test_missing_openssl_is_named(tmp_path):
    done = setup(tmp_path, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "no 'openssl' command found" in done.stderr


@pytest.fixture
def daemon(server_context, wait_for):
    daemon = Daemon(server_context)
    yield daemon
    wait_for(lambda: not daemon.serving)
    daemon.stop()


def test_with_a_hosts_line_it_starts_and_calls(tmp_path, daemon, certificate):
    setup(tmp_path)
    entry = host_entry(daemon.address, cert_sha256=certificate.sha256)
    with (tmp_path / "etc" / "hosts.jsonl").open("ab") as hosts:
        hosts.write(to_line(entry))
    done = run(tmp_path, "start")
    assert done.returncode == 0, done.stderr
    try:
        with Client(f"{tmp_path}/etc/run/client") as client:
            job_id = client.ask(call_request("echo", 1))["job_id"]
            reply = client.ask({"harpcaller": 1, "get_result": job_id})
        assert reply == {"result": [1]}
    finally:
        assert run(tmp_path, "stop").returncode == 0
    if not os.path.exists("/dev/log"):
        assert "serving" in (tmp_path / "logs" / "harpcallerd.log").read_text()
