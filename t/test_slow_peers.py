"""Clients and daemons by the hundred that are slow, or do nothing at all: whoever is
in order is served meanwhile, and a limit of time or number gets rid of the others."""

import contextlib
import json
import selectors
import socket
import ssl
import threading

import daemon_setup
import peers
import pytest
from attacks import Unharmed, client_hello
from daemon_setup import make_harpd  # noqa: F401
from dispatchers import (
    ACKNOWLEDGED,
    ACKNOWLEDGED_STREAM,
    Client,
    Daemon,
    Dispatcher,
    TlsClient,
    call_request,
    host_entry,
    request,
    send,
)
from harp import wire
from test_dispatcher_limits import until_closed

LIMIT = 2  # s that each of these peers is put up with
DEADLINE = 40  # s for whatever must come true
NUMBERS = [100, pytest.param(300, marks=pytest.mark.slow)]
USERS = {"panel": "plain:sesame"}
PANEL = {"user": "panel", "password": "sesame"}

PROCEDURES = '''
from harp import procedure, streaming_procedure


@procedure
def echo(value):
    return value


@streaming_procedure
def flood():
    while True:
        yield "x" * 10_000
'''


class Drips:
    """Connections that each send one byte of something now and then, and read what
    they get; in a thread of its own."""

    PAUSE = 0.1  # s

    def __init__(self, connections: dict[socket.socket, bytes]) -> None:
        self._connections = connections
        self.received = {sock: b"" for sock in connections}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drips")

    def __enter__(self) -> "Drips":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopped.set()
        self._thread.join()
        for sock in self._connections:
            sock.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock, data in self._connections.items():
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ, iter(data))
            while selector.get_map() and not self._stopped.wait(self.PAUSE):
                self._look(selector)

    def _look(self, selector) -> None:
        for key, _ in selector.select(0):
            try:
                data = key.fileobj.recv(65536)
            except ConnectionError:
                data = b""
            self.received[key.fileobj] += data
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
        for key in list(selector.get_map().values()):
            byte = next(key.data, None)
            if byte is not None:
                with contextlib.suppress(OSError):
                    key.fileobj.send(bytes([byte]))

    @property
    def are_over(self) -> bool:
        """Whether the other side has closed all of them."""
        return not self._thread.is_alive()


def connect(port: int, count: int, **options) -> list[socket.socket]:
    made = []
    for _ in range(count):
        sock = socket.socket()
        if "receive_buffer" in options:
            size = options["receive_buffer"]
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        sock.settimeout(DEADLINE)
        sock.connect(("127.0.0.1", port))
        made.append(sock)
    return made


@contextlib.contextmanager
def closing(sockets: list[socket.socket]):
    try:
        yield
    finally:
        for sock in sockets:
            sock.close()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


# --- clients of the dispatcher ------------------------------------------------------


@pytest.fixture
def daemon(server_context):
    daemon = Daemon(server_context)
    yield daemon
    daemon.stop()


@pytest.fixture
def make_dispatcher(request, tmp_path, daemon, certificate):
    """``make_dispatcher(*hosts, **changes)`` starts one that knows these hosts too."""

    def make(*hosts, **changes):
        entry = host_entry(daemon.address, cert_sha256=certificate.sha256)
        made = Dispatcher(tmp_path / "d", [entry, *hosts], **changes)
        made.start()
        request.addfinalizer(made.stop)
        return made

    return make


def serves(dispatcher, number) -> bool:
    """Tell whether a normal client gets its call carried out."""
    with dispatcher.connect() as client:
        client.sock.settimeout(DEADLINE)
        job_id = client.ask(call_request("echo", number))["job_id"]
        return client.ask(request("get_result", job_id)) == {"result": [number]}


@pytest.mark.parametrize("count", NUMBERS)
def test_clients_that_drip_or_take_nothing_are_dropped_and_hold_up_nobody(
    make_dispatcher, daemon, wait_for, count
):
    def stream_much(connection, received):
        send(connection, ACKNOWLEDGED_STREAM)
        for _ in range(40):
            send(connection, {"stream": "x" * 100_000})
        daemon.released.wait()
        send(connection, {"result": None})

    daemon.scripts["stream"] = stream_much
    dispatcher = make_dispatcher(
        limits={"request_timeout": LIMIT, "send_timeout": LIMIT}
    )
    job_id = dispatcher.call("stream")
    wait_for(lambda: dispatcher.status(job_id)["packets"] == 40, DEADLINE)
    unharmed = Unharmed(dispatcher, wait_for)
    port = port_of(dispatcher.addresses[0])
    line = wire.encode(call_request("echo", "x" * 100_000))
    deaf = connect(port, count, receive_buffer=4096)
    with closing(deaf), Drips({sock: line for sock in connect(port, count)}) as drips:
        for number, sock in enumerate(deaf):
            operation = "read_stream" if number % 2 else "follow_stream"
            sock.sendall(wire.encode(request(operation, job_id, since=0)))
        assert all(serves(dispatcher, number) for number in range(10))
        with dispatcher.connect() as follower:
            follower.send(request("follow_stream", job_id, since=0))
            daemon.released.set()
            packets, end = follower.stream()
        assert len(packets) == 40 and end == {"result": None}
        wait_for(lambda: drips.are_over, DEADLINE)
        unharmed.check()
    for received in drips.received.values():
        error = json.loads(received)["error"]
        assert error["type"] == "invalid_request"
        assert error["message"].startswith("no whole request in")


def lists_hosts(port, context) -> bool:
    """As :func:`serves`, by TLS; may be too slow itself where much is going on."""
    try:
        with TlsClient(("127.0.0.1", port), context) as client:
            return "hosts" in client.ask(request("list_hosts", True, auth=PANEL))
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 300])
def test_handshakes_that_drip_give_way_to_who_authenticates(
    make_dispatcher, wait_for, client_context, certificate, count
):
    dispatcher = make_dispatcher(
        listen=[
            {"address": "127.0.0.1:0", "anonymous": True},
            {"address": "127.0.0.1:0", "tls": True},
        ],
        tls={"certificate": certificate.certificate, "key": certificate.key},
        users=USERS,
        limits={"unauthenticated": 20, "handshake_timeout": LIMIT},
    )
    unharmed = Unharmed(dispatcher, wait_for)
    port = port_of(dispatcher.addresses[1])
    hello = client_hello()
    with Drips({sock: hello for sock in connect(port, count)}) as drips:
        for _ in range(3):
            wait_for(lambda: lists_hosts(port, client_context), DEADLINE)
        wait_for(lambda: drips.are_over, DEADLINE)
    unharmed.check()


# --- callers of harpd ---------------------------------------------------------------


def carries_out(harpd, number) -> bool:
    """Tell whether a normal call is; it may be too slow itself where much is going
    on."""
    try:
        return harpd.end("echo", number) == {"result": number}
    except OSError:
        return False


@pytest.fixture
def slow_harpd(make_harpd, tmp_path):  # noqa: F811
    procedures = tmp_path / "procedures.py"
    procedures.write_text(PROCEDURES)
    times = ("handshake_timeout", "request_timeout", "send_timeout")
    limits = {name: LIMIT for name in times}
    return make_harpd(procedures, limits={"standby": 2, "kill_grace": 0.5} | limits)


@pytest.mark.parametrize(
    "dripping, deaf", [(100, 20), pytest.param(300, 200, marks=pytest.mark.slow)]
)
def test_callers_that_drip_or_take_nothing_are_dropped_and_hold_up_nobody(
    slow_harpd, wait_for, dripping, deaf
):
    assert slow_harpd.end("echo", 1) == {"result": 1}
    unharmed = Unharmed(slow_harpd, wait_for)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    line, hello = wire.encode(daemon_setup.request("flood", [])), client_hello()
    dripped = connect(slow_harpd.port, dripping)
    with contextlib.ExitStack() as stack:
        drips = stack.enter_context(Drips({sock: hello for sock in dripped}))
        for _ in range(deaf):
            [plain] = connect(slow_harpd.port, 1, receive_buffer=4096)
            with contextlib.suppress(OSError):  # it may be too slow itself
                caller = stack.enter_context(context.wrap_socket(plain))
                caller.sendall(line)
        for number in range(10):
            wait_for(lambda: carries_out(slow_harpd, number), DEADLINE)
        wait_for(lambda: drips.are_over, DEADLINE)
        unharmed.check()


# --- daemons ------------------------------------------------------------------------


def drip(connection, data: bytes) -> None:
    """Send the last of it again and again, one byte each time."""
    connection.send(data[:-1])
    until_closed(connection, data[-1:], 200)


SLOW_DAEMONS = [
    lambda connection: drip(connection, b" "),
    lambda connection: drip(connection, wire.encode(ACKNOWLEDGED) + b'{"result":"x'),
    lambda connection: drip(connection, wire.encode(ACKNOWLEDGED_STREAM) + b" "),
    lambda connection: connection.read_to_end(),
]


@pytest.mark.parametrize("count", [100, pytest.param(200, marks=pytest.mark.slow)])
def test_slow_daemons_end_their_jobs_in_time_and_hold_up_no_other_host(
    make_dispatcher, wait_for, server_context, certificate, count
):
    def serve(plain: peers.PeerConnection) -> None:
        with contextlib.suppress(OSError):
            with server_context.wrap_socket(plain.sock, server_side=True) as sock:
                connection = peers.PeerConnection(sock, plain._stopped)
                [number] = json.loads(connection.readline())["arguments"]
                SLOW_DAEMONS[number % len(SLOW_DAEMONS)](connection)

    slow, deaf = peers.ScriptedPeer(serve), socket.create_server(("127.0.0.1", 0))
    pin = certificate.sha256
    dispatcher = make_dispatcher(
        host_entry(slow.address, "slow", cert_sha256=pin),
        host_entry(deaf.getsockname(), "deaf", cert_sha256=pin),
        limits={"connect_timeout": LIMIT, "cancel_grace": 0.5},
        default_timeout=LIMIT,
        default_max_exec_time=2 * LIMIT,
    )
    try:
        unharmed = Unharmed(dispatcher, wait_for)
        with Client(("127.0.0.1", port_of(dispatcher.addresses[0]))) as client:
            hosts = ["deaf" if n % 5 == 4 else "slow" for n in range(count)]
            client.send(
                *(call_request("x", n, host=host) for n, host in enumerate(hosts))
            )
            jobs = [client.reply()["job_id"] for _ in hosts]
            assert all(serves(dispatcher, number) for number in range(10))
            client.sock.settimeout(DEADLINE)
            for host, job_id in zip(hosts, jobs):
                error = client.ask(request("get_result", job_id))["error"]
                # Where much is going on, the way to the others may be too long, too.
                if host == "deaf":
                    assert (error["type"], error["ran"]) == ("network_error", "no")
                else:
                    assert error["type"] in ("timeout", "network_error"), error
        unharmed.check(idle=count)
    finally:
        deaf.close()
        slow.stop()
