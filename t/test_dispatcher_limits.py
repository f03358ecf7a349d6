"""What runs out: the time of a job, descriptors, threads that look names up. Whatever
it is, it ends those whose limit it is, in time, with the true error; and no other."""

import contextlib
import resource
import select
import threading

import pytest
from dispatchers import (
    ACKNOWLEDGED,
    ACKNOWLEDGED_STREAM,
    Dispatcher,
    call_request,
    host_entry,
    request,
    send,
)
from startup import Switch, run_at_start

GRACE = 2.0
CONNECT = 2.0


@pytest.fixture
def pin(certificate):
    return certificate.sha256


@pytest.fixture
def make_dispatcher(tmp_path, daemon, pin):
    """``make_dispatcher(*hosts, **limits)`` starts one that knows these hosts too."""
    with contextlib.ExitStack() as stack:

        def make(*hosts, **limits):
            dispatcher = Dispatcher(
                tmp_path / "dispatcher",
                [host_entry(daemon.address, cert_sha256=pin), *hosts],
                limits={"cancel_grace": GRACE} | limits,
            )
            stack.callback(dispatcher.stop)
            dispatcher.start()
            return dispatcher

        yield make


def error_of(dispatcher, job_id):
    """Type of a job's error, what ran, and the message."""
    error = dispatcher.result(job_id)["error"]
    assert dispatcher.file(job_id)[-2] == {"error": error}
    return error["type"], error["ran"], error["message"]


# --- time ---------------------------------------------------------------------------


def until_closed(connection, data, pause):
    """Send that again and again until the dispatcher has closed its side."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLRDHUP)
    while not poll.poll(pause):
        connection.send(data)


SLOW, FAST = 50, 0  # ms

ENDLESS = {
    "packets drip": ((ACKNOWLEDGED_STREAM,), b"", b'{"stream":0}\n', SLOW),
    "packets flood": ((ACKNOWLEDGED_STREAM,), b"", b'{"stream":0}\n' * 1000, FAST),
    "line drips": ((ACKNOWLEDGED,), b'{"result":"', b"x", SLOW),
    "line floods": ((ACKNOWLEDGED,), b'{"result":"', b"x" * 1000, 1),
    "blanks drip": ((), b"", b" ", SLOW),
    "blank lines flood": ((ACKNOWLEDGED,), b"", b" ", FAST),
}


def script_of(name, ended):
    messages, begin, data, pause = ENDLESS[name]

    def script(connection, received):
        send(connection, *messages)
        connection.send(begin)
        until_closed(connection, data, pause)
        ended.set()

    return script


@pytest.mark.parametrize("name", ENDLESS)
def test_job_of_a_daemon_that_never_ends_is_ended_by_max_exec_time(
    make_dispatcher, daemon, name
):
    ended = threading.Event()
    daemon.scripts["endless"] = script_of(name, ended)
    dispatcher = make_dispatcher(value="256 MiB", job_size="16 GiB")
    job_id = dispatcher.call("endless", timeout=30, max_exec_time=1)
    type, ran, message = error_of(dispatcher, job_id)
    assert (type, "(max_exec_time)" in message) == ("timeout", True), message
    assert ran == ("yes" if ENDLESS[name][0] else "maybe")
    # It was cancelled over there, and not just dropped.
    assert ended.is_set()
    assert dispatcher.result(dispatcher.call("echo", 1)) == {"result": [1]}


@pytest.mark.parametrize("name", ["line drips", "line floods", "blanks drip"])
def test_part_of_a_message_is_none_for_the_timeout(make_dispatcher, daemon, name):
    ended = threading.Event()
    daemon.scripts["endless"] = script_of(name, ended)
    dispatcher = make_dispatcher(value="256 MiB")
    job_id = dispatcher.call("endless", timeout=1, max_exec_time=30)
    type, ran, message = error_of(dispatcher, job_id)
    assert (type, "(timeout)" in message) == ("timeout", True), message
    assert ran == ("yes" if ENDLESS[name][0] else "maybe")
    assert ended.is_set()


@pytest.mark.parametrize("name", ["packets flood", "line floods"])
def test_job_of_a_daemon_that_floods_can_be_cancelled(
    make_dispatcher, daemon, wait_for, name
):
    ended = threading.Event()
    daemon.scripts["endless"] = script_of(name, ended)
    dispatcher = make_dispatcher(value="256 MiB", job_size="16 GiB")
    queue = {"name": {"q": 1}, "concurrency": 1}
    job_id = dispatcher.call("endless", queue=queue)
    following = dispatcher.call("echo", 2, queue=queue)
    wait_for(lambda: daemon.called("endless"))
    assert dispatcher.cancel(job_id) == {"cancelled": True}
    assert ended.is_set()
    assert dispatcher.result(following) == {"result": [2]}
    assert dispatcher.result(job_id) == {"cancelled": True}


# --- names --------------------------------------------------------------------------

# Names that begin with "slow" are not resolved as long as the switch is on.
CODE = """
import socket, time

real = socket.getaddrinfo

def is_on():
    with open({path!r}) as file:
        return file.read() == "1"

def look_up(name, *args, **options):
    # The caller tries first whether it is a number.
    if name.startswith("slow") and not options.get("flags", 0) & socket.AI_NUMERICHOST:
        while is_on():
            time.sleep(0.01)
        name = "127.0.0.1"
    return real(name, *args, **options)

socket.getaddrinfo = look_up
"""


@pytest.fixture
def resolver_hangs(tmp_path, monkeypatch):
    """A switch: on from the beginning."""
    switch = Switch(tmp_path / "hangs")
    switch.set(1)
    run_at_start(
        CODE.format(path=str(switch.path)), tmp_path / "site", monkeypatch
    )
    yield switch
    switch.set(0)


@pytest.fixture
def slow_hosts(daemon, pin):
    """More hosts whose names hang than there are threads to look names up."""
    _, port = daemon.address
    return [
        host_entry((f"slow{n}.example", port), f"slow{n}", cert_sha256=pin)
        for n in range(12)
    ]


def test_names_that_hang_end_their_jobs_in_time_and_harm_no_other(
    resolver_hangs, slow_hosts, make_dispatcher, wait_for
):
    dispatcher = make_dispatcher(*slow_hosts, connect_timeout=CONNECT)
    dispatcher.result(dispatcher.call("echo"))
    threads = dispatcher.threads()
    hanging = [dispatcher.call("echo", host=host["hostname"]) for host in slow_hosts]
    assert dispatcher.result(dispatcher.call("echo", 1)) == {"result": [1]}
    for job_id in hanging:
        type, ran, message = error_of(dispatcher, job_id)
        assert (type, ran) == ("network_error", "no")
        assert "no connection in" in message
    resolver_hangs.set(0)
    again = dispatcher.call("echo", 2, host="slow0")
    assert dispatcher.result(again) == {"result": [2]}
    # Those who looked up, and the workers, leave when they have been idle for a while.
    wait_for(lambda: dispatcher.threads() <= threads + 1, deadline=40)


def test_job_whose_name_hangs_is_cancelled_at_once_and_waits_for_the_next_start(
    resolver_hangs, slow_hosts, make_dispatcher, daemon, wait_for
):
    dispatcher = make_dispatcher(*slow_hosts, connect_timeout=3600.0)
    jobs = [dispatcher.call("echo", n, host=f"slow{n}") for n in range(12)]
    wait_for(lambda: dispatcher.admin("status")["running"] == 12)
    # The last ones wait for a thread that looks up.
    for job_id in (jobs.pop(), jobs.pop(0)):
        assert dispatcher.cancel(job_id) == {"cancelled": True}
        assert dispatcher.result(job_id) == {"cancelled": True}
    assert dispatcher.stop() == 0
    assert not daemon.requests
    resolver_hangs.set(0)
    dispatcher.start()
    for job_id in jobs:
        assert "result" in dispatcher.result(job_id)
    assert len(daemon.requests) == len(jobs)


# --- descriptors --------------------------------------------------------------------


@contextlib.contextmanager
def descriptors_left(dispatcher, count):
    """While this lasts, the dispatcher can have so many more than it has."""
    _, hard = resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE)
    limit = dispatcher.descriptors() + count
    resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE, (hard, hard))


def test_out_of_descriptors_new_clients_wait_and_all_else_goes_on(
    make_dispatcher, daemon, wait_for
):
    go_on = threading.Event()

    def stream(connection, received):
        send(connection, ACKNOWLEDGED_STREAM, {"stream": 0})
        go_on.wait(30)
        send(connection, {"stream": 1}, {"result": 2})

    daemon.scripts["stream"] = stream
    dispatcher = make_dispatcher()
    before = dispatcher.descriptors()
    with dispatcher.connect() as client, dispatcher.connect() as follower:
        # No connection closes meanwhile, and gives back what it had.
        job_id = client.ask(call_request("stream"))["job_id"]
        follower.send(request("follow_stream", job_id, since=0))
        assert follower.reply()["data"] == 0
        with contextlib.ExitStack() as waiting, descriptors_left(dispatcher, 0):
            late = [waiting.enter_context(dispatcher.connect()) for _ in range(5)]
            for one in late:
                one.send(request("list_hosts", True))
            wait_for(lambda: "out of resources, accepting pauses" in dispatcher.log())
            # What needs a file can't be done; it is told so, and the client is kept.
            for message in (request("get_status", job_id), call_request("echo")):
                reply = client.ask(message)
                assert reply["error"]["type"] == "storage_error"
                assert "Too many open files" in reply["error"]["message"]
            # What runs has its own.
            go_on.set()
            packets, end = follower.stream()
            assert [one["data"] for one in packets] == [1]
            assert end == {"result": 2}
            assert "hosts" in client.ask(request("list_hosts", True))
            resource.prlimit(
                dispatcher.pid,
                resource.RLIMIT_NOFILE,
                resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE)[1:] * 2,
            )
            for one in late:
                assert "hosts" in one.reply()
        assert client.ask(request("get_result", job_id)) == {"result": 2}
        assert "job_id" in client.ask(call_request("echo"))
    assert dispatcher.log().count("accepting pauses") == 1
    wait_for(lambda: dispatcher.descriptors() <= before)


def test_job_that_starts_out_of_descriptors_waits_or_says_that_it_did_not_run(
    make_dispatcher, daemon, wait_for
):
    dispatcher = make_dispatcher()
    queue = {"name": {"q": 1}, "concurrency": 1}
    ends = []
    before = dispatcher.descriptors()

    def waits_for_its_file():
        return dispatcher.log().count("for now")

    with dispatcher.connect() as client, dispatcher.connect() as waiting:
        # What the first gives back, the second may have, and so many more or fewer.
        for more in range(-5, 3):
            holding = client.ask(call_request("wait", queue=queue))["job_id"]
            wait_for(lambda: daemon.called("wait") == len(ends) + 1)
            job_id = client.ask(call_request("echo", more, queue=queue))["job_id"]
            opened = dispatcher.descriptors() + 1
            waiting.send(request("get_result", job_id))
            wait_for(lambda: dispatcher.descriptors() == opened)
            waits = waits_for_its_file()
            with descriptors_left(dispatcher, more):
                assert client.ask(request("cancel", holding)) == {"cancelled": True}
                wait_for(
                    lambda: waits_for_its_file() > waits
                    or select.select([waiting.sock], [], [], 0)[0]
                )
            ends.append(waiting.reply())
    for more, end in zip(range(-5, 3), ends, strict=True):
        if "error" in end:
            error = end["error"]
            assert (error["type"], error["ran"]) == ("os_error", "no"), error
            assert "open files" in error["message"]
        else:
            assert end == {"result": [more]}
    assert {list(end)[0] for end in ends} == {"result", "error"}
    assert daemon.called("echo") == sum("result" in end for end in ends)
    wait_for(lambda: dispatcher.descriptors() <= before)
    assert "Traceback" not in dispatcher.log()
