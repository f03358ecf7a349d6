"""A real harpcallerd for tests, a client that speaks to it in bytes, and daemons that
do what a script says."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import peers
from harp import testing

TOP = Path(__file__).resolve().parents[1]
HARPCALLERD = [sys.executable, str(TOP / "sbin" / "harpcallerd")]
HOST = "web01"
USER, PASSWORD = "harp", "correct horse"
_SECONDS = 30

ACKNOWLEDGED = {"harp": 1, "stream_result": False}
ACKNOWLEDGED_STREAM = {"harp": 1, "stream_result": True}


def to_line(message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def harpcallerd(*arguments, **options) -> subprocess.CompletedProcess:
    """Run the command to its end."""
    done = subprocess.run(
        [*HARPCALLERD, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        **options,
    )
    assert "Traceback" not in done.stderr
    return done


class Client:
    """A connection to a dispatcher. A context manager."""

    def __init__(self, address, receive_buffer=None) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(_SECONDS)
        try:
            self.sock.connect(address)
        except OSError:
            self.sock.close()
            raise
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def send(self, *messages) -> None:
        self.send_bytes(b"".join(map(to_line, messages)))

    def send_bytes(self, data: bytes) -> None:
        self.sock.sendall(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def line(self) -> bytes:
        """Return the next line; nothing at the end."""
        return self._file.readline()

    def reply(self) -> dict:
        line = self.line()
        assert line.endswith(b"\n"), f"no whole line: {line[:200]!r}"
        return json.loads(line)

    def ask(self, message) -> dict:
        self.send(message)
        return self.reply()

    def rest(self) -> list[dict]:
        """Return all replies until the dispatcher closes."""
        return [json.loads(line) for line in self._file]

    def stream(self) -> tuple[list[dict], dict]:
        """Return the packets that come, and the line that is none."""
        packets = []
        while "packet" in (message := self.reply()):
            packets.append(message)
        return packets, message


class TlsClient(Client):
    """A client that speaks TLS."""

    def __init__(self, address, context) -> None:
        with socket.create_connection(address, _SECONDS) as plain:
            self.sock = context.wrap_socket(plain, server_hostname="localhost")
        self._file = self.sock.makefile("rb")


def request(operation=None, value=None, **keys) -> dict:
    message = {"harpcaller": 1, **keys}
    if operation is not None:
        message[operation] = value
    return message


def call_request(procedure="echo", *arguments, host=HOST, **keys) -> dict:
    return request(host=host, procedure=procedure, arguments=list(arguments), **keys)


def host_entry(address, hostname=HOST, **more) -> dict:
    host, port = address
    credentials = {"user": USER, "password": PASSWORD}
    return {
        "hostname": hostname,
        "address": host,
        "port": port,
        "credentials": credentials,
    } | more


class Dispatcher(testing.Program):
    """harpcallerd in a directory of its own, on a free port and a Unix socket.

    :param hosts: entries of its registry
    :param changes: what its configuration has beside what it needs
    """

    def __init__(self, directory, hosts=(), **changes) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(exist_ok=True)
        self.jobs = self.directory / "jobs"
        self.config_file = self.directory / "harpcaller.toml"
        self._port = 0
        self._changes = changes
        self.write_hosts(hosts)
        super().__init__(
            [*HARPCALLERD, "-c", self.config_file], self.directory / "harpcallerd.log"
        )

    def write_hosts(self, hosts) -> None:
        new = self.directory / "hosts.new"
        new.touch(mode=0o600)  # there are passwords in it
        new.write_bytes(b"".join(map(to_line, hosts)))
        new.rename(self.directory / "hosts")

    def start(self, timeout: float = 15) -> None:
        self.write_config()
        super().start(timeout)
        if self.addresses[0].startswith("127."):
            self._port = int(self.addresses[0].rpartition(":")[2])

    def write_config(self) -> None:
        config = {
            "listen": [
                {"address": f"127.0.0.1:{self._port}", "anonymous": True},
                {"address": f"unix:{self.directory}/client"},
            ],
            "admin_socket": f"{self.directory}/control",
            "stream_directory": self.jobs,
            "hosts": {"file": self.directory / "hosts"},
            "limits": {},
        }
        for key, value in self._changes.items():
            if isinstance(value, dict):
                value = config.get(key, {}) | value
            config[key] = value
        self.config_file.touch(mode=0o600)  # there may be passwords in it
        self.config_file.write_text(testing.to_toml(config))

    def configure(self, **changes) -> None:
        """Change the configuration of the next start, or of :meth:`write_config`."""
        self._changes = self._changes | changes

    # --- asking it ---

    def connect(self, **options) -> Client:
        return Client(("127.0.0.1", self._port), **options)

    def connect_unix(self, name="client") -> Client:
        return Client(f"{self.directory}/{name}")

    def ask(self, message) -> dict:
        with self.connect() as client:
            return client.ask(message)

    def call(self, *arguments, **keys) -> str:
        """Submit a call and return its job id."""
        reply = self.ask(call_request(*arguments, **keys))
        assert "job_id" in reply, reply
        return reply["job_id"]

    def result(self, job_id, wait=True) -> dict:
        return self.ask(request("get_result", job_id, wait=wait))

    def status(self, job_id) -> dict:
        return self.ask(request("get_status", job_id))

    def state(self, job_id) -> str:
        return self.status(job_id)["state"]

    def cancel(self, job_id) -> dict:
        return self.ask(request("cancel", job_id))

    def cancel_all(self) -> None:
        for state in ("queued", "running"):
            for job in self.ask(request("list_jobs", {"state": state}))["jobs"]:
                self.cancel(job["job_id"])

    def command(self, *arguments) -> subprocess.CompletedProcess:
        """Run an action of harpcallerd."""
        return harpcallerd("-c", self.config_file, *arguments)

    def admin(self, operation) -> dict:
        with self.connect_unix("control") as client:
            return client.ask(request(operation, True))

    # --- looking at its files ---

    def path(self, job_id) -> Path:
        """Where the file of a job that hasn't ended is."""
        return self.jobs / "active" / f"{job_id}.jsonl"

    def done_path(self, job_id) -> Path:
        """Where the file of an ended job is; it moves there after its end is shown."""
        deadline = time.monotonic() + _SECONDS
        while self.path(job_id).exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        [path] = (self.jobs / "done").glob(f"*/{job_id}.jsonl")
        return path

    def file(self, job_id) -> list[dict]:
        """Return the lines of an ended job's file."""
        data = self.done_path(job_id).read_bytes()
        assert data.endswith(b"\n")
        return [json.loads(line) for line in data.splitlines()]

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))


class Daemon:
    """Daemons on one port; which procedure is called says what one does: see
    :attr:`scripts`.

    :ivar scripts: from procedures to functions, called with the connection
        (:class:`peers.PeerConnection`) and the request
    :ivar requests: all that came
    :ivar released: event that scripts may wait for; set at the end of each test
    """

    def __init__(self, context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._serving = 0
        self.reset()
        self._peer = peers.ScriptedPeer(self._serve)
        self.address = self._peer.address

    def reset(self) -> None:
        self.scripts = {"echo": echo, "wait": wait_for_end, "count": count}
        self.requests = []
        self.released = threading.Event()

    @property
    def serving(self) -> int:
        """Connections there are."""
        with self._lock:
            return self._serving

    def called(self, procedure) -> int:
        """How often a procedure was called."""
        return sum(request["procedure"] == procedure for request in self.requests)

    def stop(self) -> None:
        self.released.set()
        self._peer.stop()

    def _serve(self, plain: peers.PeerConnection) -> None:
        with self._lock:
            self._serving += 1
        try:
            try:
                sock = self._context.wrap_socket(plain.sock, server_side=True)
            except OSError:
                return  # the dispatcher doesn't like us, or has gone
            with sock:
                self._serve_call(peers.PeerConnection(sock, plain._stopped))
        finally:
            with self._lock:
                self._serving -= 1

    def _serve_call(self, connection: peers.PeerConnection) -> None:
        # The dispatcher may cancel or be killed at any moment.
        with contextlib.suppress(OSError):
            line = connection.readline()
            if line:
                received = json.loads(line)
                self.requests.append(received)
                self.scripts[received["procedure"]](connection, received)


def send(connection, *messages) -> None:
    connection.send(b"".join(map(to_line, messages)))


def echo(connection, received) -> None:
    send(connection, ACKNOWLEDGED, {"result": received["arguments"]})


def wait_for_end(connection, received) -> None:
    """Acknowledge, and do nothing until the dispatcher closes."""
    send(connection, ACKNOWLEDGED)
    connection.read_to_end()


def count(connection, received) -> None:
    """Stream 0 to n - 1 and return n."""
    [n] = received["arguments"]
    send(connection, ACKNOWLEDGED_STREAM)
    for begin in range(0, n, 100):
        send(connection, *({"stream": k} for k in range(begin, min(begin + 100, n))))
    send(connection, {"result": n})
