"""Connecting to one of several addresses within one deadline."""

import socket
import time

import pytest
from harp import wire

MAX_LINE = 1000


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def refusing():
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    return socket.AF_INET, address


@pytest.fixture
def silent():
    """Where nobody answers."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = [socket.socket() for _ in range(2)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    yield socket.AF_INET, listener.getsockname()
    for sock in (listener, *fillers):
        sock.close()


def connect(targets, seconds=10.0, wakers=()):
    return wire.connect_to_any(targets, MAX_LINE, time.monotonic() + seconds, wakers)


def test_first_address_that_answers_is_taken(listener, refusing):
    good = socket.AF_INET, listener.getsockname()
    connection, target = connect([refusing, good, refusing])
    connection.close()
    assert target == good


def test_silent_address_leaves_time_for_the_others(listener, silent):
    good = socket.AF_INET, listener.getsockname()
    before = time.monotonic()
    connection, target = connect([silent, silent, good], 1.5)
    connection.close()
    assert target == good
    assert time.monotonic() - before < 1.5


def test_last_error_is_the_one_that_is_told(silent, refusing):
    with pytest.raises(ConnectionRefusedError):
        connect([silent, refusing], 0.4)
    with pytest.raises(wire.DeadlineExceeded):
        connect([refusing, silent], 0.4)


def test_deadline_counts_for_all_together(silent):
    before = time.monotonic()
    with pytest.raises(wire.DeadlineExceeded):
        connect([silent] * 5, 0.5)
    assert 0.4 <= time.monotonic() - before < 2


def test_waker_ends_it_at_once(silent):
    waker = wire.Waker()
    waker.wake()
    with pytest.raises(wire.Woken):
        connect([silent, silent], 30, (waker,))
    waker.close()
