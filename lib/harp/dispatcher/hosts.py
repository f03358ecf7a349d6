"""The hosts that calls can go to: read from a program's output or a file, kept fresh
by a thread of its own, replaced as a whole. Format of the lines: doc/protocol.rst,
"Hosts registry"."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from typing import NamedTuple

from .. import protocol, wire
from ..config import DispatcherConfig
from ..errors import INVALID_REQUEST, Refusal
from ..log import fields

logger = logging.getLogger(__name__)

_FINGERPRINT = re.compile("[0-9a-f]{64}")
_FILE_CHECK_SECONDS = 1.0


class Host(NamedTuple):
    """A host of the registry.

    :ivar address: name or number to connect to
    :ivar cert_sha256: its certificate's fingerprint in lower-case hex, or None
    :ivar tls_name: name that its certificate must be for, if it isn't pinned
    """

    hostname: str
    address: str
    port: int
    user: str
    password: str
    cert_sha256: str | None
    tls_name: str


class HostsError(Exception):
    """Raised when the hosts can't be read; says from where and why."""


class Hosts:
    """The registry. :meth:`get` and :meth:`all` may be called from any thread, the
    rest belongs to one."""

    def __init__(self, config: DispatcherConfig) -> None:
        self._config = config
        self._hosts: Mapping[str, Host] = {}  # replaced, never changed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="hosts")
        self._file_stamp: object = None
        self._script: subprocess.Popen | None = None

    def get(self, hostname: str) -> Host | None:
        return self._hosts.get(hostname)

    def all(self) -> list[Host]:
        """Return all hosts, by name."""
        return sorted(self._hosts.values())

    def start(self) -> None:
        """Read the hosts for the first time, and go on doing so."""
        if not self.refresh() and self._config.hosts_cache is not None:
            self._read_cache(self._config.hosts_cache)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._kill_script()
        if self._thread.ident is not None:
            self._thread.join()

    def refresh(self) -> bool:
        """Read the hosts again. If that fails, they stay as they are.

        :returns: whether they could be read
        """
        try:
            if self._config.hosts_script is not None:
                source = self._config.hosts_script
                output = self._run_script(source)
            elif self._config.hosts_file is not None:
                source = self._config.hosts_file
                self._file_stamp = _stamp(source)
                output = _read(source)
            else:
                return True
        except HostsError as error:
            logger.error("hosts stay as they are %s", fields(error=str(error)))
            return False
        self._replace(parse_hosts(output, source))
        if self._config.hosts_script is not None and self._config.hosts_cache:
            _write_cache(self._config.hosts_cache, output)
        return True

    def _replace(self, hosts: Mapping[str, Host]) -> None:
        before, self._hosts = self._hosts, hosts
        came = sorted(hosts.keys() - before.keys())
        went = sorted(before.keys() - hosts.keys())
        changed = sorted(
            name for name in hosts.keys() & before.keys() if hosts[name] != before[name]
        )
        if came or went or changed:
            logger.info(
                "hosts %s",
                fields(known=len(hosts), came=came, went=went, changed=changed),
            )

    def _keep_fresh(self) -> None:
        interval = self._config.hosts_refresh
        if self._config.hosts_script is None:
            interval = _FILE_CHECK_SECONDS
        while not self._stopping.wait(interval):
            try:
                if self._has_changed():
                    self.refresh()
            except Exception:
                logger.exception("fault in the dispatcher, hosts stay as they are")

    def _has_changed(self) -> bool:
        """Only running a script tells."""
        path = self._config.hosts_file
        return self._config.hosts_script is not None or (
            path is not None and _stamp(path) != self._file_stamp
        )

    def _read_cache(self, path: str) -> None:
        try:
            self._replace(parse_hosts(_read(path), path))
        except HostsError as error:
            logger.error("no hosts from the cache either %s", fields(error=str(error)))
            return
        logger.warning("hosts are those of the cache %s", fields(path=path))

    def _run_script(self, path: str) -> bytes:
        try:
            process = subprocess.Popen(
                [path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that it can be killed with its children
            )
        except OSError as error:
            raise HostsError(f"{path}: {error.strerror}") from None
        with process:
            self._script = process
            if self._stopping.is_set():
                self._kill_script()
            try:
                output, errors = process.communicate(timeout=self._config.hosts_timeout)
            except subprocess.TimeoutExpired:
                self._kill_script()
                raise HostsError(
                    f"{path}: killed after {self._config.hosts_timeout} s"
                ) from None
            finally:
                self._script = None
        for line in errors.decode("utf-8", "replace").splitlines():
            logger.info("hosts script says %s", fields(script=path, line=line))
        if process.returncode != 0:
            raise HostsError(f"{path}: exit status {process.returncode}")
        return output

    def _kill_script(self) -> None:
        """Kill the script with whatever it has started."""
        script = self._script
        # Once it has been waited for, its number may be another's.
        if script is not None and script.returncode is None:
            try:
                os.killpg(script.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def parse_hosts(output: bytes, source: str) -> dict[str, Host]:
    """Return the hosts that the lines of a registry name; a line that is none is
    logged and skipped. Of two lines for one host, the later counts."""
    hosts = {}
    for number, line in enumerate(output.splitlines(), 1):
        if not line.strip():
            continue
        try:
            host = parse_host(line)
        except Refusal as refusal:
            # Never the line itself: it holds a password.
            logger.warning(
                "line of the hosts is skipped %s",
                fields(source=source, line=number, reason=refusal.message),
            )
            continue
        hosts[host.hostname] = host
    return hosts


def parse_host(line: bytes) -> Host:
    """Return the host that a line of the registry describes.

    :raises Refusal: if it describes none
    """
    message = wire.decode(line)
    credentials = protocol.field(message, "credentials", dict)
    hostname = protocol.field(message, "hostname", str)
    address = protocol.field(message, "address", str)
    port = protocol.optional(message, "port", int)
    fingerprint = protocol.optional(message, "cert_sha256", str)
    host = Host(
        hostname,
        address,
        protocol.DAEMON_PORT if port is None else port,
        protocol.field(credentials, "user", str, "credentials."),
        protocol.field(credentials, "password", str, "credentials."),
        None if fingerprint is None else parse_fingerprint(fingerprint),
        protocol.optional(message, "tls_name", str) or hostname,
    )
    if not hostname or not address:
        raise Refusal(INVALID_REQUEST, '"hostname" and "address" must not be empty')
    if "\0" in address:  # the system would take what is before it for the name
        raise Refusal(INVALID_REQUEST, '"address" must not contain a NUL')
    if not 0 < host.port < 65536:
        raise Refusal(INVALID_REQUEST, '"port" must be from 1 to 65535')
    return host


def parse_fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint as lower-case hex. Colons between the bytes, as
    ``openssl x509 -fingerprint`` writes them, are taken.

    :raises Refusal: if it is none
    """
    fingerprint = text.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise Refusal(
            INVALID_REQUEST, f"a SHA-256 fingerprint has 64 hex digits: {text[:80]!a}"
        )
    return fingerprint


def _stamp(path: str) -> object:
    """What changes when a file does; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise HostsError(f"{path}: {error.strerror}") from None


def _write_cache(path: str, output: bytes) -> None:
    new = path + ".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        # It holds credentials: nobody else may read it, not even for a moment.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        fd = os.open(new, flags, 0o600)
        with open(fd, "wb") as file:
            file.write(output)
            file.flush()
            os.fsync(fd)
        os.rename(new, path)
    except OSError as error:
        logger.warning(
            "can't write the hosts' cache %s", fields(path=path, error=error.strerror)
        )
