"""A real harpd for tests, and a caller that speaks to it in bytes."""

import contextlib
import json
import os
import socket
import ssl
import sys
from pathlib import Path

import pytest
from harp import testing, wire

TOP = Path(__file__).resolve().parents[1]
HARPD = [sys.executable, str(TOP / "sbin" / "harpd")]
PROCEDURES = TOP / "t" / "daemon_procedures.py"
USER, PASSWORD = "caller", "correct horse"
_SECONDS = 20


class Harpd(testing.Program):
    """harpd on a free port, with a configuration and a log in a directory."""

    def __init__(self, directory, certificate, procedures=PROCEDURES, changes=None):
        self.directory = Path(directory)
        self.config_file = self.directory / "harpd.toml"
        self.write_config(certificate, changes or {})
        super().__init__(
            HARPD + ["-c", self.config_file, "-r", procedures],
            self.directory / "harpd.log",
        )

    def write_config(self, certificate, changes) -> None:
        config = {
            "listen": ["127.0.0.1:0"],
            "tls": {"certificate": certificate.certificate, "key": certificate.key},
            "users": {USER: f"plain:{PASSWORD}"},
            "auth": {"failure_delay": 0.001},
            "procedures": {},
            "limits": {"standby": 2, "kill_grace": 0.5},
        }
        if os.getuid() == 0:
            config["procedures"]["user"] = "root"
        for key, value in changes.items():
            if isinstance(value, dict):
                value = config.get(key, {}) | value
            config[key] = value
        self.config_file.touch(mode=0o600)  # there are passwords in it
        self.config_file.write_text(testing.to_toml(config))

    @property
    def port(self) -> int:
        return int(self.addresses[0].rpartition(":")[2])

    def spawner(self) -> int:
        """Return the spawner's pid."""
        (pid,) = children_of(self.pid)
        return pid

    def connect(self) -> "Caller":
        return Caller(self.port)

    def begin(self, procedure, *positional, **named) -> "Caller":
        """Return a connection on which that call has been asked for."""
        caller = self.connect()
        caller.send_message(request(procedure, named or list(positional)))
        return caller

    def call(self, procedure, *positional, **named) -> list[dict]:
        """Return all messages of a call."""
        with self.begin(procedure, *positional, **named) as caller:
            return caller.messages()

    def end(self, procedure, *positional, **named) -> dict:
        """Return the last message of a call."""
        return self.call(procedure, *positional, **named)[-1]


class Caller:
    """A connection to harpd, TLS unless said otherwise."""

    def __init__(self, port, tls=True):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        # Or each request would wait for the end of the handshake to be acknowledged.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock)
        self._file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_message(self, message) -> None:
        self.send(wire.encode(message))

    def message(self) -> dict | None:
        """Return the next message, None at the end."""
        line = self._file.readline()
        assert line == b"" or line.endswith(b"\n"), line[-100:]
        return json.loads(line) if line else None

    def messages(self) -> list[dict]:
        """Return all messages up to the end of the connection."""
        return list(iter(self.message, None))

    def half_close(self) -> None:
        socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def request(procedure, arguments=(), user=USER, password=PASSWORD, **more) -> dict:
    return {
        "harp": 1,
        "procedure": procedure,
        "arguments": arguments if isinstance(arguments, dict) else list(arguments),
        "auth": {"user": user, "password": password},
        **more,
    }


def error_of(message: dict) -> tuple[str, str]:
    """Return type and text of an error message, which must have just the right keys."""
    assert message.keys() == {"harp", "error"}, message
    assert message["harp"] == 1
    error = message["error"]
    assert error.keys() - {"data"} == {"type", "message"}
    return error["type"], error["message"]


def children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found


def descendants_of(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(FileNotFoundError):  # it has just ended
        found += children_of(pid)
    for child in found.copy():
        found += descendants_of(child)
    return found


def call_processes(daemon, procedure: str) -> list[int]:
    """Return the pids of that procedure's calls."""
    return [
        pid
        for pid in children_of(daemon.spawner())
        if Path(f"/proc/{pid}/comm").read_text() == procedure[:15] + "\n"
    ]


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture(scope="session")
def harpd(tmp_path_factory, certificate):
    """A daemon for all tests that don't disturb it."""
    program = Harpd(tmp_path_factory.mktemp("harpd"), certificate)
    program.start()
    yield program
    assert program.stop() == 0
    assert "Traceback" not in program.log()


@pytest.fixture
def make_harpd(request, tmp_path, certificate):
    """``make_harpd(file=..., **changes)`` starts a daemon for this test alone;
    ``start=False`` leaves that to the test."""

    def make(file=PROCEDURES, start=True, **changes):
        directory = tmp_path / f"harpd-{len(made)}"
        directory.mkdir()
        program = Harpd(directory, certificate, file, changes)
        made.append(program)
        request.addfinalizer(program.stop)
        if start:
            program.start()
        return program

    made: list = []
    return make


needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become another user"
)
