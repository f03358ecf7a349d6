"""Names to addresses."""

import socket
import threading
import time

import pytest
from harp import wire
from harp.dispatcher import resolver as resolver_module
from harp.dispatcher.resolver import Resolver

LONG = 30.0


@pytest.fixture(autouse=True)
def _short_lived(monkeypatch, wait_for):
    """Threads of a resolver end by themselves, here at once."""
    monkeypatch.setattr(resolver_module, "_IDLE_SECONDS", 0.0)
    yield
    wait_for(lambda: not threads())


@pytest.fixture
def waker():
    waker = wire.Waker()
    yield waker
    waker.close()


@pytest.fixture
def names(monkeypatch):
    """The names there are: ``names[name] = result`` or an exception to raise, or an
    event to wait for. Numbers are looked up for real."""
    known = {}
    real = socket.getaddrinfo

    def look_up(name, port, *args, flags=0, **options):
        if name not in known or flags & socket.AI_NUMERICHOST:
            return real(name, port, *args, flags=flags, **options)
        found = known[name]
        if isinstance(found, threading.Event):
            found.wait(LONG)
            found = ["127.0.0.9"]
        if isinstance(found, BaseException):
            raise found
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def resolve(name, waker, deadline=LONG, resolver=None):
    found = (resolver or Resolver()).resolve(
        name, 4306, waker, time.monotonic() + deadline
    )
    return [endpoint.address[0] for endpoint in found]


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "resolver"]


@pytest.mark.parametrize("number", ["127.0.0.1", "::1"])
def test_number_needs_no_thread(waker, monkeypatch, number):
    monkeypatch.setattr(threading.Thread, "start", None)
    assert resolve(number, waker) == [number]


def test_all_addresses_of_a_name_come_in_order_once(names, waker):
    names["web01"] = ["10.0.0.2", "10.0.0.1", "10.0.0.2"]
    assert resolve("web01", waker) == ["10.0.0.2", "10.0.0.1"]
    assert not waker.wait(time.monotonic())


def test_name_that_there_is_not_is_an_error(names, waker):
    names["web01"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(OSError, match="not known"):
        resolve("web01", waker)


@pytest.mark.parametrize(
    "name",
    ["a\0b", "a..b", "a" * 64 + ".example", "\udce9", "x" * 300, "a b", "é" * 99],
)
def test_name_that_none_can_have_is_an_error_and_harms_no_other(names, waker, name):
    resolver = Resolver()
    with pytest.raises(OSError):
        resolve(name, waker, resolver=resolver)
    names["web01"] = ["10.0.0.1"]
    assert resolve("web01", waker, resolver=resolver) == ["10.0.0.1"]


def test_name_that_takes_too_long_is_abandoned(names, waker):
    names["slow"] = threading.Event()
    names["web01"] = ["10.0.0.1"]
    resolver = Resolver()
    with pytest.raises(wire.DeadlineExceeded):
        resolve("slow", waker, 0.05, resolver)
    assert resolve("web01", waker, resolver=resolver) == ["10.0.0.1"]
    names["slow"].set()


def test_lookup_that_was_abandoned_may_end_after_its_waker(names, wait_for):
    names["slow"] = threading.Event()
    waker = wire.Waker()
    with pytest.raises(wire.DeadlineExceeded):
        resolve("slow", waker, 0.05)
    waker.close()
    names["slow"].set()
    wait_for(lambda: not threads())


def test_waker_ends_the_wait(names, waker, in_thread, wait_for):
    names["slow"] = threading.Event()
    waiting = in_thread(resolve, "slow", waker)
    wait_for(threads)
    waker.wake()
    with pytest.raises(wire.Woken):
        waiting.result()
    names["slow"].set()


def test_names_that_hang_take_no_more_threads_than_there_may_be(
    names, waker, in_thread, wait_for
):
    names["slow"] = threading.Event()
    resolver = Resolver()
    wakers = [wire.Waker() for _ in range(20)]
    waiting = [in_thread(resolve, "slow", one, LONG, resolver) for one in wakers]
    wait_for(lambda: len(resolver._lookups) == 20 - resolver_module._THREADS)
    assert len(threads()) == resolver_module._THREADS
    # One who gives up leaves nothing in the line.
    names["web01"] = ["10.0.0.1"]
    with pytest.raises(wire.DeadlineExceeded):
        resolve("web01", waker, 0.05, resolver)
    assert len(resolver._lookups) == 20 - resolver_module._THREADS
    names["slow"].set()
    for one in waiting:
        assert one.result() == ["127.0.0.9"]
    for one in wakers:
        one.close()


def test_thread_that_can_not_be_started_is_an_error_of_this_machine(
    names, waker, monkeypatch
):
    names["web01"] = ["10.0.0.1"]
    resolver = Resolver()
    with monkeypatch.context() as patch:

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="can't start new thread"):
            resolve("web01", waker, resolver=resolver)
    assert not resolver._lookups
    assert resolve("web01", waker, resolver=resolver) == ["10.0.0.1"]


def test_idle_thread_is_used_again(names, waker, monkeypatch, wait_for):
    monkeypatch.setattr(resolver_module, "_IDLE_SECONDS", 0.5)
    resolver = Resolver()
    names["web01"] = ["10.0.0.1"]
    resolve("web01", waker, resolver=resolver)
    [thread] = threads()
    wait_for(lambda: resolver._idle)
    resolve("web01", waker, resolver=resolver)
    assert threads() == [thread]
