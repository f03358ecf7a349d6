"""What tests share that attack: the state that a program must be in afterwards, odd
requests, odd ways to send and to leave."""

import contextlib
import json
import os
import socket
import ssl
import struct
import time
from math import isfinite
from pathlib import Path

import daemon_setup
import fuzzing
from harp import wire

_SECONDS = 20

# --- what may be answered -----------------------------------------------------------

REFUSALS = {
    *("parse_error", "invalid_protocol", "invalid_request", "invalid_jobid"),
    *("storage_error", "auth_error", "overloaded", "shutdown"),
}
JOB_ERRORS = REFUSALS | {
    *("unknown_host", "network_error", "certificate_error", "protocol_error"),
    *("os_error", "timeout", "missing_result"),
}
DAEMON_ERRORS = {
    *("parse_error", "invalid_protocol", "invalid_request", "auth_error"),
    *("no_such_procedure", "procedure_loading_error", "invalid_argument_list"),
    *("system_error", "overloaded", "timeout", "invalid_result", "process_died"),
    "shutdown",
}


# --- what a program must be like afterwards -----------------------------------------

IDLE_THREADS = 8
"""Those that wait for work stay for some seconds; they hold no descriptors."""


class Unharmed:
    """A program that must be, afterwards, as it was: no fault in its log, not more
    threads, descriptors and processes.

    :param wait_for: the fixture
    """

    def __init__(self, program, wait_for) -> None:
        self._program = program
        self._wait_for = wait_for
        self._before = wait_for(self._count_at_rest)
        self._log = len(program.log())

    def _count(self) -> dict[str, int]:
        process = Path(f"/proc/{self._program.pid}")
        return {
            "threads": len(os.listdir(process / "task")),
            "descriptors": len(os.listdir(process / "fd")),
            "processes": len(daemon_setup.descendants_of(self._program.pid)),
        }

    def _count_at_rest(self) -> dict[str, int] | None:
        """Return what there is; None if what was asked before is still going on."""
        found = self._count()
        for _ in range(10):
            time.sleep(0.005)
            if self._count() != found:
                return None
        return found

    def check(self, idle: int = IDLE_THREADS) -> None:
        most = self._before | {"threads": self._before["threads"] + idle}

        def is_as_before() -> bool:
            now = self._count()
            return all(now[kind] <= count for kind, count in most.items())

        self._wait_for(is_as_before, _SECONDS)
        log = self._program.log()[self._log :]
        faults = [line for line in log.splitlines() if " ERROR " in line]
        assert not faults and "Traceback" not in log


def is_message(line: bytes) -> bool:
    """Tell whether a line is one of the protocol's, but for its depth."""
    try:
        message = json.loads(
            line.decode(),
            parse_constant=refuse,
            parse_float=lambda text: float(text) if isfinite(float(text)) else refuse(),
            object_pairs_hook=lambda pairs: (
                dict(pairs) if len(dict(pairs)) == len(pairs) else refuse()
            ),
        )
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict)


def refuse(*_):
    raise ValueError


def check_error(error: dict, types, *more: str) -> None:
    assert {"type", "message"} <= error.keys() <= {"type", "message", *more}, error
    assert error["type"] in types, error
    assert error["message"] and "\n" not in error["message"], error


def reset(sock: socket.socket) -> None:
    """Close so that the other side gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def send_pieces(sock: socket.socket, mutator, data: bytes) -> None:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    for piece in mutator.pieces(data):
        sock.sendall(piece)


def half_close(sock: socket.socket) -> None:
    socket.socket.shutdown(sock, socket.SHUT_WR)  # of TLS, too


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


# --- odd requests -------------------------------------------------------------------


def make_data(mutator, base: list[dict], max_line: int) -> bytes:
    """Return one to three requests, most of them odd.

    :param base: valid ones
    :param max_line: bytes that a line may have
    """
    data = b""
    for _ in range(mutator.random.choice([1, 1, 1, 2, 3])):
        if mutator.happens(0.1):
            data += mutator.random.choice(fuzzing.NASTY_LINES)
        elif mutator.happens(0.03):
            data += b'{"harpcaller":1,"x":"' + b"x" * max_line + b'"}\n'
        elif mutator.happens(0.1):
            data += wire.encode(mutator.random.choice(base))
        else:
            message = mutator.random.choice(base)
            data += mutator.line(message, keep=("harpcaller", "harp"))
    return data


# --- TLS ----------------------------------------------------------------------------


def client_hello() -> bytes:
    """Return the first bytes of a client of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def speak_raw(mutator, port: int, hello: bytes) -> None:
    """Connect, say something that is no TLS, or not for long, and leave, or wait for
    the other side to close."""
    with socket.create_connection(("127.0.0.1", port), _SECONDS) as sock:
        way = mutator.random.randrange(4)
        if way == 0:
            data = mutator.random.choice(fuzzing.NASTY_LINES)
        elif way == 1:
            data = mutator.bytes(hello)
        elif way == 2:
            data = hello + mutator.bytes(hello)
        else:
            data = shake_hands_on(sock) + mutator.random.randbytes(50)
        send_pieces_to_whoever_reads(sock, mutator, data)
        if mutator.happens(0.2):
            reset(sock)
        elif not mutator.happens(0.2):
            answer = read_until_it_leaves(sock)
            if way == 0 and data and data[0] != wire.TLS_HANDSHAKE:
                error = json.loads(answer)["error"]
                assert error["type"] == "invalid_protocol", data


def send_pieces_to_whoever_reads(sock: socket.socket, mutator, data: bytes) -> None:
    """As :func:`send_pieces`, if the other side may leave when it has seen enough."""
    with contextlib.suppress(ConnectionError):
        send_pieces(sock, mutator, data)


def read_until_it_leaves(sock: socket.socket) -> bytes:
    try:
        half_close(sock)
    except OSError:
        return b""  # it has left already, by a reset
    try:
        return read_all(sock)
    except ConnectionError:
        return b""


def shake_hands_on(sock: socket.socket) -> bytes:
    """Do a handshake whose keys are forgotten, and return the beginning of a record."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    while True:
        try:
            client.do_handshake()
            sock.sendall(outgoing.read())
            return b"\x17\x03\x03"
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
