"""Bad input at the port of a real harpd: one error line each, and nobody else is
harmed."""

import contextlib
import json
import socket

import pytest
from daemon_setup import (  # noqa: F401
    PASSWORD,
    USER,
    Caller,
    error_of,
    harpd,
    make_harpd,
    request,
)

GOOD = request("echo", [5])


def without(*path):
    """Return a good request without one key."""
    copy = json.loads(json.dumps(GOOD))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return copy


def line(message) -> bytes:
    return json.dumps(message).encode() + b"\n"


BAD = {
    "empty line": (b"\n", "parse_error"),
    "not JSON": (b"hello\n", "parse_error"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "parse_error"),
    "half of JSON": (b'{"harp":1,\n', "parse_error"),
    "two objects": (b"{}{}\n", "parse_error"),
    "NaN": (b'{"harp":NaN}\n', "parse_error"),
    "Infinity": (b'{"harp":-Infinity}\n', "parse_error"),
    "invalid UTF-8": (b'{"harp":"\xff"}\n', "parse_error"),
    "NUL bytes": (b"\0\0\0\n", "parse_error"),
    "array": (b"[1]\n", "invalid_request"),
    "number": (b"5\n", "invalid_request"),
    "null": (b"null\n", "invalid_request"),
    "duplicate key": (b'{"harp":1,"harp":1}\n', "invalid_request"),
    "overflowing number": (b'{"harp":1e999}\n', "invalid_request"),
    "long integer": (b'{"harp":1' + b"0" * 5000 + b"}\n", "invalid_request"),
    "deep nesting": (b"[" * 100_000 + b"]" * 100_000 + b"\n", "invalid_request"),
    "deep argument": (
        line(request("echo", [0])).replace(b"[0]", b"[" * 300 + b"]" * 300),
        "invalid_request",
    ),
    "no version": (line(without("harp")), "invalid_protocol"),
    "other version": (line(GOOD | {"harp": 2}), "invalid_protocol"),
    "version true": (line(GOOD | {"harp": True}), "invalid_protocol"),
    "version 1.0": (line(GOOD | {"harp": 1.0}), "invalid_protocol"),
    "version as text": (line(GOOD | {"harp": "1"}), "invalid_protocol"),
    "the dispatcher's protocol": (b'{"harpcaller":1}\n', "invalid_protocol"),
    "no procedure": (line(without("procedure")), "invalid_request"),
    "no arguments": (line(without("arguments")), "invalid_request"),
    "no auth": (line(without("auth")), "invalid_request"),
    "no user": (line(without("auth", "user")), "invalid_request"),
    "no password": (line(without("auth", "password")), "invalid_request"),
    "procedure null": (line(GOOD | {"procedure": None}), "invalid_request"),
    "arguments text": (line(GOOD | {"arguments": "x"}), "invalid_request"),
    "arguments null": (line(GOOD | {"arguments": None}), "invalid_request"),
    "auth array": (line(GOOD | {"auth": [USER, PASSWORD]}), "invalid_request"),
    "password number": (
        line(GOOD | {"auth": {"user": USER, "password": 5}}),
        "invalid_request",
    ),
    "job id number": (line(GOOD | {"job_id": 5}), "invalid_request"),
    "unknown user": (line(request("echo", user="nobody")), "auth_error"),
    "wrong password": (line(request("echo", password="wrong")), "auth_error"),
    "empty password": (line(request("echo", password="")), "auth_error"),
    "odd password": (line(request("echo", password="\udcff")), "auth_error"),
    "odd procedure": (line(request("../../etc/passwd\0")), "no_such_procedure"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_request_gets_one_error_and_the_connection_is_closed(harpd, name):
    data, type_ = BAD[name]
    with harpd.connect() as caller:
        caller.send(data)
        (message,) = caller.messages()
    assert error_of(message)[0] == type_
    assert harpd.end("echo", 1) == {"result": 1}


def test_unknown_user_and_wrong_password_look_the_same(harpd):
    errors = []
    for wrong in ({"user": "nobody"}, {"password": "wrong"}):
        with harpd.connect() as caller:
            caller.send_message(request("nope", **wrong))
            errors.append(caller.messages())
    assert errors[0] == errors[1]
    assert error_of(errors[0][0]) == ("auth_error", "unknown user or wrong password")


def test_unknown_keys_blanks_and_crlf_do_no_harm(harpd):
    with harpd.connect() as caller:
        caller.send(b"  " + line(GOOD | {"more": [1]})[:-1] + b" \r\n")
        assert caller.messages()[-1] == {"result": 5}


def test_request_may_come_byte_by_byte(harpd):
    with harpd.connect() as caller:
        for byte in line(GOOD):
            caller.send(bytes([byte]))
        assert caller.messages()[-1] == {"result": 5}


def test_what_follows_a_request_means_nothing(harpd):
    with harpd.connect() as caller:
        caller.send(line(GOOD) * 3 + b"garbage")
        assert caller.messages()[-1] == {"result": 5}


def test_line_of_50_megabytes_is_refused_and_the_error_can_be_read(harpd):
    with harpd.connect() as caller:
        caller.send(b'{"harp":"' + b"x" * 50_000_000 + b'"}\n')
        (message,) = caller.messages()
    assert error_of(message)[0] == "invalid_request"
    assert "longer than" in error_of(message)[1]


@pytest.mark.parametrize("data", [b"{", line(GOOD)[:-1]])
def test_request_without_its_newline_is_incomplete(harpd, data):
    with harpd.connect() as caller:
        caller.send(data)
        caller.half_close()
        (message,) = caller.messages()
    assert error_of(message) == ("invalid_request", "incomplete: no newline at its end")


def test_caller_who_says_nothing_is_told_after_the_timeout(make_harpd):
    daemon = make_harpd(limits={"request_timeout": 0.3})
    with daemon.connect() as silent, daemon.connect() as slow:
        slow.send(b'{"harp"')
        for caller in (silent, slow):
            (message,) = caller.messages()
            assert error_of(message) == (
                "invalid_request",
                "incomplete: not there within 0.3 s",
            )
    assert daemon.end("echo", 1) == {"result": 1}


def test_peer_without_a_handshake_is_dropped_after_the_timeout(make_harpd):
    daemon = make_harpd(limits={"handshake_timeout": 0.3})
    for data in (b"", b"\x16\x03\x01"):
        with Caller(daemon.port, tls=False) as caller:
            caller.send(data)
            assert caller.messages() == []
    assert daemon.end("echo", 1) == {"result": 1}


@pytest.mark.parametrize("data", [line(GOOD), b"G", b"\n", b"\x80\x80"])
def test_plain_text_gets_a_plain_error(harpd, data):
    with Caller(harpd.port, tls=False) as caller:
        caller.send(data)
        (message,) = caller.messages()
    assert error_of(message) == ("invalid_protocol", "this port speaks TLS")


def test_garbage_in_a_handshake_is_dropped(harpd):
    with Caller(harpd.port, tls=False) as caller:
        caller.send(b"\x16" + b"\xff" * 1000)
        with contextlib.suppress(ConnectionResetError):
            while caller.sock.recv(1000):
                pass  # TLS has words of its own for that
    assert harpd.end("echo", 1) == {"result": 1}


def test_peers_that_leave_at_any_point_harm_nobody(harpd, wait_for):
    whole = line(request("compute"))
    for length in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):
        for leave in (Caller.close, Caller.half_close):
            with harpd.connect() as caller:
                caller.send(whole[:length])
                leave(caller)
    for length in (0, 1, 5):
        with Caller(harpd.port, tls=False) as caller:
            caller.send(b"\x16\x03\x01\x02\x00"[:length])
    assert harpd.end("echo", 1) == {"result": 1}


def test_silent_connections_keep_nobody_from_calling(harpd):
    silent = [
        socket.create_connection(("127.0.0.1", harpd.port)) for _ in range(100)
    ]
    try:
        assert harpd.end("echo", 1) == {"result": 1}
    finally:
        for sock in silent:
            sock.close()
