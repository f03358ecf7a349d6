"""The two real daemons on a directory of their own, for tests and the demo::

    with harp.testing.Servers("procedures.py", directory) as servers:
        job = servers.caller().localhost.procedure("argument")

Everything is on 127.0.0.1, on free ports, and in that directory; it takes about half a
second and the ``openssl`` command. Calls run as whoever runs the tests. One thread uses
an object of these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .client import HarpCaller
from .direct import HarpServer

_READY = "READY=1"
_ADDRESSES = "X_HARP_ADDRESS="
_LOG_TAIL = 2000  # characters of a log that an error shows


class SetupError(Exception):
    """Raised when what a test needs can't be had; the root of what is raised here."""


class OpensslMissing(SetupError):
    """Raised when there is no ``openssl`` command to make a certificate with."""


class ProgramError(SetupError):
    """Raised when a program doesn't start or stop as it should; shows its log."""


# --- certificates and configuration files -------------------------------------------


class Certificate(NamedTuple):
    """A self-signed certificate.

    :ivar certificate: its file, PEM
    :ivar key: file of its private key, PEM
    :ivar sha256: its fingerprint in hex, to be used as a pin
    """

    certificate: Path
    key: Path
    sha256: str


def make_certificate(
    directory: str | os.PathLike, names: Iterable[str] = ("localhost", "127.0.0.1")
) -> Certificate:
    """Make a P-256 key and a self-signed certificate, ``key.pem`` and ``cert.pem``.

    :param names: host names and IPv4 addresses that it is for
    :raises OpensslMissing: if there is no ``openssl`` command
    :raises SetupError: if that command fails
    """
    certificate = Path(directory, "cert.pem")
    key = Path(directory, "key.pem")
    names = list(names)
    alternatives = ",".join(
        ("IP:" if re.fullmatch(r"[0-9.]+", name) else "DNS:") + name for name in names
    )
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        f" -days 3650 -subj /CN={names[0]} -addext subjectAltName={alternatives}"
    ).split() + ["-keyout", str(key), "-out", str(certificate)]
    try:
        made = subprocess.run(
            command, capture_output=True, text=True, umask=0o077, check=False
        )
    except FileNotFoundError:
        raise OpensslMissing(
            "no 'openssl' command found, which makes the certificate; install the "
            "package 'openssl'"
        ) from None
    if made.returncode != 0:
        raise SetupError(f"openssl can't make a certificate: {made.stderr.strip()}")
    encoded = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    return Certificate(certificate, key, hashlib.sha256(encoded).hexdigest())


def to_toml(table: Mapping[str, Any]) -> str:
    """Return a configuration as TOML: strings, numbers, booleans, arrays, tables as
    sections, tables in arrays inline."""
    return "".join(_toml_lines(table, ""))


def _toml_lines(table: Mapping[str, Any], section: str) -> Iterable[str]:
    for name, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{_toml_key(name)} = {_toml_value(value)}\n"
    for name, value in table.items():
        if isinstance(value, Mapping):
            path = section + _toml_key(name)
            yield f"\n[{path}]\n"
            yield from _toml_lines(value, path + ".")


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{_toml_key(name)} = {_toml_value(value[name])}" for name in value)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, (str, bool, int, float)):
        # For these JSON is TOML, but for one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    raise TypeError(f"can't be written as TOML: {value!r}")


# --- one daemon ---------------------------------------------------------------------


class Program:
    """A daemon of ours as a child process.

    :param argv: program and arguments
    :param log_path: file that gets what it writes, appended
    :param env: variables to set in its environment beside our own
    :ivar addresses: where it listens, ``127.0.0.1:4306`` or ``unix:/path`` each
    """

    def __init__(
        self,
        argv: Iterable[str | os.PathLike],
        log_path: str | os.PathLike,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.addresses: list[str] = []
        self.argv = [os.fspath(argument) for argument in argv]
        self._log_path = Path(log_path)
        self._env = dict(env or {})
        self._process: subprocess.Popen | None = None
        # Open as long as it runs: it says when it stops, too.
        self._notices: socket.socket | None = None

    def __str__(self) -> str:
        return " ".join(self.argv)

    @property
    def pid(self) -> int:
        """Process id, of the last run if it isn't running."""
        if self._process is None:
            raise ProgramError(f"never started: {self}")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what it has written until now, in all its runs."""
        try:
            return self._log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def start(self, timeout: float = 15) -> None:
        """Run it, and return when it says that it is ready.

        :param timeout: seconds
        :raises ProgramError: if it ends, or isn't ready in time; it doesn't run then
        """
        if self.is_running:
            raise ProgramError(f"runs already: {self}")
        # An abstract name: no file, and no limit on the directory's length.
        name = f"harp-{secrets.token_hex(16)}"
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._notices.bind("\0" + name)
            with open(self._log_path, "ab") as log:
                self._process = subprocess.Popen(
                    self.argv,
                    env=os.environ | self._env | {"NOTIFY_SOCKET": "@" + name},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # A Ctrl-C in the terminal is for whoever started us; stopping
                    # in the right order is up to us.
                    start_new_session=True,
                )
            self.addresses = _addresses(self._await_ready(time.monotonic() + timeout))
        except BaseException:
            self.kill()
            raise

    def reload(self, timeout: float = 15) -> None:
        """Have it read its files again (SIGHUP), and return when it says that it did.
        Whether they were any good, its log tells.

        :param timeout: seconds
        :raises ProgramError: if it ends, or says nothing in time
        """
        self._process.send_signal(signal.SIGHUP)
        self._await_ready(time.monotonic() + timeout)

    def _await_ready(self, deadline: float) -> list[str]:
        """Return the lines of its next notice that it is ready."""
        notices = self._notices
        with _pidfd(self.pid) as pidfd:
            while True:
                readable = _poll(deadline, notices.fileno(), pidfd)
                if notices.fileno() in readable:
                    lines = notices.recv(65536).decode().splitlines()
                    if _READY in lines:
                        return lines
                elif readable:
                    raise self._error(f"ended with status {self._process.wait()}")
                else:
                    raise self._error("is not ready in time")

    def stop(self, timeout: float = 15) -> int:
        """Ask it to end, wait for it and return its exit status (negative: signal).

        :param timeout: seconds
        :raises ProgramError: if it doesn't end in time; it is killed then
        """
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
            with _pidfd(self.pid) as pidfd:
                if not _poll(time.monotonic() + timeout, pidfd):
                    self.kill()
                    raise self._error(f"does not stop within {timeout} s")
        return self._gone()

    def kill(self) -> None:
        """Kill it with SIGKILL and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
        self._gone()

    def _gone(self) -> int:
        status = self._process.wait() if self._process is not None else 0
        if self._notices is not None:
            self._notices.close()
        return status

    def _error(self, what: str) -> ProgramError:
        tail = self.log()[-_LOG_TAIL:].strip()
        return ProgramError(f"{self}: {what}; its log ends:\n{tail or '(empty)'}")


@contextlib.contextmanager
def _pidfd(pid: int):
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _poll(deadline: float, *fds: int) -> set[int]:
    """Wait until one of ``fds`` is readable and return those that are."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    timeout = max(0.0, deadline - time.monotonic())
    return {fd for fd, _ in poll.poll(timeout * 1000)}


def _addresses(lines: list[str]) -> list[str]:
    for line in lines:
        if line.startswith(_ADDRESSES):
            return line.removeprefix(_ADDRESSES).split()
    return []


def _tcp_address(program: Program) -> tuple[str, int]:
    for address in program.addresses:
        if not address.startswith("unix:"):
            host, _, port = address.rpartition(":")
            return "127.0.0.1" if host == "*" else host.strip("[]"), int(port)
    raise ProgramError(f"{program}: listens on no TCP port: {program.addresses}")


def _command(name: str) -> list[str]:
    """The daemon that belongs to this module: of the checkout, in the single file, or
    installed by pip; else the one on PATH."""
    single_file = getattr(__loader__, "archive", None)
    if single_file is not None:
        return [sys.executable, f"{single_file}/{name}"]
    path = Path(__file__).resolve().parents[2] / "sbin" / name
    if path.exists():
        return [sys.executable, str(path)]
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    installed = shutil.which(name, path=os.pathsep.join(places))
    if installed is None:
        raise SetupError(f"no '{name}' found, neither in a checkout nor on PATH")
    return [installed]


# --- both daemons -------------------------------------------------------------------


class Servers:
    """``harpd`` and ``harpcallerd`` with a certificate, a user and a host of their own;
    a context manager.

    :param procedures: the procedures file; or a module, whose file it is then
    :param directory: where everything is kept; made if it isn't there
    :param hosts: names that the dispatcher knows harpd's host by, at least one
    :param daemon: changes to harpd's configuration, as its file would hold them
    :param dispatcher: changes to harpcallerd's
    :ivar daemon: harpd, a :class:`Program`
    :ivar dispatcher: harpcallerd, a :class:`Program`
    :ivar certificate: harpd's :class:`Certificate`, once started
    :ivar user: who may call at harpd
    :ivar password: that user's
    :ivar hostname: what the dispatcher knows harpd's host by, the first if there are
        several
    :raises SetupError: for a module that has no file
    """

    def __init__(
        self,
        procedures: str | os.PathLike | ModuleType,
        directory: str | os.PathLike,
        *,
        hosts: Iterable[str] = ("localhost",),
        daemon: Mapping[str, Any] | None = None,
        dispatcher: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.user = "harp"
        self.password = secrets.token_urlsafe(16)
        self._hostnames = list(hosts)
        self.hostname = self._hostnames[0]
        self.certificate: Certificate | None = None
        self._daemon_changes = daemon or {}
        self._dispatcher_changes = dispatcher or {}
        self._port = 0  # of the dispatcher: free at first, the same ever after
        self._daemon_file = self.directory / "harpd.toml"
        self._dispatcher_file = self.directory / "harpcaller.toml"
        self._hosts_file = self.directory / "hosts.jsonl"
        self.daemon = Program(
            _command("harpd")
            + ["-c", str(self._daemon_file), "-r", str(_procedures_file(procedures))],
            self.directory / "harpd.log",
        )
        self.dispatcher = Program(
            _command("harpcallerd") + ["-c", str(self._dispatcher_file)],
            self.directory / "harpcallerd.log",
        )

    def __enter__(self) -> Servers:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    @property
    def daemon_address(self) -> tuple[str, int]:
        """Host and port of harpd."""
        return _tcp_address(self.daemon)

    @property
    def dispatcher_address(self) -> tuple[str, int]:
        """Host and port of harpcallerd."""
        return _tcp_address(self.dispatcher)

    def start(self) -> None:
        """Start both.

        :raises SetupError: if one doesn't start, or there is no certificate; none runs
            then
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.certificate is None:
            self.certificate = make_certificate(self.directory)
        _write(self._daemon_file, to_toml(self._daemon_configuration()))
        try:
            self.daemon.start()
            self.write_hosts(self.host_entry(name) for name in self._hostnames)
            self.start_dispatcher()
        except BaseException:
            self.dispatcher.kill()
            self.daemon.kill()
            raise

    def start_dispatcher(self) -> None:
        """Start harpcallerd alone; again, after it was stopped or killed, on the port
        where it was. Errors as for :meth:`Program.start`."""
        _write(self._dispatcher_file, to_toml(self._dispatcher_configuration()))
        self.dispatcher.start()
        with contextlib.suppress(ProgramError):  # it may be on a Unix socket only
            self._port = self.dispatcher_address[1]

    def stop(self) -> None:
        """Stop both; what is in the directory stays.

        :raises ProgramError: if one doesn't stop in time; none runs then
        """
        try:
            self.dispatcher.stop()
        finally:
            self.daemon.stop()

    def caller(self) -> HarpCaller:
        """Return a client of the dispatcher."""
        return HarpCaller(*self.dispatcher_address)

    def direct(self) -> HarpServer:
        """Return a client of the daemon itself."""
        host, port = self.daemon_address
        return HarpServer(
            host,
            self.user,
            self.password,
            port=port,
            cert_sha256=self.certificate.sha256,
        )

    def host_entry(self, hostname: str | None = None) -> dict[str, Any]:
        """Return what the dispatcher's list of hosts says about harpd.

        :param hostname: name to know its host by; None: ``hostname``
        """
        address, port = self.daemon_address
        return {
            "hostname": hostname or self.hostname,
            "address": address,
            "port": port,
            "credentials": {"user": self.user, "password": self.password},
            "cert_sha256": self.certificate.sha256,
        }

    def write_hosts(self, hosts: Iterable[Mapping[str, Any]]) -> None:
        """Replace the dispatcher's list of hosts. One that runs notices it within a
        second or two."""
        _write(self._hosts_file, "".join(json.dumps(host) + "\n" for host in hosts))

    def _daemon_configuration(self) -> dict:
        digest = hashlib.sha256(self.password.encode()).hexdigest()
        configuration = {
            "listen": ["127.0.0.1:0"],
            "tls": {
                "certificate": self.certificate.certificate,
                "key": self.certificate.key,
            },
            "users": {self.user: f"sha256:{digest}"},
        }
        if os.geteuid() == 0:
            configuration["procedures"] = {"user": "root"}
        return _merged(configuration, self._daemon_changes)

    def _dispatcher_configuration(self) -> dict:
        return _merged(
            {
                "listen": [{"address": f"127.0.0.1:{self._port}", "anonymous": True}],
                "admin_socket": self.directory / "control",
                "stream_directory": self.directory / "jobs",
                "hosts": {"file": self._hosts_file},
            },
            self._dispatcher_changes,
        )


def _procedures_file(procedures: str | os.PathLike | ModuleType) -> Path:
    if isinstance(procedures, ModuleType):
        file = getattr(procedures, "__file__", None)
        if file is None:
            raise SetupError(f"module {procedures.__name__} has no file to be loaded")
        procedures = file
    return Path(procedures).absolute()


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict:
    """``base`` with ``changes``, tables within tables."""
    merged = dict(base)
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            value = _merged(merged[name], value)
        merged[name] = value
    return merged


def _write(path: Path, text: str) -> None:
    """Replace a file, which may hold a password, in one step."""
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)
