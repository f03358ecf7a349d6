"""A listening socket and a thread for each connection."""

import contextlib
import errno
import os
import select
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from harp import server
from harp.address import Address

LOCAL = Address("127.0.0.1", 0)
NEVER = 30  # s


def echo(sock: socket.socket, _peer: object) -> None:
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)


class Running:
    """A server that is stopped when the test has ended."""

    def __init__(self, address=LOCAL, serve=echo, max_connections=100, **options):
        self.server = server.Server(
            address, serve, name="test", max_connections=max_connections, **options
        )
        self.server.start()
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        address = self.server.address
        if address.path is None:
            client = socket.create_connection(self.server.server_address[:2])
        else:
            client = socket.socket(socket.AF_UNIX)
            client.connect(address.path)
        client.settimeout(NEVER)
        self.clients.append(client)
        return client

    def stop(self) -> None:
        self.server.stop_accepting()
        for client in self.clients:
            client.close()
        assert self.server.join(time.monotonic() + NEVER) == []


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:

        def start(*args, **options):
            running = Running(*args, **options)
            stack.callback(running.stop)
            return running

        yield start


def is_served(client: socket.socket) -> bool:
    client.sendall(b"hello")
    return client.recv(100) == b"hello"


# --- where it listens ---------------------------------------------------------------


def test_port_0_takes_a_free_one_and_says_which(start):
    one, other = start(), start()
    assert one.server.address.port != other.server.address.port != 0
    assert str(one.server.address) == f"127.0.0.1:{one.server.address.port}"
    assert is_served(one.connect())


@pytest.mark.parametrize(
    ("host", "reached_at"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("*", "127.0.0.1"),
     ("*", "::1"), ("::1", "::1"), ("::", "::1")],
)  # fmt: skip
def test_it_is_reached_where_it_listens(start, host, reached_at):
    if ":" in reached_at and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    port = start(Address(host, 0)).server.address.port
    with socket.create_connection((reached_at, port), timeout=NEVER) as client:
        assert is_served(client)


def test_port_in_use_is_an_error_that_names_it(start):
    address = start().server.address
    with pytest.raises(OSError, match=f"can't listen on {address}: Address") as caught:
        server.Server(address, echo, name="x", max_connections=1)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    "address",
    [
        Address("host.invalid", 0),
        Address("a..b", 0),
        Address("192.0.2.1", 0),
        Address(None, 0, "/nonexistent/socket"),
        Address(None, 0, "/" + "x" * 200),
    ],
)
def test_address_that_cannot_be_had_is_an_error_that_names_it(address):
    with pytest.raises(OSError) as caught:
        server.Server(address, echo, name="x", max_connections=1)
    text = str(caught.value)
    assert f"can't listen on {address}: " in text
    assert "None" not in text


def test_tcp_connections_have_no_delay_and_keepalive(start):
    seen = []

    def look(sock, _):
        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    client = start(serve=look).connect()
    assert client.recv(1) == b""
    assert len(seen) == 2 and all(seen)


# --- Unix sockets -------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_unix_socket_has_its_mode_whatever_the_umask(start, path, mode):
    old = os.umask(0o027)
    try:
        running = start(Address(None, 0, path), mode=mode)
    finally:
        assert os.umask(old) == 0o027
    assert stat.S_IMODE(os.stat(path).st_mode) == mode
    assert is_served(running.connect())


def test_unix_socket_is_removed_at_the_end(path):
    running = Running(Address(None, 0, path))
    assert is_served(running.connect())
    running.stop()
    assert not os.path.exists(path)


def test_socket_that_a_killed_server_left_is_replaced(start, path):
    # given
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
        left.listen()
    assert os.path.exists(path)
    # then
    assert is_served(start(Address(None, 0, path)).connect())


def test_socket_of_a_live_server_is_left_alone(start, path):
    running = start(Address(None, 0, path))
    with pytest.raises(OSError, match="another process listens there") as caught:
        server.Server(Address(None, 0, path), echo, name="x", max_connections=1)
    assert caught.value.errno == errno.EADDRINUSE
    assert path in str(caught.value)
    assert is_served(running.connect())


def test_socket_of_a_server_that_is_too_busy_to_answer_is_left_alone(path):
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as one:
        busy.bind(path)
        busy.listen(0)
        one.connect(path)
        with pytest.raises(OSError, match="another process listens there"):
            server.Server(Address(None, 0, path), echo, name="x", max_connections=1)
        assert os.path.exists(path)


@pytest.mark.parametrize("make", [os.mkdir, lambda path: open(path, "w").close()])
def test_file_that_is_no_socket_is_left_alone(path, make):
    make(path)
    with pytest.raises(OSError, match="a file of that name exists"):
        server.Server(Address(None, 0, path), echo, name="x", max_connections=1)
    assert os.path.exists(path)


# --- connections --------------------------------------------------------------------


def test_connections_are_served_at_the_same_time_by_threads_with_names(start):
    together = threading.Barrier(3)
    names = []

    def serve(sock, _):
        together.wait(NEVER)
        names.append(threading.current_thread().name)

    running = start(serve=serve)
    for client in [running.connect() for _ in range(3)]:
        assert client.recv(1) == b""
    assert len(set(names)) == 3
    assert all(name.startswith("test-") for name in names)


def test_thread_and_descriptor_of_a_connection_are_gone_with_it(start, wait_for):
    running = start()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        client = running.connect()
        assert is_served(client)
        client.close()
    wait_for(lambda: running.server.connections == 0)
    wait_for(lambda: len(os.listdir("/proc/self/fd")) == before)
    wait_for(lambda: threading.active_count() == 2)


def test_connection_that_fails_is_logged_and_harms_no_other(start, caplog):
    def serve(sock, peer):
        if sock.recv(1) == b"x":
            raise ValueError("on purpose")
        echo(sock, peer)

    running = start(serve=serve)
    other = running.connect()
    other.sendall(b"o")
    failing = running.connect()
    failing.sendall(b"x")
    assert failing.recv(1) == b""
    assert is_served(other)
    assert is_served_after(running.connect(), b"o")
    assert "on purpose" in caplog.text and "Traceback" in caplog.text


def is_served_after(client: socket.socket, first: bytes) -> bool:
    client.sendall(first)
    return is_served(client)


def test_connection_that_is_reset_before_it_is_served_is_no_error(start, caplog):
    running = start(serve=lambda sock, _: sock.close())
    for _ in range(50):
        client = running.connect()
        client.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )
        client.close()
    assert running.connect().recv(1) == b""
    assert caplog.text == ""


def test_accepting_pauses_at_max_connections(start):
    # given
    running = start(max_connections=2)
    served = [running.connect() for _ in range(2)]
    assert all(is_served(client) for client in served)
    # when
    third = running.connect()
    third.sendall(b"hello")
    # then
    assert not select.select([third], [], [], 0.1)[0]
    served[0].close()
    assert third.recv(100) == b"hello"
    assert running.server.connections <= 2


# --- the end ------------------------------------------------------------------------


@pytest.mark.parametrize("max_connections", [1, 10])
def test_stop_is_immediate_and_connections_go_on(max_connections):
    # given
    running = Running(max_connections=max_connections)
    client = running.connect()
    assert is_served(client)
    # when
    start = time.monotonic()
    running.server.stop_accepting()
    # then
    assert time.monotonic() - start < 5
    assert is_served(client)
    with pytest.raises(ConnectionRefusedError):
        running.connect()
    assert len(running.server.join(time.monotonic())) == 1
    client.close()
    assert running.server.join(time.monotonic() + NEVER) == []


def test_server_that_was_never_started_can_be_stopped():
    never = server.Server(LOCAL, echo, name="test", max_connections=1)
    never.stop_accepting()
    assert never.join(time.monotonic()) == []


def test_stop_right_after_start_ends_too():
    for _ in range(100):
        running = Running()
        running.stop()


def test_join_names_what_is_stuck_and_keeps_to_its_deadline():
    # given
    release = threading.Event()
    running = Running(serve=lambda sock, _: (sock.send(b"x"), release.wait(NEVER)))
    assert running.connect().recv(1) == b"x"
    running.server.stop_accepting()
    # when
    stuck = running.server.join(time.monotonic() + 0.1)
    # then
    assert len(stuck) == 1 and stuck[0].startswith("test-")
    release.set()
    assert running.server.join(time.monotonic() + NEVER) == []
    running.clients[0].close()


# --- out of descriptors -------------------------------------------------------------

STARVING = """
import logging, os, resource, sys, time
from harp import server
from harp.address import Address
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
used = len(os.listdir("/proc/self/fd")) - 1
limit = used + 12

def echo(sock, _):
    while data := sock.recv(100):
        sock.sendall(data)

running = server.Server(
    Address("127.0.0.1", 0), echo, name="test", max_connections=1000)
running.start()
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
print(running.address.port, flush=True)
sys.stdin.read()
running.stop_accepting()
assert running.join(time.monotonic() + 20) == []
print("stopped", os.times().user < 5)
"""


def test_out_of_descriptors_accepting_pauses_and_recovers():
    # given: a server that may have a few descriptors
    with subprocess.Popen(
        [sys.executable, "-c", STARVING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process, contextlib.ExitStack() as stack:
        port = int(process.stdout.readline())
        # when: more connect
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), NEVER))
            for _ in range(40)
        ]
        # then: it says so once
        log = process.stdout.readline()
        assert log.startswith("ERROR out of resources, accepting pauses")
        assert f"127.0.0.1:{port}" in log
        # and when some leave, all others are served in the end, with no restart
        for number, client in enumerate(clients):
            assert is_served(client), number
            client.close()
        process.stdin.close()
        rest = process.stdout.read().splitlines()
        assert rest[-1] == "stopped True"
        assert len(rest) < 40
    assert process.returncode == 0
