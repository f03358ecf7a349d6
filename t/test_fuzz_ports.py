"""Odd lines and bytes at the dispatcher's ports: each line gets a well-formed error or
reply, then comes a clean close, and whoever is in order is served all the time."""

import collections
import json
import shutil

import fuzzing
import pytest
from attacks import (
    JOB_ERRORS,
    REFUSALS,
    Unharmed,
    check_error,
    client_hello,
    half_close,
    is_message,
    make_data,
    read_all,
    reset,
    send_pieces,
    speak_raw,
)
from dispatchers import (
    Daemon,
    Dispatcher,
    TlsClient,
    call_request,
    echo,
    host_entry,
    request,
    wait_for_end,
)
from harp import jobid, protocol, wire
from harp.errors import Refusal
from harp.protocol.admin import ADMIN_PARSERS, Stop

USERS = {"panel": "plain:sesame"}
PANEL = {"user": "panel", "password": "sesame"}
MAX_LINE = 128 * 1024

long = pytest.mark.slow

REPLY_KEYS = {
    *("job_id", "cancelled", "no_result", "result", "exception", "error", "call"),
    *("continue", "jobs", "queues", "hosts", "procedures", "explain"),
    *("metrics", "pruned", "reloaded", "reopened", "host", "running", "source"),
}
CLOSING = {"parse_error", "invalid_request", "auth_error"}


@pytest.fixture(scope="module")
def daemon(server_context):
    daemon = Daemon(server_context)
    daemon.scripts = collections.defaultdict(lambda: echo, wait=wait_to_be_cancelled)
    yield daemon
    daemon.stop()


def wait_to_be_cancelled(connection, received) -> None:
    connection.sock.settimeout(None)
    wait_for_end(connection, received)


class Target:
    """A dispatcher to be fuzzed, and a normal client of it.

    :ivar done: id of a job that has ended
    :ivar waiting: id of one that runs until the test is over
    """

    def __init__(self, dispatcher, client_context) -> None:
        self.dispatcher = dispatcher
        self._context = client_context
        self.done = dispatcher.call("echo", 1, group="g", queue={"name": {"a": 1}})
        self.waiting = dispatcher.call("wait")
        dispatcher.result(self.done)
        self._normal = dispatcher.connect()
        self._status = self._normal.ask(request("get_status", self.done))

    def close(self) -> None:
        self._normal.close()

    def connect(self, port):
        if port == "tcp":
            return self.dispatcher.connect()
        if port == "tls":
            address = self.dispatcher.addresses[1].rpartition(":")[2]
            return TlsClient(("127.0.0.1", int(address)), self._context)
        return self.dispatcher.connect_unix("client" if port == "unix" else "control")

    def check_normal_client(self, number: int) -> None:
        """One who is in order is served: on a connection that is kept; now and then, on
        a new one, with a call."""
        assert self._normal.ask(request("get_status", self.done)) == self._status
        if number % 50 == 0:
            reply = self.dispatcher.result(self.dispatcher.call("echo", number))
            assert reply == {"result": [number]}


@pytest.fixture(scope="module")
def target(tmp_path_factory, daemon, certificate, client_context):
    directory = tmp_path_factory.mktemp("fuzzed") / "d"
    dispatcher = Dispatcher(
        directory,
        [host_entry(daemon.address, cert_sha256=certificate.sha256)],
        listen=[
            {"address": "127.0.0.1:0", "anonymous": True},
            {"address": "127.0.0.1:0", "tls": True},
            f"unix:{directory}/client",
        ],
        tls={"certificate": certificate.certificate, "key": certificate.key},
        users=USERS,
        auth={"failure_delay": 0.001, "max_failure_delay": 0.001},
        limits={"arguments": "32 KiB", "running": 4},
        audit={"file": directory / "audit"},
    )
    dispatcher.start()
    made = Target(dispatcher, client_context)
    yield made
    made.close()
    assert dispatcher.stop() == 0


@pytest.fixture
def unharmed(target, wait_for):
    return Unharmed(target.dispatcher, wait_for)


def base_requests(target, port) -> list[dict]:
    """Valid requests, whose replies come by themselves."""
    done = target.done
    found = [
        call_request("echo", 1, {"a": [True, None]}, 0.5),
        call_request("echo", "é\udcff", info={"by": "me"}, timeout=5, max_exec_time=9),
        call_request("echo", queue={"name": {"host": "a", "n": 1}, "concurrency": 2}),
        call_request("echo", job_id=jobid.make(), group="g", on_behalf_of="jo"),
        call_request("echo", "x", secret=[0], host="nowhere"),
        request(host="web01", procedure="echo", arguments={"a": 1}, secret=["a"]),
        request("cancel", done, on_behalf_of="jo"),
        request("get_result", done, wait=True),
        request("get_result", done, wait=False),
        request("get_status", done),
        request("get_status", target.waiting),
        request("follow_stream", done, since=0),
        request("follow_stream", done, recent=3),
        request("read_stream", done, since=1, limit=2),
        request("read_stream", target.waiting, recent=5),
        request("list_jobs", {"state": "done", "outcome": "result", "limit": 3}),
        request("list_jobs", {"ids": [done], "queue": {"a": 1}, "group": "g"}),
        request("list_jobs", {"from": 1, "to": 2e9, "before": done, "host": "web01"}),
        request("list_queues", True),
        request("list_queues", {"after": {"a": 1}}),
        request("list_hosts", True),
        request("list_procedures", "nowhere"),
        request("explain", done),
        request("explain", target.waiting),
    ]
    if port == "tls":
        return [message | {"auth": PANEL} for message in found]
    if port == "unix":
        found.append(request("list_hosts", True, auth=PANEL))
    if port == "admin":
        found += [
            request("status", True),
            request("metrics", True),
            request("prune", True, age=86400, since="a"),
            request("reload", True),
            request("reopen_logs", True),
            request("refresh_hosts", True, force=True, dry_run=True),
            request("get_host", "web01"),
            request("list_queue", {"a": 1}),
            request("cancel_queue", {"a": 1}),
            request("stop", True, drain=True, seconds=100),
        ]
    return found


def make_requests(mutator, target, port) -> bytes:
    """Return one to three, most of them odd, of which none is a valid stop."""
    data = make_data(mutator, base_requests(target, port), MAX_LINE)
    return b"\n".join(line for line in data.split(b"\n") if not stops(line))


def stops(line: bytes) -> bool:
    """Tell whether a request is in order and would stop the dispatcher."""
    try:
        found = protocol.parse_request(wire.decode(line), ADMIN_PARSERS)
    except Refusal:
        return False
    return isinstance(found, Stop)


def check_replies(sent: bytes, received: bytes) -> None:
    """Each line has got one reply, or the last reply is an error that closes."""
    assert received.endswith(b"\n") or not received
    lines = sent.split(b"\n")
    if not lines[-1]:
        lines.pop()
    replies = [json.loads(line) for line in received.splitlines()]
    replies = [reply for reply in replies if "packet" not in reply]
    for line, reply in zip(lines, replies):
        assert REPLY_KEYS & reply.keys(), reply
        is_refusal = "harpcaller" in reply and "error" in reply
        if is_refusal:
            assert reply["harpcaller"] == 1
            types = JOB_ERRORS if b"list_procedures" in line else REFUSALS
            check_error(reply["error"], types)
        elif "error" in reply:
            check_error(reply["error"], JOB_ERRORS, "ran", "data")
        assert is_refusal or is_message(line)
    assert len(replies) <= len(lines)
    if len(replies) < len(lines):
        assert is_refusal and reply["error"]["type"] in CLOSING


PORTS = ["tcp", "tls", "unix", "admin"]


@pytest.mark.parametrize("count", [100, pytest.param(6000, marks=long)])
@pytest.mark.parametrize("port", PORTS)
def test_odd_requests_are_answered_one_by_one_and_harm_nobody(
    target, unharmed, seed, port, count
):
    for number, mutator in enumerate(fuzzing.cases(f"{seed}/{port}", count)):
        data = make_requests(mutator, target, port)
        with target.connect(port) as client:
            send_pieces(client.sock, mutator, data)
            if mutator.happens(0.15):
                reset(client.sock)
            elif not mutator.happens(0.15):
                half_close(client.sock)
                try:
                    check_replies(data, read_all(client.sock))
                except (AssertionError, OSError) as error:
                    error.add_note(f"{mutator}: {data[:2000]!r}")
                    raise
        target.check_normal_client(number)
    unharmed.check()


@long
@pytest.mark.parametrize("port", ["tcp", "admin"])
def test_each_nasty_value_in_each_place_is_answered(target, unharmed, port):
    lines = [
        line
        for message in base_requests(target, port)
        for line in fuzzing.everywhere(message)
        if not stops(line)
    ]
    for number, line in enumerate(lines):
        with target.connect(port) as client:
            client.send_bytes(line)
            half_close(client.sock)
            check_replies(line, read_all(client.sock))
        if number % 100 == 0:
            target.check_normal_client(number)
    unharmed.check()


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=long)])
@pytest.mark.parametrize("port", PORTS)
def test_followers_that_leave_in_odd_ways_leave_nothing_behind(
    target, unharmed, seed, port, count
):
    """They wait for a job that doesn't end, some with more to ask."""
    auth = {"auth": PANEL} if port == "tls" else {}
    base = [
        request(operation, target.waiting, **auth)
        for operation in ("get_result", "follow_stream")
    ]
    for number, mutator in enumerate(fuzzing.cases(f"{seed}/follow {port}", count)):
        data = wire.encode(mutator.random.choice(base))
        with target.connect(port) as client:
            client.send_bytes(data)
            # Not more than is taken by the kernel: nobody reads it for now.
            send_pieces(client.sock, mutator, make_data(mutator, base, MAX_LINE)[:8192])
            if mutator.happens(0.3):
                reset(client.sock)
            elif mutator.happens(0.5):
                half_close(client.sock)
        target.check_normal_client(number)
    unharmed.check()


def test_odd_texts_come_back_as_they_were_sent(target):
    texts = [text for text in fuzzing.NASTY_STRINGS if len(text) < 1000]
    with target.dispatcher.connect() as client:
        for text in texts:
            more = {"info": [text], "group": text, "on_behalf_of": text}
            queue = {"name": {text: text}, "concurrency": 1}
            client.send(call_request(text, text, {text: text}, queue=queue, **more))
            job_id = client.reply()["job_id"]
            client.send(request("get_result", job_id), request("get_status", job_id))
            result, status = client.reply(), client.reply()
            assert result == {"result": [text, {text: text}]}
            assert status["call"]["procedure"] == text
            assert status["call"]["arguments"] == [text, {text: text}]
            assert status["queue"] == queue
            assert {key: status[key] for key in more} == more


def read_whole_log(dispatcher) -> dict[str, list]:
    """Return all that can be read of each job that has ended."""
    found = {}
    with dispatcher.connect() as client:
        before = ""
        while before is not None:
            wanted = {"state": "done", "limit": 1000}
            if before:
                wanted["before"] = before
            listed = client.ask(request("list_jobs", wanted))
            for job_id in (status["job_id"] for status in listed["jobs"]):
                client.send(request("get_status", job_id), request("explain", job_id))
                client.send(request("read_stream", job_id))
                found[job_id] = [client.reply(), client.reply(), client.stream()]
            before = listed["next"]
    return found


def test_what_was_called_can_be_read_also_by_the_next_dispatcher(target, tmp_path):
    before = read_whole_log(target.dispatcher)
    assert target.done in before
    for status, explained, _ in before.values():
        assert "error" not in status and "error" not in explained
    following = Dispatcher(tmp_path / "d", [])
    shutil.copytree(target.dispatcher.jobs / "done", following.jobs / "done")
    following.start()
    try:
        assert read_whole_log(following) == before
    finally:
        assert following.stop() == 0
    assert " ERROR " not in following.log() and "Traceback" not in following.log()


@pytest.mark.parametrize("count", [60, pytest.param(4000, marks=long)])
def test_odd_bytes_at_the_tls_port_of_the_dispatcher_are_dropped(
    target, unharmed, seed, count
):
    port = int(target.dispatcher.addresses[1].rpartition(":")[2])
    hello = client_hello()
    for number, mutator in enumerate(fuzzing.cases(f"{seed}/raw tls", count)):
        speak_raw(mutator, port, hello)
        if number % 10 == 0:
            with target.connect("tls") as client:
                assert "hosts" in client.ask(request("list_hosts", True, auth=PANEL))
    unharmed.check()
