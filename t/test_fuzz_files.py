"""Files that are not as they should be: of jobs, configuration, hosts, certificates,
passwords and clients. Whatever they hold, a start comes through or says what is wrong
with which file, and never a traceback."""

import collections
import contextlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys

import fuzzing
import harp
import pytest
from dispatchers import (
    PASSWORD,
    TOP,
    Dispatcher,
    call_request,
    echo,
    host_entry,
    request,
    to_line,
)
from harp import certificate as der
from harp import jobid, protocol, settings, testing
from harp.auth import password_file
from harp.auth.passwords import write_random
from harp.config import ConfigError, DaemonConfig, DispatcherConfig
from harp.cli.output import MISCONFIGURED
from harp.daemon import options as daemon_options
from harp.daemon.generation import Generation
from harp.dispatcher import check as dispatcher_check
from harp.dispatcher import options as dispatcher_options
from harp.dispatcher.checklog import LogCheck
from harp.dispatcher.disk import StorageError
from harp.dispatcher.hostlines import parse_hosts
from harp.dispatcher.layout import hour_of
from harp.dispatcher.reading import Reading
from harp.dispatcher.trust import TrustFiles
from harp.errors import ConfigurationError
from joblogs import (
    CALL,
    START,
    end_line,
    make_record,
    open_log,
    packet,
    trailer,
)

LAST_LINES = (*protocol.END_PREFIXES.values(), b'{"harpcaller":1,"error":')
LAST_LINES += (b'{"continue":', b'{"no_result":')
PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]+")


def rounds(short, long):
    """Parameter ``count``: how many cases there are by default, and with --slow."""
    return pytest.mark.parametrize(
        "count", [short, pytest.param(long, marks=pytest.mark.slow)]
    )


HOST_ERRORS = ("network_error", "certificate_error", "unknown_host", "timeout")


# --- files of jobs ------------------------------------------------------------------

QUEUE = protocol.Queue({"disk": "sda"}, 2)
PACKETS = [packet(number, f"line {number}") for number in range(5)]
STAGES = {
    "waiting": [],
    "started": [START.encode()],
    "streaming": [START.encode(), *PACKETS],
    "received": [START.encode(), *PACKETS, end_line()],
    "ended": [START.encode(), *PACKETS, end_line(), trailer(5).encode()],
}


class JobFiles:
    """A job log with files that were damaged.

    :ivar damaged: by job id, what its file holds now
    :ivar whole: by job id, the stage that its file, which is as it was, is of
    """

    def __init__(self, directory, seed, count):
        self.directory = directory
        self.damaged = {}
        self.whole = {}
        open_log(directory).close()
        for number, mutator in enumerate(fuzzing.cases(seed, count)):
            # One in eight is left as it was: others don't suffer for the damaged ones.
            is_whole = number % 8 == 0
            stage = mutator.random.choice(list(STAGES))
            record = self._record(number)
            data = record.encode() + b"".join(STAGES[stage])
            if is_whole:
                self.whole[record.job_id] = stage
            else:
                change = mutator.random.choice([mutator.lines, mutator.bytes])
                data = self.damaged[record.job_id] = change(data)
            is_done = stage == "ended" and mutator.happens(0.5)
            self._write(record.job_id, data, is_done)

    def _record(self, number):
        queue = QUEUE if number % 3 == 0 else None
        call = CALL._replace(queue=queue, procedure="echo", info={"n": number})
        return make_record(None, number, call, queue and queue.concurrency)

    def _write(self, job_id, data, is_done):
        place = self.directory / "active"
        if is_done:
            place = self.directory / "done" / hour_of(job_id)
            place.mkdir(0o700, exist_ok=True)
        path = place / f"{job_id}.jsonl"
        path.touch(0o600)
        path.write_bytes(data)

    def may_have_started(self, job_id):
        """Whether the file of a job says so, or hides it."""
        if job_id in self.whole:
            return self.whole[job_id] != "waiting"
        _, *more = self.damaged[job_id].split(b"\n")
        # Behind the last newline there is nothing that was synced.
        return any(more[:-1])

    def content(self):
        return {
            path: path.read_bytes()
            for path in self.directory.rglob("*")
            if path.is_file()
        }


def look_at(log, job_id):
    """Read all that there is of a job; raises StorageError and nothing else."""
    reader = log.open_job(job_id)
    with reader:
        reading = Reading(None, reader)
        reading.status()
        extent = reading.extent()
        reading.packet_offset(2, extent)


@rounds(150, 10_000)
def test_start_comes_through_damaged_job_files(tmp_path, seed, count, caplog):
    for begin in range(0, count, 1000):
        directory = tmp_path / f"{begin}"
        files = JobFiles(directory, f"{seed}/{begin}", min(count, 1000))
        before = files.content()
        assert list(LogCheck(str(directory)).faults())
        assert files.content() == before  # a check changes nothing
        log = open_log(directory)
        try:
            waiting, unended = log.recover()
            assert unended == []
            check_taken_up(files, {job.job_id for job in waiting}, log)
            assert log.recover()[0] == waiting
        finally:
            log.close()
        list(LogCheck(str(directory)).faults())
        shutil.rmtree(directory)


def check_taken_up(files, waiting, log):
    for job_id in waiting:
        assert not files.may_have_started(job_id), files.damaged.get(job_id)
    for job_id, stage in files.whole.items():
        assert (job_id in waiting) == (stage == "waiting")
        if stage != "waiting":
            look_at(log, job_id)
    for job_id in files.damaged.keys() - waiting:
        with contextlib.suppress(StorageError):
            look_at(log, job_id)


def make_dispatcher(directory, hosts, **changes):
    return Dispatcher(directory, hosts, limits={"cancel_grace": 2.0}, **changes)


@rounds(150, 1500)
def test_dispatcher_serves_though_job_files_are_damaged(
    tmp_path, daemon, certificate, wait_for, seed, count
):
    hosts = [host_entry(daemon.address, cert_sha256=certificate.sha256)]
    dispatcher = make_dispatcher(tmp_path / "dispatcher", hosts)
    files = JobFiles(dispatcher.jobs, f"{seed}/served", count)
    daemon.scripts = collections.defaultdict(lambda: echo)
    dispatcher.start()
    try:
        with dispatcher.connect() as client:
            for job_id in [*files.whole, *files.damaged]:
                ask_everything(dispatcher, client, job_id)
            end = client.ask(request("get_result", dispatcher.call("echo", 1)))
            assert end == {"result": [1]}
            check_listings(client)
            for job_id, stage in files.whole.items():
                if stage == "waiting":
                    assert "result" in client.ask(request("get_result", job_id))
        # Also those whose procedure isn't there any more, or whose host.
        waiting = request("list_jobs", {"state": "queued"})
        wait_for(lambda: not dispatcher.ask(waiting)["jobs"], 30)
    finally:
        assert dispatcher.stop() == 0
    assert "Traceback" not in dispatcher.log()
    for received in daemon.requests:
        if received["job_id"] in files.damaged or received["job_id"] in files.whole:
            assert not files.may_have_started(received["job_id"])


def ask_everything(dispatcher, client, job_id):
    """Ask for a job in every way; each answer is one, or an error that is known. What
    is in packets and ends comes as it stands in the file: that damage is not looked
    for."""
    for operation in ("get_status", "explain"):
        reply = client.ask(request(operation, job_id))
        if "error" in reply:
            assert reply["error"]["type"] in ("storage_error", "invalid_jobid"), reply
    with dispatcher.connect() as reader:
        reader.send(request("read_stream", job_id))
        reader.half_close()
        *_, line = iter(reader.line, b"")
    assert line.startswith(LAST_LINES), line
    client.send(request("get_result", job_id, wait=False))
    assert (line := client.line()).startswith(LAST_LINES), line


def check_listings(client):
    before = None
    while True:
        filters = {"limit": 1000} | ({"before": before} if before else {})
        reply = client.ask(request("list_jobs", filters))
        assert all(jobid.is_valid(job["job_id"]) for job in reply["jobs"])
        before = reply["next"]
        if before is None:
            break
    assert "queues" in client.ask(request("list_queues", True))


# --- configuration ------------------------------------------------------------------


def write_private(path, data):
    path.touch(0o600)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory, certificate):
    """A directory with all the files that a configuration can name, so deep that what
    leads out of it leads nowhere."""
    place = tmp_path_factory.mktemp("files") / "a" / "b" / "c" / "d" / "e" / "f"
    place.mkdir(0o700, parents=True)
    for name in ("jobs", "run"):
        (place / name).mkdir(0o700)
    (place / "procedures.py").write_text("")
    write_private(place / "passwords", b"web:" + write_random("x").encode() + b"\n")
    write_private(place / "hosts", b"")
    write_private(place / "known", b"")
    shutil.copy(certificate.certificate, place / "cert.pem")
    shutil.copy(certificate.key, place / "key.pem")
    return place


# What is no path and could be asked for in large numbers, or start something, is not
# in these: what a start does with it is tested elsewhere.
CONFIGURATIONS = {
    DaemonConfig: {
        "listen": ["127.0.0.1:0", "[::1]:0"],
        "tls": {"certificate": "cert.pem", "key": "key.pem"},
        "users": {"web": "plain:secret", "app": write_random("y")},
        "password_file": "passwords",
        "allow_from": ["10.0.0.0/8", "127.0.0.1"],
        "auth": {"remember": 10, "failure_delay": 0.5},
        "authorization": {"web": ["*"], "app": ["backup_?"]},
        "procedures": {
            "file": "procedures.py",
            "user": "root",
            "python_path": ["lib"],
            "timeout": 5.5,
        },
        "environment": {"LANG": "C.UTF-8"},
        "logging": "stderr",
        "limits": {"calls": 10, "arguments": "1 MiB", "kill_grace": 1},
    },
    DispatcherConfig: {
        "listen": [
            "unix:/nowhere/client",
            {"address": "127.0.0.1:0", "anonymous": True},
            {"address": "127.0.0.1:0", "tls": True, "allow_from": ["127.0.0.1"]},
        ],
        "tls": {"certificate": "cert.pem", "key": "key.pem"},
        "users": {"web": "plain:secret", "app": write_random("y")},
        "password_file": "passwords",
        "authorization": {"web": {"operations": ["call"], "hosts": ["web*"]}},
        "audit": {"file": "audit.log", "arguments": True},
        "secret_arguments": ["password"],
        "admin_socket": "run/control",
        "logging": "stderr",
        "on_sigterm": "drain 5",
        "stream_directory": "jobs",
        "max_age": "30d",
        "hosts": {"file": "hosts", "refresh": 5, "timeout": 1.5},
        "trust": {"known_certs_file": "known", "ca_file": "cert.pem"},
        "limits": {"running": 10, "reserve": "1 MiB", "idle_timeout": 3},
    },
}
TABLES = pytest.mark.parametrize("table", CONFIGURATIONS)


def mutated_toml(mutator, content):
    """A configuration with odd values, or with odd bytes."""
    while mutator.happens(0.7):
        with contextlib.suppress(TypeError, UnicodeEncodeError):
            return testing.to_toml(with_odd_value(mutator, content)).encode()
    return mutator.random.choice([mutator.lines, mutator.bytes])(
        testing.to_toml(content).encode()
    )


def with_odd_value(mutator, content):
    """Raises TypeError, or UnicodeEncodeError later, if TOML can't hold it."""
    name = mutator.random.choice(list(content))
    value = content[name]
    if isinstance(value, dict) and mutator.happens(0.8):
        return content | {name: with_odd_value(mutator, value)}
    odd = mutator.message({name: value})
    if not isinstance(odd, dict):
        raise TypeError("no table")
    return {key: value for key, value in content.items() if key != name} | odd


def check_faults(faults, path):
    """Each is a line that names the file and can be shown as it is."""
    assert faults
    for fault in faults:
        assert fault.startswith(f"{path}: "), fault
        assert PRINTABLE.fullmatch(fault), fault
        assert len(fault) < 2000, fault[:3000]


def load_daemon(path):
    options = daemon_options.Options(str(path))
    config = daemon_options.load_config(options)
    try:
        Generation(config, os.getuid())
    except ConfigError as error:
        raise ConfigError([f"{path}: {fault}" for fault in error.faults]) from None


def load_dispatcher(path):
    faults = dispatcher_check.find_faults(dispatcher_options.Options(str(path)))
    if faults:
        raise ConfigError(faults)


@TABLES
@rounds(120, 6000)
def test_configuration_loads_or_its_faults_are_told(place, table, seed, count):
    path = place / "config.toml"
    load = load_daemon if table is DaemonConfig else load_dispatcher
    write_private(path, testing.to_toml(CONFIGURATIONS[table]).encode())
    if os.getuid() == 0:
        load(path)
    for mutator in fuzzing.cases(f"{seed}/{table.__name__}", count):
        write_private(path, mutated_toml(mutator, CONFIGURATIONS[table]))
        try:
            load(path)
        except ConfigError as error:
            check_faults(error.faults, path)
        except Exception as error:
            pytest.fail(f"{mutator}: {error!r}", pytrace=True)


PROGRAMS = {
    "harpd": [CONFIGURATIONS[DaemonConfig], "-r", "procedures.py"],
    "harpcallerd": [CONFIGURATIONS[DispatcherConfig]],
}


@pytest.mark.parametrize("program", PROGRAMS)
@rounds(3, 60)
def test_check_of_an_odd_configuration_ends_without_a_traceback(
    place, program, seed, count
):
    content, *options = PROGRAMS[program]
    path = place / "config.toml"
    for mutator in fuzzing.cases(f"{seed}/{program}", count):
        write_private(path, mutated_toml(mutator, content))
        checked = subprocess.run(
            [sys.executable, TOP / "sbin" / program, "-c", path, *options, "-t"],
            capture_output=True,
            text=True,
            cwd=place,
        )
        said = checked.stdout + checked.stderr
        assert "Traceback" not in said, (mutator, said)
        assert checked.returncode in (0, MISCONFIGURED), (mutator, checked)
        assert said.count("\n") == len(said.splitlines()) > 0


# --- hosts --------------------------------------------------------------------------

HOST_LINES = b"".join(
    to_line(host)
    for host in [
        host_entry(("127.0.0.1", 9), "web01", cert_sha256="0" * 64),
        host_entry(("127.0.0.1", 9), "web02", tls_name="web02.example.net"),
        host_entry(("127.0.0.2", 9), "db-01"),
        host_entry(("::1", 9), "bä"),
    ]
)


@rounds(300, 30_000)
def test_odd_line_of_the_registry_is_a_host_or_a_fault(seed, count):
    for mutator in fuzzing.cases(f"{seed}/hosts", count):
        output = mutator.lines(HOST_LINES)
        hosts, faults = parse_hosts(output)
        assert len(hosts) + len(faults) <= output.count(b"\n") + 1
        for name, host in hosts.items():
            assert name == host.hostname and name and host.address, mutator
            assert 0 < host.port < 65536 and "\0" not in host.address, mutator
            json.dumps(host.public())
        for number, text in faults:
            assert 0 < number <= output.count(b"\n") + 1
            assert PRINTABLE.fullmatch(text), (mutator, text)
            assert "correct horse" not in text, mutator


@pytest.mark.parametrize("source", ["file", "script"])
@rounds(30, 1000)
def test_call_to_an_odd_host_ends_with_an_error_that_is_known(
    tmp_path, daemon, certificate, source, seed, count
):
    good = host_entry(daemon.address, "good", cert_sha256=certificate.sha256)
    lines, names = odd_hosts(seed, count)
    dispatcher = make_dispatcher(tmp_path / "dispatcher", [good])
    dispatcher.configure(**known_by(tmp_path, source))
    output = tmp_path / "dispatcher" / "hosts"
    output.write_bytes(lines + output.read_bytes())
    dispatcher.start()
    try:
        call_all(dispatcher, names)
    finally:
        assert dispatcher.stop() == 0
    assert "Traceback" not in dispatcher.log()
    assert PASSWORD not in dispatcher.log()


def odd_hosts(seed, count):
    """Return lines, and names of hosts that are among them perhaps."""
    lines = []
    for number, mutator in enumerate(fuzzing.cases(f"{seed}/odd", count)):
        host = host_entry(("localhost", 9), f"odd{number}", cert_sha256="0" * 64)
        lines.append(mutator.line(host))
    output = b"".join(lines)
    return output, list(parse_hosts(output).hosts)


def known_by(directory, source):
    """What a configuration says that gets the hosts from the file, or by a script."""
    if source == "file":
        return {}
    script = directory / "hosts.sh"
    script.write_text(f"#!/bin/sh\necho odd >&2\nexec cat {directory}/dispatcher/hosts")
    script.chmod(0o700)
    return {"hosts": {"script": script}}


def call_all(dispatcher, names):
    with dispatcher.connect() as client:
        assert len(client.ask(request("list_hosts", True))["hosts"]) > len(names)
        called = [
            client.ask(call_request(host=name, timeout=5, max_exec_time=10))
            for name in names
        ]
        for reply in called:
            end = client.ask(request("get_result", reply["job_id"]))
            assert end["error"]["type"] in HOST_ERRORS, end
            assert end["error"]["ran"] == "no"
        reply = client.ask(call_request(host="good"))
        assert "result" in client.ask(request("get_result", reply["job_id"]))


# --- certificates -------------------------------------------------------------------


@rounds(200, 10_000)
def test_odd_line_of_known_certificates_is_passed_over(tmp_path, seed, count, caplog):
    path = tmp_path / "known"
    good = f"web01 {'ab' * 32}  # until 2036\n# remark\n\ndb {'CD:' * 31}CD\n".encode()
    config = DispatcherConfig(known_certs_file=str(path))
    for mutator in fuzzing.cases(f"{seed}/known", count):
        path.write_bytes(mutator.random.choice([mutator.lines, mutator.bytes])(good))
        for name in ("web01", "db"):
            host = next(iter(parse_hosts(HOST_LINES).hosts.values()))
            host = host._replace(hostname=name, cert_sha256=None)
            _, pins = TrustFiles(config).pins(host)
            assert all(re.fullmatch("[0-9a-f]{64}", pin) for pin in pins), mutator
        caplog.clear()


@rounds(1500, 150_000)
def test_odd_certificate_is_described_or_no_certificate(certificate, seed, count):
    good = ssl.PEM_cert_to_DER_cert(certificate.certificate.read_text())
    for mutator in fuzzing.cases(f"{seed}/certificate", count):
        odd = mutator.bytes(good)
        with contextlib.suppress(ValueError):
            found = der.parse_certificate(odd)
            assert all(isinstance(name, str) for name in found.names)
            der.date(found.not_before), der.date(found.not_after)
        assert der.fingerprint(odd) in der.describe(odd) or not odd, mutator


# --- passwords ----------------------------------------------------------------------


@rounds(200, 10_000)
def test_odd_line_of_a_password_file_lets_nobody_in(tmp_path, seed, count, caplog):
    path = tmp_path / "passwords"
    cheap = "scrypt:16:1:1:c2FsdA==:" + "QUJD" * 10 + "QUI="
    good = f"# users\nweb:{write_random('right')}\napp:{cheap}\n".encode()
    path.write_bytes(good)
    config = DispatcherConfig(password_file=str(path))
    assert password_file.create(config).authenticate("web", "right")
    for mutator in fuzzing.cases(f"{seed}/passwords", count):
        odd = mutator.random.choice([mutator.lines, mutator.bytes])(good)
        path.write_bytes(odd)
        users = password_file.create(config)
        for name in ("web", "app", "nobody", "", "web\0"):
            assert not users.authenticate(name, "wrong"), (mutator, odd)
        caplog.clear()


# --- clients ------------------------------------------------------------------------

CLIENT_FILE = {
    "url": "harps://web@dispatcher.example.net:3502",
    "user": "web",
    "password_file": "/nowhere/password",
    "ca_file": "/nowhere/ca.pem",
    "connect_timeout": 5,
    "retry_for": 2.5,
}


@rounds(300, 10_000)
def test_odd_file_of_a_client_is_read_or_its_fault_is_told(
    tmp_path, monkeypatch, seed, count
):
    path = tmp_path / "client.toml"
    password = tmp_path / "password"
    password.write_text("secret\n")
    content = CLIENT_FILE | {"password_file": str(password)}
    monkeypatch.setattr(settings, "CLIENT_FILE", str(path))
    monkeypatch.delenv(settings.URL_VARIABLE, raising=False)
    for mutator in fuzzing.cases(f"{seed}/client", count):
        path.write_bytes(mutated_toml(mutator, content))
        try:
            harp.HarpCaller()
        except ConfigurationError as error:
            assert "client.toml: " in str(error) or "password_file" in str(error)
        except Exception as error:
            pytest.fail(f"{mutator}: {error!r}", pytrace=True)
