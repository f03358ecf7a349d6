"""A job from its queue to its end, against daemons that do what they shouldn't: in each
case the type of the error, whether the procedure ran, the file on disk, and that others
are served."""

import contextlib
import resource
import select
import socket
import ssl
import threading
import time

import peers
import pytest
from dispatchers import (
    ACKNOWLEDGED,
    ACKNOWLEDGED_STREAM,
    PASSWORD,
    USER,
    Daemon,
    Dispatcher,
    call_request,
    host_entry,
    request,
    send,
    to_line,
)
from harp import testing

GRACE = 1.0  # s; cancel_grace of the dispatcher here
CONNECT = 2.0  # s; its connect_timeout


class Plain:
    """Daemons without TLS, on one port: what one does is in ``script``."""

    def __init__(self):
        self.reset()
        self._peer = peers.ScriptedPeer(self._serve)
        self.address = self._peer.address
        self.stop = self._peer.stop

    def reset(self):
        self.script = lambda connection: None
        self.connected = threading.Event()
        self.received = []

    def _serve(self, connection):
        self.connected.set()
        with contextlib.suppress(OSError):
            self.script(connection)


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory, server_context, certificate):
    """A dispatcher with hosts of all kinds, the same for all tests here."""
    daemon, plain = Daemon(server_context), Plain()
    # Nobody accepts here; the kernel does until its queue is full.
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = [socket.socket() for _ in range(2)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()
    pin = certificate.sha256
    dispatcher = Dispatcher(
        tmp_path_factory.mktemp("dispatcher"),
        [
            host_entry(daemon.address, cert_sha256=pin),
            host_entry(daemon.address, "other-pin", cert_sha256="0" * 64),
            host_entry(daemon.address, "no-pin"),
            host_entry(plain.address, "plain", cert_sha256=pin),
            host_entry(refusing, "refusing", cert_sha256=pin),
            host_entry(full.getsockname(), "silent", cert_sha256=pin),
            host_entry(("no.such.name.invalid", 1), "unresolvable", cert_sha256=pin),
            host_entry(("a..b", 1), "impossible", cert_sha256=pin),
            host_entry(("255.255.255.255", 1), "unreachable", cert_sha256=pin),
        ],
        limits={
            "cancel_grace": GRACE,
            "connect_timeout": CONNECT,
            "value": 100_000,
            "job_size": 3_000_000,
        },
    )
    dispatcher.start()
    yield dispatcher, daemon, plain
    dispatcher.stop()
    daemon.stop()
    plain.stop()
    for sock in (full, *fillers):
        sock.close()


@pytest.fixture
def daemon(surroundings, wait_for):
    _, daemon, plain = surroundings
    daemon.reset()
    plain.reset()
    yield daemon
    daemon.released.set()
    wait_for(lambda: not daemon.serving)


@pytest.fixture
def plain(surroundings, daemon):
    return surroundings[2]


@pytest.fixture
def dispatcher(surroundings, daemon, wait_for):
    """Checks after each test that others are served and that nothing is left."""
    dispatcher = surroundings[0]
    descriptors = dispatcher.descriptors()
    yield dispatcher
    assert dispatcher.result(dispatcher.call("echo", "other")) == {"result": ["other"]}

    def counts():
        status = dispatcher.admin("status")
        return status["queued"], status["running"]

    # An end shows before the job's place in its queue is free.
    wait_for(lambda: counts() == (0, 0))
    assert not list((dispatcher.jobs / "active").iterdir())
    wait_for(lambda: dispatcher.descriptors() <= descriptors)
    assert "Traceback" not in dispatcher.log()


@pytest.fixture
def make_dispatcher(tmp_path, daemon, request):
    """``make_dispatcher(hosts, **changes)`` starts one for this test alone."""

    def make(*hosts, **changes):
        dispatcher = Dispatcher(tmp_path / "dispatcher", hosts, **changes)
        request.addfinalizer(dispatcher.stop)
        dispatcher.start()
        return dispatcher

    return make


@pytest.fixture
def run(dispatcher, daemon):
    """``run(script, **options)`` submits a call to a daemon that does that after it
    has read the request, and returns the job's id."""

    def start(script, **options):
        daemon.scripts["test"] = lambda connection, received: script(connection)
        return dispatcher.call("test", **options)

    return start


def assert_error(dispatcher, job_id, type, ran, text=""):
    """The end of a job is that error, for clients, in the status and on disk."""
    end = dispatcher.result(job_id)
    error = end["error"]
    assert (error["type"], error["ran"]) == (type, ran), error
    assert text in error["message"], error
    status = dispatcher.status(job_id)
    assert (status["state"], status["outcome"]) == ("done", "error")
    record, *others, stored, trailer = dispatcher.file(job_id)
    assert record["job_id"] == job_id
    assert stored == end
    assert trailer["outcome"] == "error"
    # The start is on disk before the request is sent.
    sent = bool(others) and "start" in others[0]
    if ran != "no":
        assert sent
    return others


def packets_in(others):
    return [line["data"] for line in others if "packet" in line]


# --- hosts that can't be reached ----------------------------------------------------

UNREACHABLE = {
    "nowhere": ("unknown_host", "no host 'nowhere' in the registry"),
    "refusing": ("network_error", "Connection refused"),
    "unresolvable": ("network_error", "host unresolvable (no.such.name.invalid"),
    "impossible": ("network_error", "is no host name"),
    "unreachable": ("network_error", "host unreachable (255.255.255.255 port 1)"),
    "silent": ("network_error", f"no connection in {CONNECT} s"),
    "other-pin": ("certificate_error", f"expected was {'0' * 64}"),
    "no-pin": ("certificate_error", "nothing vouches for host no-pin"),
}


@pytest.mark.parametrize("host", UNREACHABLE)
def test_host_that_can_not_be_reached_or_trusted_is_told_nothing(
    dispatcher, daemon, host
):
    type, text = UNREACHABLE[host]
    job_id = dispatcher.call("echo", host=host)
    assert assert_error(dispatcher, job_id, type, "no", text) == []
    assert not daemon.requests


def test_certificate_error_says_what_was_presented(dispatcher, certificate):
    error = dispatcher.result(dispatcher.call(host="other-pin"))["error"]
    assert certificate.sha256 in error["message"]


HANDSHAKES = {
    "silent": (lambda peer: peer.read_to_end(), "network_error", "no connection in"),
    "closes": (lambda peer: None, "network_error", ""),
    "closes after our hello": (
        lambda peer: peer.sock.recv(1),
        "network_error",
        "",
    ),
    "resets": (
        lambda peer: (peer.sock.recv(1), peer.reset()),
        "network_error",
        "",
    ),
    "plain text": (
        lambda peer: (peer.send(b'{"harp":1}\n' * 10), peer.read_to_end()),
        "protocol_error",
        "TLS",
    ),
    "garbage": (
        lambda peer: (peer.send(b"\0" * 100), peer.read_to_end()),
        "protocol_error",
        "TLS",
    ),
    "half a record": (
        lambda peer: (peer.send(b"\x16\x03\x03\x40\x00abc"), peer.read_to_end()),
        "network_error",
        "no connection in",
    ),
    "half a record, closes": (
        lambda peer: (peer.sock.recv(4096), peer.send(b"\x16\x03\x03\x40\x00abc")),
        "network_error",
        "closed during the TLS handshake",
    ),
}


@pytest.mark.parametrize("name", HANDSHAKES)
def test_handshake_that_fails_sends_nothing(dispatcher, plain, name):
    script, type, text = HANDSHAKES[name]
    plain.script = script
    job_id = dispatcher.call("echo", host="plain")
    assert assert_error(dispatcher, job_id, type, "no", text) == []


def test_handshake_that_drips_is_ended_in_time(dispatcher, plain):
    def drip(peer):
        with contextlib.suppress(OSError):
            for byte in b"\x16\x03\x03\x40\x00" + b"\0" * 1000:
                peer.send(bytes((byte,)))
                time.sleep(0.05)

    plain.script = drip
    before = time.monotonic()
    job_id = dispatcher.call("echo", host="plain")
    assert_error(dispatcher, job_id, "network_error", "no", "no connection in")
    assert time.monotonic() - before < CONNECT + 3


def test_max_exec_time_counts_while_connecting(dispatcher, plain):
    plain.script = lambda peer: peer.read_to_end()
    job_id = dispatcher.call("echo", host="plain", max_exec_time=1)
    assert_error(dispatcher, job_id, "timeout", "no", "max_exec_time")


# --- what daemons do wrong after the request ----------------------------------------


def after(*messages):
    """A script that sends these, and then nothing until the dispatcher closes."""

    def script(connection):
        for message in messages:
            if isinstance(message, bytes):
                connection.send(message)
            else:
                send(connection, message)
        connection.read_to_end()

    return script


def abrupt(*messages):
    """A script that sends these and breaks off without a word of TLS."""

    def script(connection):
        for message in messages:
            if isinstance(message, bytes):
                connection.send(message)
            else:
                send(connection, message)
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    return script


def notified(*messages):
    """A script that sends these and closes as TLS wants it."""

    def script(connection):
        send(connection, *messages)
        connection.sock.settimeout(5)
        with contextlib.suppress(OSError):
            connection.sock.unwrap()

    return script


def resets(*messages):
    def script(connection):
        send(connection, *messages)
        connection.reset()

    return script


def below_tls(*messages):
    """A script that sends these, and then what is no TLS."""

    def script(connection):
        send(connection, *messages)
        socket.socket.send(connection.sock, b'{"result":5}\n' * 10)
        connection.read_to_end()

    return script


PACKETS = [{"stream": 0}, {"stream": 1}]
RESULT = {"result": 5}
EXCEPTION = {"exception": {"type": "V", "message": "m"}}
WRONG = {
    # before the acknowledgement
    "garbage": (after(b"garbage\n"), "protocol_error", "maybe", 0),
    "no object": (after(b"[1]\n"), "protocol_error", "maybe", 0),
    "unknown object": (after({"x": 1}), "protocol_error", "maybe", 0),
    "other version": (
        after({"harp": 2, "stream_result": False}),
        "protocol_error",
        "maybe",
        0,
    ),
    "acknowledgement of no type": (
        after({"harp": 1, "stream_result": "yes"}),
        "protocol_error",
        "maybe",
        0,
    ),
    "result first": (after(RESULT), "protocol_error", "maybe", 0),
    "exception first": (after(EXCEPTION), "protocol_error", "maybe", 0),
    "packet first": (after(PACKETS[0]), "protocol_error", "maybe", 0),
    "invalid UTF-8": (after(b'{"harp":"\xff"}\n'), "protocol_error", "maybe", 0),
    "deep": (after(b"[" * 90_000 + b"\n"), "protocol_error", "maybe", 0),
    "NaN": (after(ACKNOWLEDGED, b'{"result":NaN}\n'), "protocol_error", "yes", 0),
    "duplicate": (
        after(ACKNOWLEDGED, b'{"result":1,"result":2}\n'),
        "protocol_error",
        "yes",
        0,
    ),
    "endless line": (after(b"x" * 300_000), "protocol_error", "maybe", 0),
    "no TLS": (below_tls(), "protocol_error", "maybe", 0),
    "closes": (abrupt(), "network_error", "maybe", 0),
    "closes in words": (notified(), "network_error", "maybe", 0),
    "resets": (resets(), "network_error", "maybe", 0),
    "half a line": (abrupt(b'{"harp":1,'), "network_error", "maybe", 0),
    # after it
    "acknowledges twice": (
        after(ACKNOWLEDGED, ACKNOWLEDGED),
        "protocol_error",
        "yes",
        0,
    ),
    "closes acknowledged": (abrupt(ACKNOWLEDGED), "network_error", "yes", 0),
    "closes acknowledged in words": (notified(ACKNOWLEDGED), "network_error", "yes", 0),
    "no TLS in the stream": (
        below_tls(ACKNOWLEDGED_STREAM, *PACKETS),
        "protocol_error",
        "yes",
        2,
    ),
    "resets acknowledged": (resets(ACKNOWLEDGED), "network_error", None, 0),
    "streams but said no": (
        after(ACKNOWLEDGED, PACKETS[0]),
        "protocol_error",
        "yes",
        0,
    ),
    "half a result": (
        abrupt(ACKNOWLEDGED, b'{"result":5}'),
        "network_error",
        "yes",
        0,
    ),
    "garbage in the stream": (
        after(ACKNOWLEDGED_STREAM, *PACKETS, b"garbage\n"),
        "protocol_error",
        "yes",
        2,
    ),
    "closes in the stream": (
        abrupt(ACKNOWLEDGED_STREAM, *PACKETS),
        "network_error",
        "yes",
        2,
    ),
    "closes in words in the stream": (
        notified(ACKNOWLEDGED_STREAM, *PACKETS),
        "network_error",
        "yes",
        2,
    ),
    "half a packet": (
        abrupt(ACKNOWLEDGED_STREAM, *PACKETS, b'{"stream":2'),
        "network_error",
        "yes",
        2,
    ),
    "value too large": (
        after(ACKNOWLEDGED_STREAM, *PACKETS, {"stream": "x" * 300_000}),
        "protocol_error",
        "yes",
        2,
    ),
    "error without type": (
        after(ACKNOWLEDGED, {"harp": 1, "error": {"message": "x"}}),
        "protocol_error",
        "yes",
        0,
    ),
    "exception without message": (
        after(ACKNOWLEDGED, {"exception": {"type": "x"}}),
        "protocol_error",
        "yes",
        0,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_daemon_that_errs_makes_a_true_error(dispatcher, run, name):
    script, type, ran, packets = WRONG[name]
    before = time.monotonic()
    job_id = run(script)
    if ran is None:  # the reset may overtake what was sent before
        ran = dispatcher.result(job_id)["error"]["ran"]
        assert ran in ("maybe", "yes")
    others = assert_error(dispatcher, job_id, type, ran, "host web01 (127.0.0.1 port")
    assert packets_in(others) == [0, 1][:packets]
    assert dispatcher.status(job_id)["packets"] == packets
    # It isn't the deadline that found it.
    assert time.monotonic() - before < 5


def test_second_result_changes_nothing(dispatcher, run):
    job_id = run(after(ACKNOWLEDGED, RESULT, {"result": 6}, EXCEPTION))
    assert dispatcher.result(job_id) == RESULT
    assert [line for line in dispatcher.file(job_id) if "result" in line] == [RESULT]


def test_garbage_behind_the_result_changes_nothing(dispatcher, run):
    assert dispatcher.result(run(after(ACKNOWLEDGED, RESULT, b"garbage"))) == RESULT


def test_messages_in_pieces_are_put_together(dispatcher, run):
    def script(connection):
        for message in (ACKNOWLEDGED_STREAM, *PACKETS, RESULT):
            for byte in repr(message).replace("'", '"').replace("T", "t").encode():
                connection.send(bytes((byte,)))
            connection.send(b"\n")
        connection.read_to_end()

    job_id = run(script)
    assert dispatcher.result(job_id) == RESULT
    assert dispatcher.status(job_id)["packets"] == 2


@pytest.mark.parametrize("data", [None, {"limit": 5}])
def test_error_in_place_of_the_acknowledgement_says_that_nothing_ran(
    dispatcher, run, data
):
    error = {"type": "no_such_procedure", "message": "there is no test"}
    if data is not None:
        error["data"] = data
    job_id = run(after({"harp": 1, "error": error}))
    assert dispatcher.result(job_id) == {"error": error | {"ran": "no"}}
    assert_error(dispatcher, job_id, "no_such_procedure", "no")


@pytest.mark.parametrize("acknowledgement", [ACKNOWLEDGED, ACKNOWLEDGED_STREAM])
def test_error_after_the_acknowledgement_says_that_it_ran(
    dispatcher, run, acknowledgement
):
    error = {"harp": 1, "error": {"type": "process_died", "message": "x", "data": 9}}
    job_id = run(after(acknowledgement, error))
    assert_error(dispatcher, job_id, "process_died", "yes")


def test_daemon_does_not_decide_what_ran(dispatcher, run):
    error = {"type": "timeout", "message": "x", "ran": "no"}
    job_id = run(after(ACKNOWLEDGED, {"harp": 1, "error": error}))
    assert_error(dispatcher, job_id, "timeout", "yes")


@pytest.mark.parametrize("size", [1_000, 1_000_000])
def test_refusal_of_a_request_that_is_not_read_is_passed_on(
    dispatcher, plain, server_context, size
):
    error = {"type": "overloaded", "message": "too many calls"}

    def refuse(peer):
        with server_context.wrap_socket(peer.sock, server_side=True) as sock:
            sock.sendall(to_line({"harp": 1, "error": error}))
            # As a server should: so that the peer gets to read it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_WR)
                while socket.socket.recv(sock, 65536):
                    pass

    plain.script = refuse
    job_id = dispatcher.call("echo", "x" * size, host="plain")
    assert dispatcher.result(job_id) == {"error": error | {"ran": "no"}}


# --- deadlines ----------------------------------------------------------------------


def drip(connection, data, stopped, pause=0.1):
    with contextlib.suppress(OSError):
        for byte in data:
            if stopped.wait(pause):
                return
            connection.send(bytes((byte,)))


def slow_half_line(connection):
    drip(connection, b'{"harp":1,"stream_result":' + b" " * 1000, threading.Event())


SILENT = {
    "nothing": (after(), "maybe", 0),
    "acknowledgement": (after(ACKNOWLEDGED), "yes", 0),
    "packets": (after(ACKNOWLEDGED_STREAM, *PACKETS), "yes", 2),
    "half a line": (after(ACKNOWLEDGED_STREAM, b'{"stream":'), "yes", 0),
    "drips": (slow_half_line, "maybe", 0),
}


@pytest.mark.parametrize("name", SILENT)
def test_daemon_that_falls_silent_is_timed_out(dispatcher, run, name):
    script, ran, packets = SILENT[name]
    before = time.monotonic()
    job_id = run(script, timeout=1)
    others = assert_error(dispatcher, job_id, "timeout", ran, "for 1 s (timeout)")
    assert len(packets_in(others)) == packets
    assert 1 <= time.monotonic() - before < 1 + GRACE + 2


def test_messages_in_time_keep_a_job_alive(dispatcher, run):
    cut_off = []

    def script(connection):
        send(connection, ACKNOWLEDGED_STREAM)
        poll = select.poll()
        poll.register(connection.sock, select.POLLRDHUP)
        for number in range(4):
            # Else the result would win, though it came too late.
            cut_off.extend(poll.poll(1000))
            send(connection, {"stream": number})
        if not cut_off:
            send(connection, RESULT)

    job_id = run(script, timeout=3)
    assert dispatcher.result(job_id) == RESULT
    assert not cut_off


def flood(connection):
    send(connection, ACKNOWLEDGED_STREAM)
    connection.sock.settimeout(0.2)
    with contextlib.suppress(OSError):
        while True:
            connection.send(b'{"stream":"' + b"x" * 40 + b'"}\n')
            if select_readable(connection):
                return


def select_readable(connection):
    connection.sock.setblocking(False)
    try:
        return connection.sock.recv(1) == b""
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    finally:
        connection.sock.settimeout(0.2)


def test_stream_without_end_ends_after_max_exec_time_or_job_size(dispatcher, run):
    # Whichever is first; what was stored stays.
    job_id = run(flood, max_exec_time=1)
    end = dispatcher.result(job_id)
    assert end["error"]["type"] in ("timeout", "storage_error")
    assert end["error"]["ran"] == "yes"


def test_job_whose_file_becomes_too_large_is_cancelled_over_there(
    dispatcher, daemon, run
):
    ended = threading.Event()

    def script(connection):
        send(connection, ACKNOWLEDGED_STREAM)
        for _ in range(60):
            send(connection, {"stream": "x" * 90_000})
        connection.read_to_end()
        ended.set()

    job_id = run(script)
    others = assert_error(
        dispatcher, job_id, "storage_error", "yes", "limits.job_size"
    )
    assert ended.wait(10)
    assert 0 < len(packets_in(others)) < 34
    assert dispatcher.done_path(job_id).stat().st_size < 3_001_000


def test_job_that_is_silent_for_max_exec_time_says_so(dispatcher, run):
    job_id = run(after(ACKNOWLEDGED), max_exec_time=1)
    assert_error(dispatcher, job_id, "timeout", "yes", "(max_exec_time)")


def test_result_that_comes_while_a_job_is_timed_out_wins(dispatcher, run):
    def script(connection):
        send(connection, ACKNOWLEDGED)
        connection.read_to_end()  # the half-close
        send(connection, RESULT)

    assert dispatcher.result(run(script, timeout=1)) == RESULT


# --- cancelling ---------------------------------------------------------------------


def assert_cancelled(dispatcher, job_id, packets=()):
    assert dispatcher.result(job_id) == {"cancelled": True}
    *others, stored, trailer = dispatcher.file(job_id)
    assert stored == {"cancelled": True} and trailer["outcome"] == "cancelled"
    assert packets_in(others) == list(packets)
    assert dispatcher.status(job_id)["outcome"] == "cancelled"


def test_cancel_while_connecting_is_answered_at_once(dispatcher):
    job_id = dispatcher.call("echo", host="silent")
    before = time.monotonic()
    assert dispatcher.cancel(job_id) == {"cancelled": True}
    assert time.monotonic() - before < CONNECT / 2
    assert_cancelled(dispatcher, job_id)
    assert len(dispatcher.file(job_id)) == 3


def test_cancel_in_the_handshake_is_answered_at_once(dispatcher, plain):
    plain.script = lambda peer: peer.read_to_end()
    job_id = dispatcher.call("echo", host="plain")
    assert plain.connected.wait(10)
    before = time.monotonic()
    assert dispatcher.cancel(job_id) == {"cancelled": True}
    assert time.monotonic() - before < CONNECT / 2
    assert_cancelled(dispatcher, job_id)


CANCELLED = {
    "sent": ((), ()),
    "acknowledged": ((ACKNOWLEDGED,), ()),
    "streaming": ((ACKNOWLEDGED_STREAM, *PACKETS), (0, 1)),
}


@pytest.mark.parametrize("stage", CANCELLED)
def test_cancel_ends_the_call_over_there_before_it_is_answered(
    dispatcher, run, wait_for, stage
):
    messages, packets = CANCELLED[stage]
    sent, left, may_go = threading.Event(), threading.Event(), threading.Event()

    def script(connection):
        send(connection, *messages)
        sent.set()
        connection.read_to_end()
        left.set()
        may_go.wait(10)

    job_id = run(script)
    assert sent.wait(10)
    wait_for(lambda: dispatcher.status(job_id)["packets"] == len(packets))
    with dispatcher.connect() as canceller:
        canceller.send(request("cancel", job_id))
        assert left.wait(10)
        # Its processes may still run over there.
        assert dispatcher.state(job_id) == "running"
        may_go.set()
        assert canceller.reply() == {"cancelled": True}
    assert_cancelled(dispatcher, job_id, packets)


def test_packets_that_come_after_a_cancel_are_stored(dispatcher, run):
    acknowledged = threading.Event()

    def script(connection):
        send(connection, ACKNOWLEDGED_STREAM)
        acknowledged.set()
        connection.read_to_end()
        send(connection, *PACKETS)

    job_id = run(script)
    assert acknowledged.wait(10)
    assert dispatcher.cancel(job_id) == {"cancelled": True}
    assert_cancelled(dispatcher, job_id, (0, 1))


@pytest.mark.parametrize("messages", [(), (ACKNOWLEDGED,)])
def test_daemon_that_never_closes_after_a_cancel_is_waited_for_so_long(
    dispatcher, daemon, run, messages
):
    sent = threading.Event()

    def script(connection):
        send(connection, *messages)
        sent.set()
        daemon.released.wait(30)

    job_id = run(script)
    assert sent.wait(10)
    before = time.monotonic()
    assert dispatcher.cancel(job_id) == {"cancelled": True}
    assert GRACE <= time.monotonic() - before < GRACE + 2
    assert_cancelled(dispatcher, job_id)
    assert "daemon doesn't end a call that was cut off" in dispatcher.log()


def test_daemon_that_floods_after_a_cancel_is_waited_for_so_long(dispatcher, run):
    begun = threading.Event()

    def script(connection):
        send(connection, ACKNOWLEDGED_STREAM)
        begun.set()
        connection.sock.settimeout(0.5)
        with contextlib.suppress(OSError):
            while True:
                connection.send(b'{"stream":5}\n' * 10)
                threading.Event().wait(0.01)

    job_id = run(script)
    assert begun.wait(10)
    before = time.monotonic()
    assert dispatcher.cancel(job_id) == {"cancelled": True}
    assert GRACE <= time.monotonic() - before < GRACE + 2
    assert dispatcher.result(job_id) == {"cancelled": True}


ENDS = [RESULT, EXCEPTION, {"harp": 1, "error": {"type": "timeout", "message": "x"}}]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: list(end)[-1])
def test_end_that_still_comes_after_a_cancel_is_the_truth(dispatcher, run, end):
    acknowledged = threading.Event()

    def script(connection):
        send(connection, ACKNOWLEDGED)
        acknowledged.set()
        connection.read_to_end()
        send(connection, end)

    job_id = run(script)
    assert acknowledged.wait(10)
    assert dispatcher.cancel(job_id) == {"cancelled": False}
    assert list(dispatcher.result(job_id)) == [list(end)[-1]]


def test_garbage_after_a_cancel_leaves_it_cancelled(dispatcher, run):
    acknowledged = threading.Event()

    def script(connection):
        send(connection, ACKNOWLEDGED)
        acknowledged.set()
        connection.read_to_end()
        connection.send(b"garbage\n")

    job_id = run(script)
    assert acknowledged.wait(10)
    assert dispatcher.cancel(job_id) == {"cancelled": True}
    assert_cancelled(dispatcher, job_id)


def follow_to_end(dispatcher, job_id):
    with dispatcher.connect() as client:
        client.send(request("follow_stream", job_id))
        return client.stream()[1]


def test_cancel_that_races_with_the_result_gives_one_answer_everywhere(
    dispatcher, daemon, in_thread
):
    outcomes = []
    for _ in range(60):
        answer = threading.Event()

        def script(connection, received, answer=answer):
            send(connection, ACKNOWLEDGED)
            answer.wait(10)
            with contextlib.suppress(OSError):
                send(connection, RESULT)
                connection.read_to_end()

        daemon.scripts["race"] = script
        job_id = dispatcher.call("race")
        waiting = [in_thread(dispatcher.result, job_id) for _ in range(2)]
        waiting.append(in_thread(follow_to_end, dispatcher, job_id))
        cancelling = [in_thread(dispatcher.cancel, job_id) for _ in range(2)]
        answer.set()
        cancelled = [one.result()["cancelled"] for one in cancelling]
        # Once one is answered, all is.
        assert dispatcher.cancel(job_id) == {"cancelled": False}
        ends = [dispatcher.result(job_id)] + [one.result() for one in waiting]
        assert all(end == ends[0] for end in ends)
        if ends[0] == RESULT:
            assert cancelled == [False, False]
        else:
            assert ends[0] == {"cancelled": True} and True in cancelled
        outcomes.append(list(ends[0])[0])
        assert dispatcher.status(job_id)["outcome"] == outcomes[-1]
        *_, stored, trailer = dispatcher.file(job_id)
        assert (stored, trailer["outcome"]) == (ends[0], outcomes[-1])


def test_queue_goes_on_only_when_the_cancelled_call_has_ended_over_there(
    dispatcher, daemon, in_thread, wait_for
):
    may_go, left = threading.Event(), threading.Event()

    def script(connection, received):
        send(connection, ACKNOWLEDGED)
        connection.read_to_end()
        left.set()
        may_go.wait(10)

    daemon.scripts["slow to end"] = script
    queue = {"name": {"q": "cancel"}}
    first = dispatcher.call("slow to end", queue=queue)
    second = dispatcher.call("echo", queue=queue)
    wait_for(lambda: daemon.called("slow to end"))
    cancelling = in_thread(dispatcher.cancel, first)
    assert left.wait(10)
    assert dispatcher.state(second) == "queued"
    assert not daemon.called("echo")
    may_go.set()
    assert cancelling.result() == {"cancelled": True}
    assert dispatcher.result(second) == {"result": []}


@pytest.mark.parametrize("flood", [0, 100], ids=["garbage", "much garbage"])
def test_queue_goes_on_only_when_a_daemon_that_erred_has_closed(
    make_dispatcher, daemon, certificate, flood
):
    may_go, left = threading.Event(), threading.Event()

    def script(connection, received):
        send(connection, ACKNOWLEDGED)
        connection.send(b"garbage\n")
        for _ in range(flood):
            connection.send(b"x" * 1_000_000)
        connection.read_to_end()
        left.set()
        may_go.wait(30)

    daemon.scripts["garbage"] = script
    dispatcher = make_dispatcher(
        host_entry(daemon.address, cert_sha256=certificate.sha256),
        limits={"cancel_grace": 30.0},
    )
    queue = {"name": {"q": "garbage"}}
    first = dispatcher.call("garbage", queue=queue)
    second = dispatcher.call("echo", queue=queue)
    assert left.wait(20)
    assert not daemon.called("echo")
    may_go.set()
    assert_error(dispatcher, first, "protocol_error", "yes")
    assert dispatcher.result(second) == {"result": []}


@pytest.mark.parametrize("flood", [False, True])
def test_daemon_that_errs_and_never_closes_is_waited_for_so_long(
    dispatcher, daemon, run, flood
):
    def script(connection):
        connection.send(b"garbage\n")
        with contextlib.suppress(OSError):
            while flood:
                connection.send(b"x" * 1_000_000)
        daemon.released.wait(30)

    before = time.monotonic()
    assert_error(dispatcher, run(script), "protocol_error", "maybe")
    assert time.monotonic() - before >= GRACE


def test_request_that_the_daemon_does_not_take_has_not_run(
    make_dispatcher, plain, server_context, certificate, wait_for
):
    finished = threading.Event()

    def handshake_only(peer):
        # As little as possible in the kernel's buffers.
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with server_context.wrap_socket(peer.sock, server_side=True):
            plain.connected.set()
            finished.wait(30)

    plain.script = handshake_only
    dispatcher = make_dispatcher(
        host_entry(plain.address, "plain", cert_sha256=certificate.sha256),
        limits={"arguments": "32 MiB"},
    )
    text = "x" * 30_000_000
    timed_out = dispatcher.call("echo", text, host="plain", timeout=1)
    cancelled = dispatcher.call("echo", text, host="plain", timeout=20)
    assert_error(dispatcher, timed_out, "timeout", "no", "doesn't read the request")
    wait_for(lambda: dispatcher.path(cancelled).read_bytes().count(b"\n") == 2)
    assert dispatcher.cancel(cancelled) == {"cancelled": True}
    assert_cancelled(dispatcher, cancelled)
    cut_off = dispatcher.call("echo", text, host="plain", timeout=20)
    wait_for(lambda: dispatcher.path(cut_off).read_bytes().count(b"\n") == 2)
    dispatcher.stop()
    dispatcher.start()
    assert_error(dispatcher, cut_off, "shutdown", "no")
    finished.set()


# --- trust --------------------------------------------------------------------------


def test_authority_vouches_for_the_name_of_the_host(
    make_dispatcher, daemon, certificate
):
    dispatcher = make_dispatcher(
        host_entry(daemon.address, "localhost"),
        host_entry(daemon.address, "web01", tls_name="localhost"),
        host_entry(daemon.address, "web02", tls_name="127.0.0.1"),
        host_entry(daemon.address, "web03"),
        host_entry(daemon.address, "web04", tls_name="a" * 70),
        host_entry(daemon.address, "web05", tls_name=".."),
        host_entry(
            daemon.address, "pinned", cert_sha256="0" * 64, tls_name="localhost"
        ),
        trust={"ca_file": certificate.certificate},
    )
    for host in ("localhost", "web01", "web02"):
        assert dispatcher.result(dispatcher.call(host=host)) == {"result": []}
    for host in ("web03", "web04", "web05"):
        error = dispatcher.result(dispatcher.call(host=host))["error"]
        assert error["ran"] == "no"
        assert error["type"] == "certificate_error" or host != "web03"
    # A pin decides alone.
    error = dispatcher.result(dispatcher.call(host="pinned"))["error"]
    assert error["type"] == "certificate_error"
    assert len(daemon.requests) == 3


def test_certificate_that_no_authority_signed_is_not_trusted(
    make_dispatcher, daemon, tmp_path
):
    other = testing.make_certificate(tmp_path)
    dispatcher = make_dispatcher(
        host_entry(daemon.address, "localhost"), trust={"ca_file": other.certificate}
    )
    error = dispatcher.result(dispatcher.call(host="localhost"))["error"]
    assert (error["type"], error["ran"]) == ("certificate_error", "no")
    assert "trust.ca_file" in error["message"]
    assert not daemon.requests


def test_unverified_host_is_spoken_to_only_if_the_configuration_says_so(
    make_dispatcher, daemon
):
    dispatcher = make_dispatcher(host_entry(daemon.address), trust={"verify": "none"})
    assert dispatcher.result(dispatcher.call()) == {"result": []}


def test_known_certificates_are_read_again_when_they_change(
    make_dispatcher, daemon, certificate, tmp_path
):
    known = tmp_path / "known"
    known.write_text(f"# comment\n\nweb02 {certificate.sha256}\nweb01 {'0' * 64}\n")
    dispatcher = make_dispatcher(
        host_entry(daemon.address), trust={"known_certs_file": known}
    )
    error = dispatcher.result(dispatcher.call())["error"]
    assert (error["type"], error["ran"]) == ("certificate_error", "no")
    with known.open("a") as file:
        file.write(f"web01 {certificate.sha256.upper()}\n")
    assert dispatcher.result(dispatcher.call()) == {"result": []}
    known.unlink()
    assert dispatcher.result(dispatcher.call()) == {"result": []}
    assert "what it held before counts" in dispatcher.log()
    known.write_text("web01 x\nweb01\n")
    error = dispatcher.result(dispatcher.call())["error"]
    assert "nothing vouches for host web01" in error["message"]


def test_credentials_and_address_are_those_of_the_moment_at_which_a_job_starts(
    make_dispatcher, daemon, certificate, wait_for
):
    pin = certificate.sha256
    dispatcher = make_dispatcher(
        host_entry(daemon.address, cert_sha256=pin),
        host_entry(("127.0.0.1", 1), "web02", cert_sha256=pin),
    )
    queue = {"name": {"q": 1}}
    holding = dispatcher.call("wait", queue=queue)
    jobs = [dispatcher.call(host=host, queue=queue) for host in ("web01", "web02")]
    wait_for(lambda: daemon.called("wait"))
    other = {"user": "other", "password": "new"}
    dispatcher.write_hosts(
        host_entry(daemon.address, name, cert_sha256=pin, credentials=other)
        for name in ("web01", "web02", "new")
    )
    wait_for(lambda: len(dispatcher.ask(request("list_hosts", True))["hosts"]) == 3)
    dispatcher.cancel(holding)
    for job_id in jobs:
        assert dispatcher.result(job_id) == {"result": []}
    first, *later = [one["auth"] for one in daemon.requests]
    assert first == {"user": USER, "password": PASSWORD}
    assert later == [other, other]


# --- out of descriptors -------------------------------------------------------------


def test_out_of_descriptors_is_an_error_of_this_machine_and_passes(
    make_dispatcher, daemon, certificate, wait_for
):
    dispatcher = make_dispatcher(
        host_entry(daemon.address, cert_sha256=certificate.sha256)
    )
    with dispatcher.connect() as client:
        assert "hosts" in client.ask(request("list_hosts", True))
        _, hard = resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE)
        for left in range(12):
            limit = dispatcher.descriptors() + left
            resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE, (limit, hard))
            reply = client.ask(call_request())
            if "error" in reply:
                assert reply["error"]["type"] == "storage_error"
                continue
            end = client.ask(request("get_result", reply["job_id"]))
            if "error" in end:
                assert end["error"]["type"] in ("os_error", "storage_error"), end
        resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE, (hard, hard))
        job_id = client.ask(call_request())["job_id"]
        assert client.ask(request("get_result", job_id)) == {"result": []}
    for path in (dispatcher.jobs / "active").iterdir():
        wait_for(lambda: not path.exists())
    assert "Traceback" not in dispatcher.log()
