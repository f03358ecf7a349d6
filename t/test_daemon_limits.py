"""Limits of harpd: who gets in, how many, and what happens when the system has no
more to give."""

import contextlib
import os
import resource
import socket
import time
from ipaddress import ip_network
from pathlib import Path

import pytest
from daemon_setup import (  # noqa: F401
    HARPD,
    Caller,
    error_of,
    make_harpd,
    request,
)
from harp.gate import Gate

FEW_CONNECTIONS = """
import sys
sys.path.insert(0, {lib!r})
sys.argv[0] = "harpd"
from harp.daemon import command, main
main._WITHOUT_CALL = 0
sys.exit(command.main())
"""


def test_reload_allows_as_many_connections_as_it_allows_calls(
    make_harpd, certificate, tmp_path
):
    limits = {"calls": 1, "unauthenticated": 1, "standby": 1}
    daemon = make_harpd(start=False, limits=limits)
    code = FEW_CONNECTIONS.format(lib=str(Path(HARPD[-1]).parents[1] / "lib"))
    daemon.argv[: len(HARPD)] = [HARPD[0], "-c", code]
    daemon.start()
    daemon.write_config(certificate, {"limits": {"calls": 5, "unauthenticated": 5}})
    daemon.reload()
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            caller = stack.enter_context(daemon.begin("wait_until", str(tmp_path / "no")))
            assert "stream_result" in caller.message()
    assert daemon.stop() == 0


# --- the gate -----------------------------------------------------------------------


@pytest.fixture
def make_gate(fake_clock):
    """``make_gate(max_unauthenticated, networks)`` returns a gate at which connections are plain names."""

    def make(max_unauthenticated=200, networks=None):
        gate = Gate(max_unauthenticated, networks, fake_clock)
        gates.append(gate)
        return gate

    gates: list = []
    yield make
    for gate in gates:
        for name in list(gate._visitors):
            gate.left(name)


def admit(gate, name, host):
    assert gate.admit(name, (host, 1))


def victim(gate):
    """Return the address of who has to give way."""
    found, _ = gate._find_victim()
    return found and found.address


def test_nobody_gives_way_before_a_second_is_over(make_gate, fake_clock):
    gate = make_gate(max_unauthenticated=2)
    admit(gate, "a", "1.1.1.1")
    fake_clock.advance(0.25)
    admit(gate, "b", "2.2.2.2")
    assert gate._find_victim() == (None, 0.75)
    fake_clock.advance(0.75)
    assert victim(gate) == "1.1.1.1"


def test_the_oldest_of_the_address_that_holds_most_gives_way(make_gate, fake_clock):
    gate = make_gate()
    for name, host in [("a", "1.1.1.1"), ("b", "2.2.2.2"), ("c", "2.2.2.2")]:
        admit(gate, name, host)
        fake_clock.advance(2)
    found, _ = gate._find_victim()
    assert found is gate.visitor("b")
    # Only one at a time, until that is gone.
    gate.relieve()
    assert found.displaced and gate._find_victim() == (None, None)
    gate.left("b")
    assert victim(gate) == "1.1.1.1"


def test_who_has_authenticated_neither_counts_nor_gives_way(make_gate, fake_clock):
    gate = make_gate(max_unauthenticated=1)
    admit(gate, "a", "1.1.1.1")
    gate.authenticated("a")
    fake_clock.advance(2)
    assert victim(gate) is None
    gate.wait_for_room(lambda: False)
    gate.left("a")
    gate.left("a")
    gate.wait_for_room(lambda: False)


def test_wait_for_room_ends_when_one_leaves_or_the_server_stops(
    make_gate, in_thread, wait_for
):
    gate = make_gate(max_unauthenticated=1)
    admit(gate, "a", "1.1.1.1")
    waiting = in_thread(gate.wait_for_room, lambda: False)
    assert waiting.is_running
    gate.left("a")
    waiting.result()
    admit(gate, "a", "1.1.1.1")
    stopping = []
    waiting = in_thread(gate.wait_for_room, lambda: stopping)
    stopping.append(True)
    gate.wake()
    waiting.result()


@pytest.mark.parametrize(
    "networks, host, allowed",
    [
        (None, "1.2.3.4", True),
        ([], "1.2.3.4", False),
        (["1.2.3.0/24"], "1.2.3.4", True),
        (["1.2.3.0/24"], "::ffff:1.2.3.4", True),
        (["1.2.3.0/24"], "1.2.4.4", False),
        (["::/0"], "1.2.3.4", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["10.0.0.0/8", "::1"], "::1", True),
    ],
)
def test_only_the_allowed_networks_get_in(make_gate, networks, host, allowed):
    if networks is not None:
        networks = tuple(map(ip_network, networks))
    gate = make_gate(networks=networks)
    assert gate.admit("a", (host, 1, 0, 0)) is allowed


# --- who gets in at a real daemon ---------------------------------------------------


def test_connection_from_elsewhere_is_closed_at_once_until_a_reload_allows_it(
    make_harpd, certificate
):
    daemon = make_harpd(allow_from=["10.0.0.0/8"])
    with Caller(daemon.port, tls=False) as caller:
        with contextlib.suppress(ConnectionResetError):
            assert caller.sock.recv(1) == b""
    assert 'connection refused {"peer": "127.0.0.1"}' in daemon.log()
    daemon.write_config(certificate, {"allow_from": ["127.0.0.0/8"]})
    daemon.reload()
    assert daemon.end("echo", 1) == {"result": 1}


def test_all_addresses_are_served_and_named_as_what_they_are(make_harpd, wait_for):
    daemon = make_harpd(listen=["*:0"], allow_from=["127.0.0.1", "::1"])
    assert daemon.end("echo", 1) == {"result": 1}
    wait_for(lambda: '"peer": "127.0.0.1:' in daemon.log())
    if socket.has_dualstack_ipv6():
        with socket.create_connection(("::1", daemon.port)) as sock:
            sock.sendall(b"G")
            assert b"this port speaks TLS" in sock.recv(1000)
        wait_for(lambda: '"peer": "[::1]:' in daemon.log())


@contextlib.contextmanager
def silent(daemon, number, data=b""):
    """Have so many connections that say nothing more than that."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(number):
            sock = socket.create_connection(("127.0.0.1", daemon.port), timeout=20)
            found.append(stack.enter_context(sock))
            sock.sendall(data)
        yield found


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01"])
def test_silent_connections_beyond_the_limit_give_way_to_a_call(make_harpd, data):
    daemon = make_harpd(limits={"unauthenticated": 5, "handshake_timeout": 60})
    with silent(daemon, 20, data) as sockets:
        for number in range(10):
            assert daemon.end("echo", number) == {"result": number}
        assert sockets[0].recv(1) == b""
        assert "others are waiting, and this took its time" in daemon.log()


def test_connection_that_gives_way_after_the_handshake_is_told_why(make_harpd):
    daemon = make_harpd(limits={"unauthenticated": 1, "request_timeout": 60})
    with daemon.connect() as slow:
        assert daemon.end("echo", 1) == {"result": 1}
        assert error_of(slow.message())[0] == "overloaded"
        assert slow.message() is None


def test_calls_do_not_count_as_connections_before_authentication(
    make_harpd, tmp_path
):
    daemon = make_harpd(limits={"unauthenticated": 1})
    path = str(tmp_path / "go")
    callers = []
    for _ in range(3):
        callers.append(daemon.begin("wait_until", path))
        assert callers[-1].message()
    Path(path).touch()
    for caller in callers:
        assert caller.messages() == [{"result": "there"}]
        caller.close()


def test_stop_does_not_wait_for_room(make_harpd):
    daemon = make_harpd(limits={"unauthenticated": 1, "handshake_timeout": 60})
    with silent(daemon, 3):
        assert daemon.stop() == 0


# --- when the system has no more ----------------------------------------------------


def limit(pid, kind, soft):
    """Change a soft limit of a process; None: as high as may be."""
    _, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (hard if soft is None else soft, hard))


def next_descriptor(pid) -> int:
    """Return a limit with which the process gets no further descriptor."""
    taken = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    return next(number for number in range(len(taken) + 1) if number not in taken)


def virtual_memory(pid) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmSize:")[2].split()[0]) * 1024


def processor_time(*pids) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def assert_idle(daemon):
    """Measure that the daemon takes no processor time to speak of."""
    pids = daemon.pid, daemon.spawner()
    before = processor_time(*pids)
    time.sleep(0.5)
    assert processor_time(*pids) - before < 0.2


def await_standby(daemon, wait_for):
    """Wait until no process is being made ready."""
    wait_for(lambda: daemon.log().count("serving") == 1)
    for _ in range(2):
        assert daemon.end("echo") == {"result": None}
    names = "/proc/{0}/task/{0}/children"

    def all_there():
        pids = Path(names.format(daemon.spawner())).read_text().split()
        try:
            found = [Path(f"/proc/{pid}/comm").read_text() for pid in pids]
        except (FileNotFoundError, ProcessLookupError):
            return False  # one has just ended
        return found == ["harpd-standby\n"] * 2

    wait_for(all_there)


def test_out_of_descriptors_accepting_pauses_and_goes_on_by_itself(
    make_harpd, wait_for
):
    daemon = make_harpd(limits={"handshake_timeout": 60})
    await_standby(daemon, wait_for)
    limit(daemon.pid, resource.RLIMIT_NOFILE, next_descriptor(daemon.pid) + 5)
    with silent(daemon, 10):
        wait_for(lambda: "out of resources, accepting pauses" in daemon.log())
        assert_idle(daemon)
        # Those that have been silent for a second give way here, too.
        with socket.create_connection(("127.0.0.1", daemon.port)) as late:
            late.settimeout(30)
            late.sendall(b"G")
            assert b"this port speaks TLS" in late.recv(1000)
    limit(daemon.pid, resource.RLIMIT_NOFILE, None)
    wait_for(lambda: daemon.end("echo", 1) == {"result": 1})
    assert daemon.log().count("out of resources") == 1
    assert "Traceback" not in daemon.log()


def test_out_of_threads_or_memory_accepting_pauses_and_goes_on_by_itself(
    make_harpd, wait_for
):
    daemon = make_harpd(limits={"handshake_timeout": 60})
    await_standby(daemon, wait_for)
    limit(daemon.pid, resource.RLIMIT_AS, virtual_memory(daemon.pid) + (1 << 20))
    with silent(daemon, 30):
        wait_for(lambda: "out of resources, accepting pauses" in daemon.log())
        assert_idle(daemon)
    limit(daemon.pid, resource.RLIMIT_AS, None)
    wait_for(lambda: daemon.end("echo", 1) == {"result": 1})
    assert daemon.log().count("out of resources") == 1
    assert "Traceback" not in daemon.log()


def test_call_for_which_no_process_can_be_made_is_overloaded(make_harpd, wait_for):
    daemon = make_harpd(limits={"request_timeout": 1})
    await_standby(daemon, wait_for)
    spawner = daemon.spawner()
    limit(spawner, resource.RLIMIT_NOFILE, next_descriptor(spawner))
    # Those that are ready are used, the next one can't be made.
    wait_for(lambda: "error" in daemon.end("echo", 1))
    for _ in range(2):
        assert error_of(daemon.end("echo", 1)) == (
            "overloaded",
            "can't fork: Too many open files",
        )
    assert_idle(daemon)
    assert daemon.log().count("can't fork, calls have to wait") == 1
    limit(spawner, resource.RLIMIT_NOFILE, None)
    wait_for(lambda: daemon.end("echo", 1) == {"result": 1})


LOADING = """
import os, resource, sys
sys.path.insert(0, {lib!r})
from harp.config import DaemonConfig
from harp.daemon.children import Children, ProceduresFailed
from harp.daemon.settings import for_start
config = DaemonConfig(procedures_file={file!r}, procedures_user=os.getuid())
children = Children.start(for_start(config, 64))
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
try:
    children.load(lambda: None)
except ProceduresFailed as error:
    print(error)
"""


def test_procedures_that_the_front_has_no_descriptor_for_are_said_to_be_lost(
    run_python, tmp_path
):
    file = tmp_path / "procedures.py"
    file.write_text("")
    lib = str(Path(HARPD[-1]).parents[1] / "lib")
    assert "out of descriptors" in run_python(LOADING.format(lib=lib, file=str(file)))


def test_process_that_the_front_has_no_descriptors_for_is_not_made_over_and_over(
    make_harpd, wait_for
):
    daemon = make_harpd()
    await_standby(daemon, wait_for)
    with daemon.connect() as caller:
        wait_for(lambda: len(os.listdir(f"/proc/{daemon.pid}/task")) > 1)
        limit(daemon.pid, resource.RLIMIT_NOFILE, next_descriptor(daemon.pid))
        caller.send_message(request("compute"))
        assert caller.message() and caller.message()
        wait_for(lambda: "out of descriptors" in daemon.log())
        assert_idle(daemon)
    limit(daemon.pid, resource.RLIMIT_NOFILE, None)
    wait_for(lambda: daemon.end("echo", 1) == {"result": 1})
    assert daemon.log().count("out of descriptors") == 1
