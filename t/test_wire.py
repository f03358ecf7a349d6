"""Lines over a socket: doc/protocol.rst, "Lines"."""

import contextlib
import json
import select
import socket
import ssl
import struct
import threading
import time
import tracemalloc

import pytest

from harp import wire
from harp.errors import INVALID_REQUEST, PARSE_ERROR, Refusal

SOON = 0.2  # s; something that is not to come is waited for so long
NEVER = 30  # s; what is to come comes long before
MAX_LINE = 1024 * 1024


def within(seconds: float) -> float:
    return time.monotonic() + seconds


@pytest.fixture
def closing():
    """``closing(x)`` returns ``x``, which is closed after the test."""
    opened = []

    def remember(thing):
        opened.append(thing)
        return thing

    yield remember
    for thing in reversed(opened):
        thing.close()


@pytest.fixture
def pair(closing):
    """``pair(max_line, wakers)`` returns a connection and the peer's socket."""

    def make(max_line=MAX_LINE, wakers=()):
        ours, theirs = socket.socketpair()
        theirs.settimeout(NEVER)
        closing(theirs)
        return closing(wire.Connection(ours, max_line, wakers)), theirs

    return make


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    client.settimeout(NEVER)
    return client, server


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.fixture
def tcp_pair(closing):
    """The same over TCP."""

    def make(max_line=MAX_LINE, wakers=()):
        client, server = tcp_sockets()
        closing(client)
        return closing(wire.Connection(server, max_line, wakers)), client

    return make


@pytest.fixture
def tls_pair(closing, in_thread, server_context, client_context):
    """Two connections with TLS between them: the server's and the client's."""

    def make(max_line=MAX_LINE, wakers=(), sockets=None):
        client, server = sockets or tcp_sockets()
        ours = closing(wire.Connection(server, max_line, wakers))
        theirs = closing(wire.Connection(client, max_line))
        handshake = in_thread(ours.start_tls, server_context, None, within(NEVER))
        theirs.start_tls(client_context, "localhost", within(NEVER))
        handshake.result()
        return ours, theirs

    return make


@pytest.fixture
def waker(closing):
    return closing(wire.Waker())


# --- decoding -----------------------------------------------------------------------

NOT_JSON = [
    b"",
    b" ",
    b"call",
    b"{",
    b'{"a":1} x',
    b'{"a":1}{"b":2}',
    b"{'a':1}",
    b'{"a":1,}',
    b'{"a"}',
    b'{a:1}',
    b'{1:1}',
    b'{"a":01}',
    b'{"a":+1}',
    b'{"a":.5}',
    b'{"a":1.}',
    b'{"a":0x10}',
    b'{"a":True}',
    b'{"a":"\x01"}',
    b'{"a":"\t"}',
    b'{"a":"\\x41"}',
    b'{"a":"\\u00g0"}',
    b'{"a":"\\ud8"}',
    b'{"a":1}\x00',
    b'\xef\xbb\xbf{"a":1}',
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":-Infinity}',
    b'{"a":[{"b":NaN}]}',
    b'{"a":1} // comment',
    b'\xc2\xa0{"a":1}',
]


@pytest.mark.parametrize("line", NOT_JSON)
def test_line_that_is_not_json_is_a_parse_error_and_the_connection_goes_on(line):
    with pytest.raises(Refusal) as caught:
        wire.decode(line)
    assert (caught.value.type, caught.value.closes) == (PARSE_ERROR, False)


NOT_UTF8 = [
    b'{"a":"\xff"}',
    b'{"a":"\xc3"}',
    b'{"a":"\xc0\x80"}',
    b'{"a":"\xf4\x90\x80\x80"}',
    b'{"a":"\xed\xa0\x80"}',  # a surrogate in UTF-8's clothes
    b'{"\xe4":1}',
    '{"a":1}'.encode("utf-16"),
]


@pytest.mark.parametrize("line", NOT_UTF8)
def test_line_that_is_not_utf8_is_a_parse_error_that_closes(line):
    with pytest.raises(Refusal) as caught:
        wire.decode(line)
    assert (caught.value.type, caught.value.closes) == (PARSE_ERROR, True)


DEEPEST = wire.MAX_DEPTH + wire.WRAPPING_DEPTH


def nested(depth: int) -> bytes:
    """An object of so many levels."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


NOT_ACCEPTED = {
    "array": b"[]",
    "array of objects": b'[{"a":1}]',
    "string": b'"harpcaller"',
    "number": b"1",
    "null": b"null",
    "true": b"true",
    "float that overflows": b'{"a":1e309}',
    "negative float that overflows": b'{"a":-1e309}',
    "float whose digits overflow": b'{"a":' + b"9" * 400 + b".0}",
    "integer of 4301 digits": b'{"a":' + b"1" * 4301 + b"}",
    "negative integer of 4301 digits": b'{"a":-' + b"1" * 4301 + b"}",
    "duplicate key": b'{"a":1,"a":1}',
    "duplicate key by an escape": b'{"a":1,"\\u0061":2}',
    "duplicate empty key": b'{"":1,"":2}',
    "duplicate key within": b'{"a":[{"b":1,"c":2,"b":3}]}',
    "one level too deep": nested(DEEPEST + 1),
    "by objects": b'{"a":' * (DEEPEST + 1) + b"1" + b"}" * (DEEPEST + 1),
    "deeper than the stack": nested(100_000),
    "deeper than the stack and cut": b'{"a":' + b"[" * 100_000,
    "deeper than the stack by objects": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("line", NOT_ACCEPTED.values(), ids=NOT_ACCEPTED)
def test_json_that_is_not_accepted_is_an_invalid_request(line):
    with pytest.raises(Refusal) as caught:
        wire.decode(line)
    assert (caught.value.type, caught.value.closes) == (INVALID_REQUEST, False)
    assert len(caught.value.message) < 200


ACCEPTED = [
    (b"{}", {}),
    (b' \t{"a": [1, 2.5, -0, "x", null, true, false, {}]} \r',
     {"a": [1, 2.5, 0, "x", None, True, False, {}]}),
    (b'{"":""}', {"": ""}),
    (b'{"a":1,"A":2}', {"a": 1, "A": 2}),
    ('{"ä":"€ 𝄞"}'.encode(), {"ä": "€ 𝄞"}),
    (b'{"a":"\\u00e4 \\ud834\\udd1e \\/ \\n"}', {"a": "ä 𝄞 / \n"}),
    (b'{"a":"\\u0000\x7f"}', {"a": "\0\x7f"}),
    (b'{"a":"\\udcff"}', {"a": "\udcff"}),
    ('{"a":"\u2028"}'.encode(), {"a": "\u2028"}),
    (b'{"a":1.7e308,"b":1e-999}', {"a": 1.7e308, "b": 0.0}),
    (b'{"a":' + b"9" * 4300 + b"}", {"a": 10**4300 - 1}),
    (b'{"a":-' + b"9" * 4300 + b"}", {"a": 1 - 10**4300}),
    (b'{"a":"' + b"[" * 1000 + b'"}', {"a": "[" * 1000}),
    (b'{"a":[' + b"[]," * 1000 + b"[]]}", {"a": [[]] * 1001}),
    (nested(DEEPEST), json.loads(nested(DEEPEST))),
]  # fmt: skip


def short(value: object) -> str:
    return ascii(value)[:40]


@pytest.mark.parametrize(("line", "message"), ACCEPTED, ids=short)
def test_line_is_decoded_as_what_it_says(line, message):
    assert wire.decode(line) == message


def test_true_is_not_taken_for_one():
    assert wire.decode(b'{"a":true}')["a"] is True


MIB = 1 << 20
HOSTILE = {
    "brackets": b"[" * (4 * MIB),
    "braces": b'{"":' * MIB,
    "digits": b'{"a":' + b"1" * (4 * MIB) + b"}",
    "digits of a float": b'{"a":0.' + b"1" * (4 * MIB) + b"}",
    "exponent": b'{"a":1e' + b"1" * (4 * MIB) + b"}",
    "the same key": b"{" + b'"a":1,' * (MIB // 2) + b'"a":1}',
    "carriage returns": b"\r" * (4 * MIB),
    "a string without an end": b'{"a":"' + b"x" * (4 * MIB),
    "escapes": b'{"a":"' + b"\\u0000" * (MIB // 2) + b'\\"',
}


def seconds_to_decode(line: bytes) -> float:
    start = time.thread_time()
    with contextlib.suppress(Refusal):
        wire.decode(line)
    return time.thread_time() - start


@pytest.fixture(scope="module")
def harmless_seconds():
    return seconds_to_decode(b'{"a":[' + b"[0]," * MIB + b"0]}")


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_hostile_line_costs_no_more_than_a_harmless_one(line, harmless_seconds):
    assert seconds_to_decode(line) < 4 * harmless_seconds + 0.5


# --- encoding -----------------------------------------------------------------------


@pytest.mark.parametrize(("_line", "message"), ACCEPTED, ids=short)
def test_what_is_encoded_is_decoded_as_the_same(_line, message):
    line = wire.encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert wire.decode(line[:-1]) == message


SURROGATES = [
    (b'{"a":"\\udcff"}', "by itself"),
    ('{"a":"ä\\udc80ä"}'.encode(), "between other text"),
    (b'{"\\ud800":1}', "as a key"),
    (b'{"a":"\\\\\\udcff"}', "after a backslash"),
    (b'{"a":"\\udcff\\ud800"}', "pair in the wrong order"),
]


@pytest.mark.parametrize(("line", "_what"), SURROGATES)
def test_lone_surrogate_passes_through_as_its_escape(line, _what):
    assert wire.encode(wire.decode(line)) == line + b"\n"


def test_other_text_goes_out_as_utf8():
    assert wire.encode({"a": "ä€𝄞"}) == '{"a":"ä€𝄞"}\n'.encode()


CIRCULAR: list = []
CIRCULAR.append(CIRCULAR)

DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]

NO_VALUES = {
    "NaN": (float("nan"), ValueError),
    "infinity": (float("inf"), ValueError),
    "negative infinity": ([float("-inf")], ValueError),
    "integer of 4301 digits": (10**4300, ValueError),
    "circular": (CIRCULAR, ValueError),
    "too deep": (DEEP, ValueError),
    "object": (object(), TypeError),
    "bytes": ({"a": b"x"}, TypeError),
    "set": ({1, 2}, TypeError),
    "tuple as key": ({(1, 2): 3}, TypeError),
}


@pytest.mark.parametrize(("value", "error"), NO_VALUES.values(), ids=NO_VALUES)
def test_what_is_not_json_is_not_encoded(value, error):
    with pytest.raises(error):
        wire.encode({"result": value})


@pytest.mark.parametrize(
    ("value", "depth"), [(5, 0), ("[[", 0), ([], 1), ([1, {}], 2), ({"a": [[]]}, 3)]
)
def test_depth_counts_arrays_and_objects(value, depth):
    wire.check_depth(value, depth)
    if depth:
        with pytest.raises(Refusal) as caught:
            wire.check_depth(value, depth - 1)
        assert caught.value.type == INVALID_REQUEST


# --- lines --------------------------------------------------------------------------

TEXT = '{"a":"ä"}\r\n\n{"b":2}\n'.encode()
LINES = ['{"a":"ä"}\r'.encode(), b"", b'{"b":2}']


def received_now(connection: wire.Connection) -> list[bytes]:
    lines = []
    try:
        while True:
            lines.append(connection.readline(within(0)))
    except wire.DeadlineExceeded:
        return lines


@pytest.mark.parametrize("size", range(1, len(TEXT) + 1))
def test_lines_are_whole_however_they_are_cut(pair, size):
    connection, peer = pair()
    lines = []
    for start in range(0, len(TEXT), size):
        peer.sendall(TEXT[start : start + size])
        lines += received_now(connection)
    assert lines == LINES


def test_lines_in_tls_are_whole_however_they_are_cut(tls_pair):
    connection, peer = tls_pair()
    lines = []
    for byte in TEXT:
        peer.send(bytes([byte]), within(NEVER))
        select.select([connection], [], [], NEVER)
        lines += received_now(connection)
    assert lines == LINES


@pytest.mark.parametrize("cut", range(len(TEXT) + 1))
def test_end_tells_whether_it_is_within_a_line(pair, cut):
    # given
    connection, peer = pair()
    peer.sendall(TEXT[:cut])
    peer.close()
    # when
    lines = []
    with pytest.raises(wire.EndOfStream) as caught:
        while True:
            lines.append(connection.readline(within(NEVER)))
    # then
    assert lines == LINES[: len(lines)]
    assert caught.value.partial is (cut > 0 and TEXT[cut - 1 : cut] != b"\n")


def test_lines_that_are_there_come_together(pair):
    connection, peer = pair()
    peer.sendall(TEXT + b"half")
    assert connection.readlines(within(NEVER)) == LINES
    peer.sendall(b" and half\n")
    assert connection.readlines(within(NEVER)) == [b"half and half"]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_line_as_long_as_allowed_is_taken(pair, ending):
    connection, peer = pair(max_line=100)
    line = b"x" * (101 - len(ending))
    peer.sendall((line + ending) * 2)
    assert connection.readlines(within(NEVER)) == [line + ending[:-1]] * 2


@pytest.mark.parametrize("ending", [b"", b"\n", b"\n{}\n"])
@pytest.mark.parametrize("before", [b"", b"first\n"])
def test_line_that_is_longer_is_refused_and_closes(pair, before, ending):
    connection, peer = pair(max_line=100)
    peer.sendall(before + b"x" * 101 + ending)
    if before:
        assert connection.readline(within(NEVER)) == b"first"
    with pytest.raises(Refusal) as caught:
        connection.readline(within(NEVER))
    assert (caught.value.type, caught.value.closes) == (INVALID_REQUEST, True)
    assert "100 bytes" in caught.value.message


def test_limit_is_enforced_while_reading(tcp_pair, in_thread):
    # given: 50 MB in one line
    connection, peer = tcp_pair(max_line=MAX_LINE)
    sent = []

    def flood():
        try:
            for _ in range(800):
                sent.append(peer.send(b"x" * 65536))
        except OSError:
            pass  # the other end has closed

    sender = in_thread(flood)
    # when
    tracemalloc.start()
    try:
        with pytest.raises(Refusal):
            connection.readline(within(NEVER))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    connection.close()
    sender.result()
    # then
    assert peak < 4 * MAX_LINE
    assert sum(sent) < 800 * 65536


def test_line_of_16_mib_is_taken_whole(tls_pair, in_thread):
    connection, peer = tls_pair(max_line=16 << 20)
    line = bytes(range(32, 127)) * ((16 << 20) // 95)
    sender = in_thread(peer.send, line + b"\n", within(NEVER))
    assert connection.readline(within(NEVER)) == line
    sender.result()


# --- deadlines ----------------------------------------------------------------------


def test_deadline_counts_from_a_silent_peer(pair):
    connection, _ = pair()
    start = time.monotonic()
    with pytest.raises(wire.DeadlineExceeded):
        connection.readline(start + SOON)
    assert time.monotonic() - start >= SOON


@pytest.mark.parametrize("seconds", [3_000_000, 10**18])
def test_deadline_may_be_later_than_the_system_can_wait(
    pair, waker, in_thread, seconds
):
    connection, peer = pair()
    reading = in_thread(connection.readline, time.monotonic() + seconds)
    waiting = in_thread(waker.wait, time.monotonic() + seconds)
    peer.sendall(b"{}\n")
    waker.wake()
    assert reading.result() == b"{}"
    assert waiting.result() is True


def test_wait_goes_on_where_the_system_waits_no_longer(pair, waker, monkeypatch):
    monkeypatch.setattr(wire, "LONGEST_POLL", SOON * 1000 / 5)
    connection, _ = pair()
    start = time.monotonic()
    with pytest.raises(wire.DeadlineExceeded):
        connection.readline(start + SOON)
    assert waker.wait(start + 2 * SOON) is False
    assert time.monotonic() - start >= 2 * SOON


def test_line_that_is_there_is_taken_after_the_deadline_too(pair):
    connection, peer = pair()
    peer.sendall(b"{}\n")
    assert connection.readline(time.monotonic() - 1) == b"{}"


@pytest.mark.parametrize("tls", [False, True])
def test_deadline_is_for_the_whole_line_of_a_dripping_peer(
    scripted_peer, closing, client_context, tls
):
    # given
    stop = threading.Event()

    def drip(peer):
        while not stop.wait(0.001):
            peer.send(b"x")

    address = scripted_peer(drip, tls=tls).address
    connection = closing(wire.connect(socket.AF_INET, address, 10**9, within(NEVER)))
    if tls:
        connection.start_tls(client_context, "localhost", within(NEVER))
    # when, then: it ends at all
    try:
        with pytest.raises(wire.DeadlineExceeded):
            connection.readline(within(SOON))
    finally:
        stop.set()


def test_deadline_is_for_the_whole_of_what_is_sent(scripted_peer, closing):
    # given: a peer that takes a little now and then
    stop = threading.Event()

    def sip(peer):
        while not stop.wait(0.001):
            peer.sock.recv(1000)

    address = scripted_peer(sip, receive_buffer=4096).address
    connection = closing(wire.connect(socket.AF_INET, address, MAX_LINE, within(NEVER)))
    # when, then
    try:
        with pytest.raises(wire.DeadlineExceeded):
            connection.send(b"x" * (64 << 20), within(SOON))
    finally:
        stop.set()


@pytest.mark.parametrize("tls", [False, True])
def test_all_is_sent_to_a_slow_reader(pair, tls_pair, in_thread, tls):
    # given
    connection, peer = tls_pair() if tls else pair()
    data = bytes(range(256)) * (4 << 12)
    sender = in_thread(connection.send, data, within(NEVER))
    # when
    received = bytearray()
    while len(received) < len(data):
        if tls:
            some, event = peer.receive_some()
            if event:
                peer.wait(event, within(NEVER))
        else:
            some = peer.recv(4099)
        received += some
    # then
    sender.result()
    assert received == data


# --- wakers -------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_waker_ends_a_wait_and_what_has_come_is_kept(
    pair, tls_pair, in_thread, waker, tls
):
    # given
    connection, peer = (tls_pair if tls else pair)(wakers=(waker,))
    reader = in_thread(connection.readline, None)
    half = (lambda data: peer.send(data, None)) if tls else peer.sendall
    half(b'{"a":')
    # when
    waker.wake()
    # then
    with pytest.raises(wire.Woken):
        reader.result()
    waker.clear()
    half(b"1}\n")
    assert connection.readline(within(NEVER)) == b'{"a":1}'


def test_waker_ends_each_wait_until_it_is_cleared(pair, waker):
    connection, _ = pair(wakers=(waker,))
    waker.wake()
    waker.wake()
    for _ in range(2):
        with pytest.raises(wire.Woken):
            connection.readline(None)
    waker.clear()
    waker.clear()
    with pytest.raises(wire.DeadlineExceeded):
        connection.readline(within(0))


def test_waker_ends_sending(pair, waker, in_thread):
    connection, _ = pair(wakers=(waker,))
    sender = in_thread(connection.send, b"x" * (16 << 20), None)
    waker.wake()
    with pytest.raises(wire.Woken):
        sender.result()


def test_any_of_several_wakers_ends_a_wait(pair, closing):
    wakers = tuple(closing(wire.Waker()) for _ in range(3))
    connection, _ = pair(wakers=wakers)
    for waker in wakers:
        waker.wake()
        with pytest.raises(wire.Woken):
            connection.readline(None)
        waker.clear()


def test_closed_waker_may_be_set_and_closed(closing):
    # given: its descriptor's number is in use again
    waker = wire.Waker()
    number = waker.fileno()
    waker.close()
    ours, theirs = socket.socketpair()
    closing(ours), closing(theirs)
    assert number in (ours.fileno(), theirs.fileno())
    # when
    waker.wake()
    waker.close()
    # then: whose it is now has got nothing
    ours.setblocking(False)
    theirs.setblocking(False)
    for sock in (ours, theirs):
        with pytest.raises(BlockingIOError):
            sock.recv(1)


def test_waiting_for_a_waker_clears_it(waker, in_thread):
    waiting = in_thread(waker.wait, None)
    waker.wake()
    assert waiting.result() is True
    assert waker.wait(within(0)) is False


def test_owner_may_wait_for_a_waker_whatever_the_peer_sends(pair, waker, in_thread):
    # given: a peer that has sent and closed its sending side
    connection, peer = pair(wakers=(waker,))
    peer.sendall(b"{}\n")
    peer.shutdown(socket.SHUT_WR)
    # then
    with pytest.raises(wire.DeadlineExceeded):
        connection.wait_until_woken(within(0))
    waiting = in_thread(connection.wait_until_woken, None)
    waker.wake()
    waiting.result()


def test_owner_that_waits_for_a_waker_learns_that_the_peer_has_gone(
    pair, waker, in_thread
):
    connection, peer = pair(wakers=(waker,))
    waiting = in_thread(connection.wait_until_woken, None)
    peer.close()
    with pytest.raises(wire.EndOfStream):
        waiting.result()


# --- the end of a connection --------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_half_closed_connection_can_be_read_from(pair, tls_pair, tls):
    # given
    connection, peer = reversed(tls_pair()) if tls else pair()
    # when
    connection.half_close()
    # then
    if tls:
        with pytest.raises(wire.EndOfStream):
            peer.readline(within(NEVER))
        peer.send(b"late\n", within(NEVER))
    else:
        assert peer.recv(1) == b""
        peer.sendall(b"late\n")
    assert connection.readline(within(NEVER)) == b"late"
    with pytest.raises(OSError):
        connection.send(b"more\n", within(NEVER))
    connection.half_close()


@pytest.mark.parametrize("tls", [False, True])
def test_broken_connection_is_an_error_and_no_end(tcp_pair, tls_pair, tls):
    connection, peer = tls_pair() if tls else tcp_pair()
    if tls:
        peer = peer.sock
    reset(peer)
    # Python before 3.13 takes a reset under TLS for an end.
    with pytest.raises((OSError, wire.EndOfStream) if tls else OSError):
        connection.readline(within(NEVER))
    with pytest.raises(OSError):
        connection.send(b"{}\n", within(NEVER))


def test_end_of_tls_is_an_end(tls_pair, in_thread):
    connection, peer = tls_pair()
    closing = in_thread(peer.close_after_reading)
    with pytest.raises(wire.EndOfStream):
        connection.readline(within(NEVER))
    connection.close()
    closing.result()


@pytest.mark.parametrize("tls", [False, True])
def test_peer_can_read_what_was_sent_last_however_much_it_sends(
    tcp_pair, tls_pair, in_thread, tls
):
    # given: many MB of input that nobody reads
    connection, peer = tls_pair() if tls else tcp_pair()
    if tls:
        peer = peer.sock
    peer.settimeout(NEVER)
    sender = in_thread(peer.sendall, b"x" * (32 << 20))
    connection.sock.setblocking(True)
    connection.sock.recv(1)
    connection.sock.setblocking(False)
    # when
    connection.send(b'{"error":1}\n', within(NEVER))
    closing = in_thread(connection.close_after_reading)
    # then
    sender.result()
    received = b""
    while not received.endswith(b"\n"):
        received += peer.recv(100)
    assert received == b'{"error":1}\n'
    assert peer.recv(100) == b""
    peer.close()
    closing.result()
    assert connection.sock.fileno() == -1


@pytest.mark.parametrize("state", ["new", "reset", "wrapped", "failed"])
def test_connection_in_any_state_can_be_closed_after_reading(
    tcp_pair, server_context, state
):
    connection, peer = tcp_pair()
    if state == "wrapped":
        with pytest.raises(wire.DeadlineExceeded):
            connection.start_tls(server_context, None, within(0))
    elif state == "failed":
        peer.sendall(b"plain text\n")
        with pytest.raises(OSError):
            connection.start_tls(server_context, None, within(NEVER))
    elif state == "reset":
        reset(peer)
        with pytest.raises(OSError):
            connection.start_tls(server_context, None, within(NEVER))
    peer.close()
    connection.close_after_reading()
    assert connection.sock.fileno() == -1


@pytest.mark.slow
def test_peer_that_never_closes_is_waited_for_five_seconds(tcp_pair):
    connection, _ = tcp_pair()
    start = time.monotonic()
    connection.close_after_reading()
    assert 5 <= time.monotonic() - start < 10


# --- TLS ----------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["server", "client"])
def test_handshake_has_a_deadline(tcp_pair, server_context, client_context, side):
    connection, _ = tcp_pair()
    context, name = {
        "server": (server_context, None),
        "client": (client_context, "localhost"),
    }[side]
    start = time.monotonic()
    with pytest.raises(wire.DeadlineExceeded):
        connection.start_tls(context, name, start + SOON)
    assert time.monotonic() - start >= SOON


def test_handshake_of_a_dripping_peer_has_a_deadline(
    tcp_pair, server_context, in_thread
):
    # given: a peer that sends the longest first message there is, byte by byte
    connection, peer = tcp_pair()
    stop = threading.Event()

    def drip():
        peer.sendall(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03")
        while not stop.wait(0.001):
            peer.sendall(b"\0")

    dripping = in_thread(drip)
    # when, then
    try:
        with pytest.raises(wire.DeadlineExceeded):
            connection.start_tls(server_context, None, within(SOON))
    finally:
        stop.set()
        dripping.result()


def test_waker_ends_a_handshake(tcp_pair, waker, in_thread, server_context):
    connection, _ = tcp_pair(wakers=(waker,))
    handshake = in_thread(connection.start_tls, server_context, None, within(NEVER))
    waker.wake()
    with pytest.raises(wire.Woken):
        handshake.result()


def test_plain_text_to_a_tls_port_is_seen_at_its_first_byte(tcp_pair, server_context):
    connection, peer = tcp_pair()
    peer.sendall(b'{"harp":1}\n')
    assert connection.peek(within(NEVER)) == b"{"
    assert connection.readline(within(NEVER)) == b'{"harp":1}'
    peer.sendall(b'{"harp":1}\n')
    with pytest.raises(ssl.SSLError):
        connection.start_tls(server_context, None, within(NEVER))


def test_peeking_at_an_end_gives_nothing_and_has_a_deadline(tcp_pair):
    connection, peer = tcp_pair()
    with pytest.raises(wire.DeadlineExceeded):
        connection.peek(within(0))
    peer.close()
    assert connection.peek(within(NEVER)) == b""


def test_tls_to_a_plain_port_is_refused_at_once(tcp_pair, client_context, in_thread):
    # given
    connection, peer = tcp_pair()
    client = wire.Connection(peer, MAX_LINE)
    handshake = in_thread(
        client.start_tls, client_context, "localhost", within(NEVER)
    )
    # when
    with pytest.raises(Refusal) as caught:
        connection.readline(within(NEVER))
    # then
    assert (caught.value.type, caught.value.closes) == (PARSE_ERROR, True)
    assert "TLS" in caught.value.message
    connection.send(b"{}\n", within(NEVER))
    closing = in_thread(connection.close_after_reading)
    with pytest.raises(ssl.SSLError):
        handshake.result()
    client.close()
    closing.result()


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, "a\0b", "*" * 300])
def test_name_that_no_certificate_can_have_is_an_error_of_the_handshake(
    tcp_pair, client_context, name
):
    connection, _ = tcp_pair()
    with pytest.raises(OSError):
        connection.start_tls(client_context, name, within(0))


def test_certificate_for_another_name_ends_the_handshake(
    tcp_pair, server_context, client_context, closing, in_thread
):
    connection, peer = tcp_pair()
    client = closing(wire.Connection(peer, MAX_LINE))
    handshake = in_thread(connection.start_tls, server_context, None, within(NEVER))
    with pytest.raises(ssl.SSLCertVerificationError):
        client.start_tls(client_context, "elsewhere", within(NEVER))
    with pytest.raises(ssl.SSLError):
        handshake.result()


class Relay:
    """Passes bytes on between two sockets, and keeps them."""

    def __init__(self, left: socket.socket, right: socket.socket) -> None:
        self._threads = [
            threading.Thread(target=self._pass_on, args=(left, right, 0), name="relay"),
            threading.Thread(target=self._pass_on, args=(right, left, 1), name="relay"),
        ]
        self._sockets = left, right
        self.passed = bytearray(), bytearray()
        for thread in self._threads:
            thread.start()

    def _pass_on(self, source, target, direction: int) -> None:
        try:
            while data := source.recv(65536):
                self.passed[direction].extend(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of the ends has gone

    def close(self) -> None:
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()


def is_tls(data: bytes) -> bool:
    """Whether these are TLS records (RFC 8446, 5.1), whole ones but for the last."""
    while data:
        if data[0] not in (20, 21, 22, 23) or (len(data) > 1 and data[1] != 3):
            return False
        length = int.from_bytes(data[3:5], "big")
        data = data[5 + length :]
    return True


def test_records_are_told_from_plain_text():
    assert is_tls(b"\x17\x03\x03\0\1x\x15\x03\x03\0\2")
    assert not is_tls(b"\x17\x03\x03\0\1x" + b"{}\n")


@pytest.fixture
def relayed(tls_pair, closing):
    """Two connections with TLS, and the relay between them."""
    client, left = tcp_sockets()
    right, server = tcp_sockets()
    relay = closing(Relay(left, right))
    ours, theirs = tls_pair(sockets=(client, server))
    return ours, theirs, relay


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("end", ["half_close", "close_after_reading", "both"])
def test_nothing_plain_follows_the_end_of_a_tls_connection(
    relayed, in_thread, side, end
):
    # given: a connection that was in use
    ours, theirs, relay = relayed
    if side == "client":
        ours, theirs = theirs, ours
    ours.send(b"secret one\n", within(NEVER))
    assert theirs.readline(within(NEVER)) == b"secret one"
    # when: it is ended, and its owner writes on
    if end != "close_after_reading":
        ours.half_close()
        for _ in range(3):
            with pytest.raises(OSError):
                ours.send(b"secret two\n", within(NEVER))
    if end != "half_close":
        closing = in_thread(ours.close_after_reading)
    # then
    with pytest.raises(wire.EndOfStream):
        theirs.readline(within(NEVER))
    if side == "client":  # see the contexts: a server may go on after that
        theirs.send(b"secret three\n", within(NEVER))
    if end == "half_close":
        if side == "client":
            assert ours.readline(within(NEVER)) == b"secret three"
        ours.close()
    theirs.close()
    if end != "half_close":
        closing.result()
        with pytest.raises(OSError):
            ours.send(b"secret four\n", within(NEVER))
    relay.close()
    for passed in relay.passed:
        assert is_tls(bytes(passed))
        assert b"secret" not in passed


def test_nothing_plain_follows_when_another_thread_ends_a_tls_connection(
    relayed, in_thread
):
    # given: an owner that writes all the time
    ours, theirs, relay = relayed

    def write():
        while True:
            ours.send(b"secret\n" * 100, within(NEVER))

    def read():
        while True:
            theirs.readline(within(NEVER))

    writing = in_thread(write)
    reading = in_thread(read)
    # when
    ours.half_close()
    # then
    with pytest.raises(OSError):
        writing.result()
    with pytest.raises(wire.EndOfStream):
        reading.result()
    ours.close()
    theirs.close()
    relay.close()
    assert all(is_tls(bytes(passed)) for passed in relay.passed)


# --- connecting ---------------------------------------------------------------------


def test_connection_over_tcp_has_no_delay_and_keepalive(scripted_peer, closing):
    peer = scripted_peer(lambda peer: peer.send(peer.readline() + b"\n"))
    connection = closing(
        wire.connect(socket.AF_INET, peer.address, MAX_LINE, within(NEVER))
    )
    connection.send(b"hello\n", within(NEVER))
    assert connection.readline(within(NEVER)) == b"hello"
    sock = connection.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert not sock.get_inheritable()


def test_refused_connection_is_an_error_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        wire.connect(socket.AF_INET, address, MAX_LINE, within(NEVER))


@pytest.fixture
def full_port(closing):
    """The address of a listener that takes no more connections."""
    listener = closing(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    for _ in range(3):
        sock = closing(socket.socket())
        sock.setblocking(False)
        sock.connect_ex(address)
    return address


def test_connecting_has_a_deadline(full_port):
    with pytest.raises(wire.DeadlineExceeded):
        wire.connect(socket.AF_INET, full_port, MAX_LINE, within(SOON))


def test_waker_ends_connecting(full_port, waker, in_thread):
    connecting = in_thread(
        wire.connect, socket.AF_INET, full_port, MAX_LINE, within(NEVER), (waker,)
    )
    waker.wake()
    with pytest.raises(wire.Woken):
        connecting.result()


@pytest.fixture
def full_unix(closing, tmp_path):
    """A listening Unix socket whose backlog is full."""
    listener = closing(socket.socket(socket.AF_UNIX))
    listener.bind(str(tmp_path / "socket"))
    listener.listen(0)
    closing(wire.connect(socket.AF_UNIX, listener.getsockname(), 100, within(NEVER)))
    return listener


def test_connecting_to_a_busy_unix_socket_has_a_deadline(full_unix):
    start = time.monotonic()
    with pytest.raises(wire.DeadlineExceeded):
        wire.connect(socket.AF_UNIX, full_unix.getsockname(), 100, within(SOON))
    assert time.monotonic() - start >= SOON


@pytest.mark.parametrize("deadline", [NEVER, None])
def test_connecting_to_a_busy_unix_socket_waits_for_its_turn(
    full_unix, closing, in_thread, deadline
):
    connecting = in_thread(
        wire.connect,
        socket.AF_UNIX,
        full_unix.getsockname(),
        100,
        deadline and within(deadline),
    )
    closing(full_unix.accept()[0])
    connection = closing(connecting.result())
    connection.send(b"hello\n", within(NEVER))
    peer = closing(full_unix.accept()[0])
    assert peer.recv(100) == b"hello\n"


@pytest.mark.parametrize("path", ["missing", "x" * 200])
def test_unix_socket_that_is_none_is_an_error(tmp_path, path):
    with pytest.raises(OSError):
        wire.connect(socket.AF_UNIX, str(tmp_path / path), 100, within(NEVER))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_peer_that_has_gone_is_noticed_while_a_waker_is_awaited(family, tmp_path):
    ours, theirs = connected_pair(family, tmp_path)
    connection = wire.Connection(ours, 100)
    theirs.close()
    with pytest.raises(wire.EndOfStream):
        connection.wait_until_woken(time.monotonic() + 10)
    connection.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_peer_that_closed_its_sending_side_is_not_taken_for_gone(family, tmp_path):
    ours, theirs = connected_pair(family, tmp_path)
    waker = wire.Waker()
    connection = wire.Connection(ours, 100, (waker,))
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(wire.DeadlineExceeded):
        connection.wait_until_woken(time.monotonic() + 0.05)
    waker.wake()
    connection.wait_until_woken(None)
    waker.clear()
    connection.send(wire.encode({"cancelled": True}), None)
    connection.close()
    with theirs, theirs.makefile("rb") as file:
        assert wire.decode(file.readline()) == {"cancelled": True}
    waker.close()


def connected_pair(family, directory):
    """Two ends of a connection, TCP or Unix."""
    address = ("127.0.0.1", 0) if family == socket.AF_INET else str(directory / "s")
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        theirs = socket.socket(family)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
    return ours, theirs
