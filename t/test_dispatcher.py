"""What the dispatcher answers its clients: doc/protocol.rst, section 1."""

import json
import os
import pwd
import socket
import struct
import threading

import pytest
from dispatchers import (
    ACKNOWLEDGED,
    ACKNOWLEDGED_STREAM,
    HOST,
    Daemon,
    Dispatcher,
    call_request,
    host_entry,
    request,
    send,
)
from harp import jobid

UNKNOWN = "01932b4e-7c00-7000-8000-000000000001"
NO_JOB_IDS = [
    UNKNOWN,
    UNKNOWN.upper(),
    "../../etc/passwd",
    "",
    "\0",
    "a" * 100_000,
    5,
    None,
    True,
    1.5,
    [],
    {},
    {"a": []},
]
STREAM = 500


@pytest.fixture(scope="module")
def running(tmp_path_factory, server_context, certificate):
    """A dispatcher with one host, the same for all tests here."""
    daemon = Daemon(server_context)
    dispatcher = Dispatcher(
        tmp_path_factory.mktemp("dispatcher"),
        [host_entry(daemon.address, cert_sha256=certificate.sha256)],
        limits={"arguments": 100_000, "request_timeout": 1.0},
    )
    dispatcher.start()
    yield dispatcher, daemon
    dispatcher.stop()
    daemon.stop()


@pytest.fixture
def daemon(running, wait_for):
    dispatcher, daemon = running
    daemon.reset()
    yield daemon
    daemon.released.set()
    # Or a job that this test has not waited for calls the daemon during the next one.
    for state in ("queued", "running"):
        wait_for(lambda: not dispatcher.ask(request(list_jobs={"state": state}))["jobs"])
    wait_for(lambda: not daemon.serving)


@pytest.fixture
def dispatcher(running, daemon):
    dispatcher, _ = running
    yield dispatcher


@pytest.fixture
def waiting_job(dispatcher):
    """``waiting_job(...)`` submits one that waits until it is cancelled."""
    made = []

    def submit(*arguments, procedure="wait", **keys):
        made.append(dispatcher.call(procedure, *arguments, **keys))
        return made[-1]

    yield submit
    for job_id in reversed(made):
        dispatcher.cancel(job_id)


def error_type(reply):
    assert reply["harpcaller"] == 1
    assert set(reply) == {"harpcaller", "error"}
    assert reply["error"]["message"]
    return reply["error"]["type"]


# --- call ---------------------------------------------------------------------------


def test_call_is_answered_with_its_job_id_and_sent_to_the_host(dispatcher, daemon):
    reply = dispatcher.ask(call_request("echo", 1, "two", [3]))
    assert set(reply) == {"harpcaller", "job_id"} and reply["harpcaller"] == 1
    job_id = reply["job_id"]
    assert jobid.is_valid(job_id)
    assert dispatcher.result(job_id) == {"result": [1, "two", [3]]}
    assert daemon.requests == [
        {
            "harp": 1,
            "procedure": "echo",
            "arguments": [1, "two", [3]],
            "auth": {"user": "harp", "password": "correct horse"},
            "job_id": job_id,
        }
    ]


def test_named_arguments_arrive_by_name(dispatcher):
    message = call_request() | {"arguments": {"b": 2, "a": None}}
    job_id = dispatcher.ask(message)["job_id"]
    assert dispatcher.result(job_id) == {"result": {"b": 2, "a": None}}


def test_unknown_keys_of_a_request_are_ignored(dispatcher):
    job_id = dispatcher.call("echo", 5, something=[1], since=3)
    assert dispatcher.result(job_id) == {"result": [5]}


def test_surrogate_passes_through(dispatcher):
    job_id = dispatcher.call("echo", "a\udce9")
    assert dispatcher.result(job_id) == {"result": ["a\udce9"]}


@pytest.mark.parametrize("name", ["arguments", "info"])
def test_arguments_and_info_may_have_their_limit_and_no_more(dispatcher, name):
    # With the quotes, and for the arguments the brackets, the limit exactly.
    fits = "x" * (100_000 - (4 if name == "arguments" else 2))

    def submit(text):
        value = [text] if name == "arguments" else text
        return dispatcher.ask(call_request() | {name: value})

    job_id = submit(fits)["job_id"]
    assert "result" in dispatcher.result(job_id)
    reply = submit(fits + "x")
    assert error_type(reply) == "invalid_request"
    assert f"{name} of 100001 bytes; the limit is 100000" in reply["error"]["message"]


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize("name", ["arguments", "info"])
def test_values_may_be_nested_as_deep_as_the_limit_and_no_deeper(dispatcher, name):
    message = call_request() | {name: nested(128)}
    job_id = dispatcher.ask(message)["job_id"]
    assert "result" in dispatcher.result(job_id)
    assert dispatcher.status(job_id)["job_id"] == job_id
    reply = dispatcher.ask(call_request() | {name: nested(129)})
    assert error_type(reply) == "invalid_request"


def test_queue_name_may_be_nested_as_deep_as_the_limit_and_no_deeper(dispatcher):
    queue = {"name": {"a": nested(127)}}
    job_id = dispatcher.call("echo", queue=queue)
    assert "result" in dispatcher.result(job_id)
    assert dispatcher.status(job_id)["queue"]["name"] == queue["name"]
    reply = dispatcher.ask(call_request(queue={"name": {"a": nested(128)}}))
    assert error_type(reply) == "invalid_request"


@pytest.mark.parametrize(
    "message",
    [
        call_request("p" * 40_000),
        call_request(host="h" * 40_000),
        call_request(queue={"name": {"a": "x" * 40_000}}),
        call_request(group="g" * 40_000),
        call_request(secret=["s" * 40_000]),
    ],
)
def test_what_is_neither_arguments_nor_info_has_a_limit_too(dispatcher, message):
    assert error_type(dispatcher.ask(message)) == "invalid_request"


def test_timeouts_are_as_asked_or_configured_but_lowered_to_the_most(dispatcher):
    status = dispatcher.status(dispatcher.call())
    assert (status["timeout"], status["max_exec_time"]) == (600, 86400)
    status = dispatcher.status(dispatcher.call(timeout=700, max_exec_time=60))
    assert (status["timeout"], status["max_exec_time"]) == (700, 60)
    status = dispatcher.status(dispatcher.call(max_exec_time=10**9))
    assert status["max_exec_time"] == 86400


# --- a call that is repeated --------------------------------------------------------


def test_long_results_that_come_at_once_are_each_what_the_host_said(
    dispatcher, daemon
):
    def answer(connection, received):
        [k] = received["arguments"]
        send(connection, ACKNOWLEDGED, {"result": [[k]] * 300_000})

    daemon.scripts["long"] = answer
    job_ids = [dispatcher.call("long", k) for k in range(3)]
    for k, job_id in enumerate(job_ids):
        assert dispatcher.result(job_id) == {"result": [[k]] * 300_000}


def test_call_that_is_repeated_runs_once_and_has_the_same_id(dispatcher, daemon):
    job_id = jobid.make()
    message = call_request("echo", 5, job_id=job_id, info={"a": 1})
    assert dispatcher.ask(message)["job_id"] == job_id
    assert dispatcher.ask(message)["job_id"] == job_id
    assert dispatcher.result(job_id) == {"result": [5]}
    assert dispatcher.ask(message)["job_id"] == job_id
    assert daemon.called("echo") == 1


def test_call_that_is_repeated_while_it_runs_or_waits_runs_once(
    dispatcher, daemon, waiting_job, wait_for
):
    made = [jobid.make(), jobid.make()]
    for job_id in made:
        waiting_job(job_id=job_id, queue={"name": {"q": "repeat"}})
    wait_for(lambda: daemon.called("wait") == 1)
    for job_id in made:
        again = call_request("wait", job_id=job_id, queue={"name": {"q": "repeat"}})
        assert dispatcher.ask(again)["job_id"] == job_id
    for job_id in reversed(made):
        assert dispatcher.cancel(job_id) == {"cancelled": True}
    assert daemon.called("wait") == 1


DIFFERENCES = {
    "procedure": {"procedure": "echo2"},
    "host": {"host": "web02"},
    "arguments": {"arguments": [1.0]},
    "named arguments": {"arguments": {}},
    "timeout": {"timeout": 5},
    "max_exec_time": {"max_exec_time": 5},
    "queue": {"queue": {"name": {}}},
    "concurrency": {"queue": {"name": {"a": 1}, "concurrency": 2}},
    "info": {"info": {"a": 2}},
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_other_call_under_the_same_id_is_refused(dispatcher, daemon, difference):
    message = call_request(
        "echo", 1, job_id=jobid.make(), info={"a": 1}, queue={"name": {"a": 1}}
    )
    dispatcher.ask(message)
    dispatcher.result(message["job_id"])
    assert error_type(dispatcher.ask(message | DIFFERENCES[difference])) == (
        "invalid_request"
    )
    assert daemon.called("echo") == 1


def test_call_of_another_user_under_the_same_id_is_refused(dispatcher):
    message = call_request("echo", job_id=jobid.make())
    dispatcher.ask(message)
    with dispatcher.connect_unix() as client:
        assert error_type(client.ask(message)) == "invalid_request"


def test_same_call_may_be_written_otherwise(dispatcher):
    job_id = jobid.make()
    with dispatcher.connect() as client:
        for arguments in (b'{"a":1,"b":"\\u00e9"}', b'{ "b" : "\xc3\xa9" , "a":1 }'):
            client.send_bytes(
                b'{"harpcaller":1,"host":"web01","procedure":"echo","job_id":"%s",'
                b'"arguments":%s}\n' % (job_id.encode(), arguments)
            )
            assert client.reply()["job_id"] == job_id


def test_calls_under_one_id_at_the_same_moment_run_once(dispatcher, daemon, in_thread):
    for _ in range(10):
        message = call_request("echo", job_id=jobid.make())
        barrier = threading.Barrier(8)

        def submit(message=message, barrier=barrier):
            with dispatcher.connect() as client:
                barrier.wait()
                return client.ask(message)

        replies = [one.result() for one in [in_thread(submit) for _ in range(8)]]
        assert replies == [{"harpcaller": 1, "job_id": message["job_id"]}] * 8
        dispatcher.result(message["job_id"])
    assert daemon.called("echo") == 10


DAY = 86400_000


@pytest.mark.parametrize("away", [-DAY - 60_000, DAY + 60_000])
def test_id_that_is_more_than_a_day_away_is_refused(dispatcher, away):
    now = int(jobid.time_of(jobid.make()) * 1000)
    reply = dispatcher.ask(call_request(job_id=jobid.make(now + away)))
    assert error_type(reply) == "invalid_request"


@pytest.mark.parametrize("away", [-DAY + 60_000, DAY - 60_000])
def test_id_that_is_less_than_a_day_away_is_taken(dispatcher, away):
    now = int(jobid.time_of(jobid.make()) * 1000)
    job_id = jobid.make(now + away)
    assert dispatcher.call("echo", job_id=job_id) == job_id
    assert dispatcher.result(job_id) == {"result": []}


@pytest.mark.parametrize("job_id", [one for one in NO_JOB_IDS if one is not None])
def test_what_is_no_recent_job_id_is_refused_for_a_call(dispatcher, job_id):
    reply = dispatcher.ask(call_request(job_id=job_id))
    assert error_type(reply) == "invalid_request"


# --- asking of jobs that are not there ----------------------------------------------


@pytest.mark.parametrize("job_id", NO_JOB_IDS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize(
    "operation", ["get_result", "get_status", "follow_stream", "read_stream"]
)
def test_what_is_no_job_is_told_so(dispatcher, operation, job_id):
    assert error_type(dispatcher.ask(request(operation, job_id))) == "invalid_jobid"


@pytest.mark.parametrize("job_id", NO_JOB_IDS, ids=lambda value: repr(value)[:20])
def test_cancel_of_what_is_no_job_cancels_nothing(dispatcher, job_id):
    assert dispatcher.cancel(job_id) == {"cancelled": False}


# --- get_result ---------------------------------------------------------------------


def test_result_is_waited_for_unless_not_wanted(dispatcher, daemon):
    def answer_later(connection, received):
        send(connection, {"harp": 1, "stream_result": False})
        daemon.released.wait(30)
        send(connection, {"result": "late"})

    daemon.scripts["late"] = answer_later
    job_id = dispatcher.call("late")
    assert dispatcher.result(job_id, wait=False) == {"no_result": True}
    with dispatcher.connect() as patient, dispatcher.connect() as another:
        for client in (patient, another):
            client.send(request("get_result", job_id))  # absent means to wait
        assert dispatcher.result(job_id, wait=False) == {"no_result": True}
        daemon.released.set()
        assert patient.reply() == another.reply() == {"result": "late"}
    assert dispatcher.result(job_id, wait=False) == {"result": "late"}


ENDS = [
    {"result": None},
    {"result": False},
    {"result": {"a": [1, 2.5, "é\u2028\udce9"]}},
    {"exception": {"type": "ValueError", "message": "x"}},
    {"exception": {"type": "ValueError", "message": "x", "data": {"class": "V"}}},
]


@pytest.mark.parametrize("end", ENDS, ids=json.dumps)
def test_end_is_what_the_daemon_said_for_ever(dispatcher, daemon, end):
    daemon.scripts["end"] = lambda connection, _: send(
        connection, {"harp": 1, "stream_result": False}, end
    )
    job_id = dispatcher.call("end")
    assert [dispatcher.result(job_id) for _ in range(3)] == [end] * 3
    [outcome] = end
    assert dispatcher.status(job_id)["outcome"] == outcome


def test_large_result_comes_whole(dispatcher, daemon):
    text = "x" * 16_000_000
    daemon.scripts["large"] = lambda connection, _: send(
        connection, {"harp": 1, "stream_result": False}, {"result": text}
    )
    assert dispatcher.result(dispatcher.call("large")) == {"result": text}


# --- get_status ---------------------------------------------------------------------


def test_status_shows_a_job_from_its_queue_to_its_end(
    dispatcher, daemon, waiting_job, wait_for
):
    queue = {"name": {"host": "web01"}, "concurrency": 1}
    first = waiting_job(queue=queue)
    second = waiting_job(
        1, queue=queue, info={"by": "test"}, group="g", on_behalf_of="alice"
    )
    wait_for(lambda: daemon.called("wait") == 1)
    status = dispatcher.status(second)
    submitted = status["time"].pop("submit")
    assert isinstance(submitted, int)
    assert status == {
        "call": {"host": HOST, "procedure": "wait", "arguments": [1]},
        "time": {"start": None, "end": None},
        "info": {"by": "test"},
        "job_id": second,
        "queue": queue,
        "state": "queued",
        "outcome": None,
        "packets": 0,
        "timeout": 600,
        "max_exec_time": 86400,
        "group": "g",
        "submitted_by": None,
        "on_behalf_of": "alice",
    }
    dispatcher.cancel(first)
    wait_for(lambda: dispatcher.state(second) == "running")
    status = dispatcher.status(second)
    assert submitted <= status["time"]["start"] and status["time"]["end"] is None
    dispatcher.cancel(second)
    status = dispatcher.status(second)
    assert (status["state"], status["outcome"]) == ("done", "cancelled")
    assert status["time"]["start"] <= status["time"]["end"]


def test_status_counts_packets(dispatcher):
    job_id = dispatcher.call("count", STREAM)
    dispatcher.result(job_id)
    assert dispatcher.status(job_id)["packets"] == STREAM


def test_user_on_a_unix_socket_is_recorded(dispatcher):
    with dispatcher.connect_unix() as client:
        job_id = client.ask(call_request())["job_id"]
    user = pwd.getpwuid(os.getuid()).pw_name
    assert dispatcher.status(job_id)["submitted_by"] == user


# --- cancel -------------------------------------------------------------------------


def test_running_job_is_cancelled(dispatcher, daemon, waiting_job, wait_for):
    job_id = waiting_job()
    wait_for(lambda: daemon.called("wait"))
    assert dispatcher.cancel(job_id) == {"cancelled": True}
    assert dispatcher.result(job_id) == {"cancelled": True}
    assert dispatcher.cancel(job_id) == {"cancelled": False}


def test_queued_job_is_cancelled_and_never_called(
    dispatcher, daemon, waiting_job, wait_for
):
    queue = {"name": {"q": "cancel"}}
    first, second = waiting_job(queue=queue), waiting_job(2, queue=queue)
    wait_for(lambda: daemon.called("wait"))
    assert dispatcher.cancel(second) == {"cancelled": True}
    assert dispatcher.result(second) == {"cancelled": True}
    assert dispatcher.status(second)["time"]["start"] is None
    assert dispatcher.cancel(first) == {"cancelled": True}
    assert [one["arguments"] for one in daemon.requests] == [[]]


def test_ended_job_can_not_be_cancelled(dispatcher):
    job_id = dispatcher.call()
    end = dispatcher.result(job_id)
    assert dispatcher.cancel(job_id) == {"cancelled": False}
    assert dispatcher.result(job_id) == end


def test_all_who_cancel_a_job_at_once_are_told_the_same(
    dispatcher, daemon, waiting_job, wait_for, in_thread
):
    job_id = waiting_job()
    wait_for(lambda: daemon.called("wait"))
    cancelling = [in_thread(dispatcher.cancel, job_id) for _ in range(5)]
    replies = [one.result() for one in cancelling]
    # Whoever comes when it is over cancels nothing.
    assert {"cancelled": True} in replies
    assert dispatcher.result(job_id) == {"cancelled": True}


# --- streams ------------------------------------------------------------------------


@pytest.fixture
def streamed(dispatcher):
    job_id = dispatcher.call("count", STREAM)
    assert dispatcher.result(job_id) == {"result": STREAM}
    return job_id


RANGES = [
    ({}, range(STREAM), True),
    ({"since": 0}, range(STREAM), True),
    ({"since": STREAM - 1}, range(STREAM - 1, STREAM), True),
    ({"since": STREAM}, [], True),
    ({"since": 10**30}, [], True),
    ({"recent": 0}, [], True),
    ({"recent": 3}, range(STREAM - 3, STREAM), True),
    ({"recent": STREAM + 1}, range(STREAM), True),
    ({"since": 5, "limit": 1}, [5], False),
    ({"limit": STREAM}, range(STREAM), True),
    ({"limit": STREAM - 1}, range(STREAM - 1), False),
    ({"recent": 3, "limit": 2}, range(STREAM - 3, STREAM - 1), False),
    ({"since": STREAM, "limit": 1}, [], True),
]


@pytest.mark.parametrize(("keys", "numbers", "ends"), RANGES, ids=lambda x: str(x)[:30])
def test_stream_is_read_from_where_to_where_it_is_asked(
    dispatcher, streamed, keys, numbers, ends
):
    with dispatcher.connect() as client:
        client.send(request("read_stream", streamed, **keys))
        packets, last = client.stream()
    assert [(one["packet"], one["data"]) for one in packets] == [
        (number, number) for number in numbers
    ]
    assert all(isinstance(one["time"], float) for one in packets)
    assert last == ({"result": STREAM} if ends else {"continue": True})


@pytest.mark.parametrize("keys", [{}, {"since": 0}, {"since": 495}, {"recent": 3}])
def test_ended_stream_is_followed_to_its_end(dispatcher, streamed, keys):
    with dispatcher.connect() as client:
        client.send(request("follow_stream", streamed, **keys))
        packets, last = client.stream()
    first = keys.get("since", STREAM - keys.get("recent", 0))
    assert [one["packet"] for one in packets] == list(range(first, STREAM))
    assert last == {"result": STREAM}


class Feed:
    """A stream that goes on as the test says."""

    def __init__(self, daemon):
        self._connection = None
        self._begun = threading.Event()
        self._daemon = daemon
        daemon.scripts["feed"] = self._serve

    def _serve(self, connection, received):
        send(connection, ACKNOWLEDGED_STREAM)
        self._connection = connection
        self._begun.set()
        self._daemon.released.wait(60)

    def send(self, *messages):
        assert self._begun.wait(30)
        send(self._connection, *messages)

    def values(self, *values):
        self.send(*({"stream": value} for value in values))

    def end(self):
        self.send({"result": "end"})
        self._daemon.released.set()


@pytest.fixture
def feed(daemon):
    return Feed(daemon)


def test_live_stream_is_read_up_to_now(dispatcher, feed, wait_for):
    job_id = dispatcher.call("feed")
    with dispatcher.connect() as client:
        assert client.ask(request("read_stream", job_id)) == {"continue": True}
        feed.values("a", "b")
        wait_for(lambda: dispatcher.status(job_id)["packets"] == 2)
        client.send(request("read_stream", job_id))
        packets, last = client.stream()
        assert [one["data"] for one in packets] == ["a", "b"]
        assert last == {"continue": True}
        client.send(request("read_stream", job_id, since=2))
        assert client.stream() == ([], {"continue": True})
    feed.end()
    assert dispatcher.result(job_id) == {"result": "end"}


@pytest.mark.parametrize(
    ("keys", "first"),
    [({}, 2), ({"recent": 1}, 1), ({"since": 0}, 0), ({"since": 3}, 3)],
)
def test_live_stream_is_followed_from_where_it_is_asked(
    dispatcher, feed, wait_for, keys, first
):
    job_id = dispatcher.call("feed")
    feed.values(0, 1)
    wait_for(lambda: dispatcher.status(job_id)["packets"] == 2)
    with dispatcher.connect() as client:
        client.send(request("follow_stream", job_id, **keys))
        # Answered, so the follower has begun.
        status = dispatcher.status(job_id)
        assert status["state"] == "running"
        if first < 2:
            assert client.reply()["packet"] == first
            first += 1
            while first < 2:
                assert client.reply()["packet"] == first
                first += 1
        else:
            wait_until_reading(dispatcher, client, wait_for)
        feed.values(2, 3)
        for number in range(first, 4):
            assert client.reply()["packet"] == number
        feed.end()
        assert client.reply() == {"result": "end"}


def wait_until_reading(dispatcher, client, wait_for):
    """Wait until the dispatcher has taken up what a client has asked and waits."""
    # A request that is taken up leaves nothing unread in the kernel.
    def unread():
        local = client.sock.getsockname()[1]
        with open("/proc/net/tcp") as table:
            for line in table:
                fields = line.split()
                if fields[2].endswith(f":{local:04X}"):
                    return int(fields[4].split(":")[1], 16)
        return 1

    wait_for(lambda: unread() == 0)
    dispatcher.admin("status")


def test_queued_job_can_be_followed_and_read(dispatcher, waiting_job, daemon, wait_for):
    queue = {"name": {"q": "follow"}}
    first = waiting_job(queue=queue)
    wait_for(lambda: daemon.called("wait"))
    second = waiting_job(3, procedure="count", queue=queue)
    with dispatcher.connect() as client:
        assert client.ask(request("read_stream", second)) == {"continue": True}
        client.send(request("follow_stream", second, since=0))
        dispatcher.cancel(first)
        packets, last = client.stream()
    assert [one["data"] for one in packets] == [0, 1, 2]
    assert last == {"result": 3}


def test_follower_of_a_job_without_stream_gets_its_end(dispatcher):
    with dispatcher.connect() as client:
        client.send(request("follow_stream", dispatcher.call("echo", 7)))
        assert client.stream() == ([], {"result": [7]})


def test_follower_that_leaves_leaves_nothing_behind(
    dispatcher, waiting_job, daemon, wait_for
):
    job_id = waiting_job()
    wait_for(lambda: daemon.called("wait"))
    threads, descriptors = dispatcher.threads(), dispatcher.descriptors()
    for operation in ("follow_stream", "get_result", "cancel"):
        if operation == "cancel":
            continue  # would end the job
        for _ in range(10):
            with dispatcher.connect_unix() as client:
                client.send(request(operation, job_id))
    wait_for(lambda: dispatcher.threads() <= threads)
    wait_for(lambda: dispatcher.descriptors() <= descriptors)


def test_follower_that_is_reset_leaves_nothing_behind(
    dispatcher, waiting_job, daemon, wait_for
):
    job_id = waiting_job()
    wait_for(lambda: daemon.called("wait"))
    threads, descriptors = dispatcher.threads(), dispatcher.descriptors()
    for _ in range(10):
        client = dispatcher.connect()
        client.send(request("follow_stream", job_id))
        linger = struct.pack("ii", 1, 0)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
    wait_for(lambda: dispatcher.threads() <= threads)
    wait_for(lambda: dispatcher.descriptors() <= descriptors)


# --- several requests on a connection -----------------------------------------------


def test_requests_on_one_connection_are_answered_in_order(dispatcher):
    job_id = dispatcher.call("count", 3)
    dispatcher.result(job_id)
    with dispatcher.connect() as client:
        client.send(
            request("get_status", job_id),
            request("get_result", job_id),
            request("cancel", job_id),
            request("read_stream", job_id),
            request("get_result", UNKNOWN),
            request("nonsense", 1),
            call_request("echo", 1),
            request("list_hosts", True),
        )
        client.half_close()
        replies = client.rest()
    assert replies[0]["job_id"] == job_id
    assert replies[1:3] == [{"result": 3}, {"cancelled": False}]
    assert [one.get("packet") for one in replies[3:7]] == [0, 1, 2, None]
    assert replies[6] == {"result": 3}
    assert [error_type(one) for one in replies[7:9]] == [
        "invalid_jobid",
        "invalid_request",
    ]
    assert "job_id" in replies[9] and "hosts" in replies[10]


def test_half_close_after_a_request_cancels_nothing(dispatcher, feed):
    job_id = dispatcher.call("feed")
    with dispatcher.connect() as client, dispatcher.connect_unix() as other:
        client.send(request("get_result", job_id))
        client.half_close()
        other.send(request("follow_stream", job_id, since=0))
        other.half_close()
        feed.values(1)
        assert other.reply()["data"] == 1
        feed.end()
        assert client.rest() == [{"result": "end"}]
        assert other.rest() == [{"result": "end"}]


def test_client_that_asks_and_goes_has_submitted_its_call(dispatcher, daemon, wait_for):
    client = dispatcher.connect()
    client.send(call_request("echo", "gone"))
    client.close()
    wait_for(lambda: [one["arguments"] for one in daemon.requests] == [["gone"]])


# --- lists --------------------------------------------------------------------------


def test_list_of_queues_shows_what_runs_and_waits(
    dispatcher, waiting_job, daemon, wait_for
):
    queue = {"name": {"b": 1, "a": "é"}, "concurrency": 2}
    made = [waiting_job(queue=queue) for _ in range(5)]
    wait_for(lambda: daemon.called("wait") == 2)
    listed = dispatcher.ask(request("list_queues", True))["queues"]
    assert listed == [
        {
            "name": {"a": "é", "b": 1},
            "concurrency": 2,
            "running": 2,
            "waiting": 3,
            "oldest": made[2],
        }
    ]


def test_list_of_hosts_shows_no_credentials(dispatcher, daemon):
    host, port = daemon.address
    listed = dispatcher.ask(request("list_hosts", True))
    assert listed == {"hosts": [{"hostname": HOST, "address": host, "port": port}]}


@pytest.fixture
def listed(dispatcher):
    """``listed(**filters)``: the ids on all pages."""

    def ask(**filters):
        found, before = [], None
        while True:
            more = {} if before is None else {"before": before}
            reply = dispatcher.ask(request("list_jobs", filters | more))
            assert len(reply["jobs"]) <= filters.get("limit", 100)
            found += [one["job_id"] for one in reply["jobs"]]
            before = reply["next"]
            if before is None:
                return found

    return ask


def test_jobs_are_listed_newest_first_in_pages(dispatcher, listed):
    made = [dispatcher.call("echo", group="pages") for _ in range(25)]
    newest_first = sorted(made, reverse=True)
    for limit in (1, 7, 25, 100):
        assert listed(group="pages", limit=limit) == newest_first


def test_jobs_are_listed_by_what_is_asked(
    dispatcher, daemon, listed, waiting_job, wait_for
):
    queue = {"name": {"q": "filters"}}
    done = dispatcher.call("echo", group="filters")
    dispatcher.result(done)
    running = waiting_job(group="filters", queue=queue)
    wait_for(lambda: daemon.called("wait"))
    queued = waiting_job(group="filters", queue=queue, host="nowhere")
    submit = dispatcher.status(done)["time"]["submit"]
    both = sorted([running, queued], reverse=True)
    for filters, expected in [
        ({"state": "done"}, [done]),
        ({"state": "running"}, [running]),
        ({"state": "queued"}, [queued]),
        ({"outcome": "result"}, [done]),
        ({"outcome": "error"}, []),
        ({"host": "nowhere"}, [queued]),
        ({"procedure": "wait"}, both),
        ({"queue": {"q": "filters"}}, both),
        ({"queue": {"q": "x"}}, []),
        ({"to": submit - 1}, []),
        ({"from": submit, "ids": [done]}, [done]),
        ({"from": submit + 1000}, []),
        ({"ids": [done, running, "x", 5, None, UNKNOWN]}, [running, done]),
        ({"submitted_by": "nobody"}, []),
    ]:
        assert listed(group="filters", **filters) == expected, filters


def test_jobs_are_listed_by_who_submitted_them(dispatcher, listed):
    with dispatcher.connect_unix() as client:
        job_id = client.ask(call_request(group="who"))["job_id"]
    dispatcher.call(group="who")
    user = pwd.getpwuid(os.getuid()).pw_name
    assert listed(group="who", submitted_by=user) == [job_id]


def test_long_arguments_are_cut_in_lists(dispatcher):
    dispatcher.call("echo", "x" * 5000, group="long")
    [status] = dispatcher.ask(request("list_jobs", {"group": "long"}))["jobs"]
    assert status["call"]["cut"] is True
    assert len(json.dumps(status)) < 2000


@pytest.mark.parametrize(
    "filters",
    [
        [],
        {"x": 1},
        {"host": 5},
        {"state": "x"},
        {"outcome": "x"},
        {"limit": 0},
        {"limit": 1001},
        {"before": "x"},
        {"before": UNKNOWN.upper()},
        {"queue": "x"},
    ],
    ids=json.dumps,
)
def test_filter_that_can_not_be_is_refused(dispatcher, filters):
    reply = dispatcher.ask(request("list_jobs", filters))
    assert error_type(reply) == "invalid_request"


# --- administration -----------------------------------------------------------------


def test_administration_is_for_the_admin_socket_only(dispatcher):
    for operation in ("status", "stop"):
        with dispatcher.connect_unix() as client:
            assert error_type(client.ask(request(operation, True))) == "invalid_request"


def test_status_of_the_dispatcher_counts(dispatcher, waiting_job, daemon, wait_for):
    queue = {"name": {"q": "status"}}
    waiting_job(queue=queue), waiting_job(queue=queue)
    wait_for(lambda: daemon.called("wait"))
    status = dispatcher.admin("status")
    assert status["pid"] == dispatcher.pid
    assert (status["queued"], status["running"], status["queues"]) == (1, 1, 1)
    assert status["connections"] >= 1 and status["hosts"] == 1
    assert status["free"] > 0 and status["stopping"] is False


def test_admin_socket_is_for_its_owner_and_the_client_socket_for_its_group(dispatcher):
    assert os.stat(dispatcher.directory / "control").st_mode & 0o777 == 0o600
    assert os.stat(dispatcher.directory / "client").st_mode & 0o777 == 0o660


# --- what is no request -------------------------------------------------------------

BAD = {
    b"": "parse_error",
    b"garbage": "parse_error",
    b"{": "parse_error",
    b'{"harpcaller":1,}': "parse_error",
    b'{"harpcaller":NaN}': "parse_error",
    b'{"harpcaller":1,"get_result":Infinity}': "parse_error",
    b"[]": "invalid_request",
    b"5": "invalid_request",
    b'"x"': "invalid_request",
    b"null": "invalid_request",
    b'{"harpcaller":1,"harpcaller":1}': "invalid_request",
    b'{"harpcaller":1,"get_result":1e999}': "invalid_request",
    b"[" * 100_000 + b"]" * 100_000: "invalid_request",
    b'{"harpcaller":1,"x":' + b"[" * 100_000: "invalid_request",
    b'{"harpcaller":1,"get_result":' + b"9" * 5000 + b"}": "invalid_request",
    b"{}": "invalid_protocol",
    b'{"harpcaller":2,"get_result":"x"}': "invalid_protocol",
    b'{"harpcaller":true,"get_result":"x"}': "invalid_protocol",
    b'{"harpcaller":1.0,"get_result":"x"}': "invalid_protocol",
    b'{"harpcaller":"1","get_result":"x"}': "invalid_protocol",
    b'{"harp":1,"procedure":"x","arguments":[]}': "invalid_protocol",
    b'{"harpcaller":1}': "invalid_request",
    b'{"harpcaller":1,"x":1}': "invalid_request",
    b'{"harpcaller":1,"cancel":"x","get_status":"x"}': "invalid_request",
    b'{"harpcaller":1,"cancel":"x","procedure":"x"}': "invalid_request",
    b'{"harpcaller":1,"list_hosts":1}': "invalid_request",
    b'{"harpcaller":1,"get_result":"x","wait":1}': "invalid_request",
    b'{"harpcaller":1,"read_stream":"x","since":1,"recent":1}': "invalid_request",
    b'{"harpcaller":1,"read_stream":"x","since":-1}': "invalid_request",
    b'{"harpcaller":1,"read_stream":"x","since":true}': "invalid_request",
    b'{"harpcaller":1,"read_stream":"x","limit":0}': "invalid_request",
    b'{"harpcaller":1,"follow_stream":"x","recent":1.0}': "invalid_request",
}
BAD_CALLS = [
    {"host": None},
    {"host": 5},
    {"procedure": []},
    {"arguments": None},
    {"arguments": "x"},
    {"timeout": 0},
    {"timeout": -1},
    {"timeout": 1.5},
    {"timeout": True},
    {"timeout": None},
    {"timeout": "5"},
    {"max_exec_time": 0},
    {"max_exec_time": 10**10},
    {"queue": []},
    {"queue": {}},
    {"queue": {"name": "x"}},
    {"queue": {"name": {}, "concurrency": 0}},
    {"queue": {"name": {}, "concurrency": True}},
    {"group": 5},
    {"on_behalf_of": 5},
    {"secret": "x"},
    {"secret": [-1]},
    {"secret": [True]},
]


@pytest.mark.parametrize("line", BAD, ids=lambda line: repr(line[:40]))
def test_line_that_is_no_request_is_told_why_and_the_connection_goes_on(
    dispatcher, line
):
    with dispatcher.connect() as client:
        client.send_bytes(line + b"\n")
        assert error_type(client.reply()) == BAD[line]
        assert "hosts" in client.ask(request("list_hosts", True))


@pytest.mark.parametrize("change", BAD_CALLS, ids=json.dumps)
def test_call_with_a_mistyped_field_is_told_why_and_runs_nothing(
    dispatcher, daemon, change
):
    with dispatcher.connect() as client:
        assert error_type(client.ask(call_request() | change)) == "invalid_request"
        assert "hosts" in client.ask(request("list_hosts", True))
    assert not daemon.requests


@pytest.mark.parametrize("missing", ["host", "procedure", "arguments"])
def test_call_with_a_missing_field_is_told_which(dispatcher, missing):
    message = call_request()
    del message[missing]
    reply = dispatcher.ask(message)
    assert error_type(reply) == "invalid_request"
    assert f'"{missing}" is missing' in reply["error"]["message"]


@pytest.mark.parametrize("ending", [b"\r\n", b" \t\n"])
def test_blanks_around_a_request_are_fine(dispatcher, ending):
    with dispatcher.connect() as client:
        client.send_bytes(b'  {"harpcaller":1,"list_hosts":true}' + ending)
        assert "hosts" in client.reply()


PARSE = "parse_error"
FATAL = {
    "invalid UTF-8": (b'{"harpcaller":1,"get_result":"\xff"}\n', "parse_error"),
    "surrogate": (b'{"harpcaller":1,"get_result":"\xed\xa0\x80"}\n', "parse_error"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200, PARSE),
    "endless": (b"x" * 50_000_000, "invalid_request"),
    "long": (b'{"x":"' + b"x" * 5_000_000 + b'"}\n', "invalid_request"),
}


@pytest.mark.parametrize("name", FATAL)
def test_connection_closes_after_what_can_not_be_followed(dispatcher, name):
    data, expected = FATAL[name]
    with dispatcher.connect() as client:
        client.send_bytes(data)
        assert error_type(client.reply()) == expected
        assert client.line() == b""


@pytest.mark.parametrize("part", [b"{", b'{"harpcaller":1,"list_hosts":true}', b" "])
def test_half_a_request_is_told_so(dispatcher, part):
    with dispatcher.connect() as client:
        client.send_bytes(part)
        client.half_close()
        [reply] = client.rest()
        assert error_type(reply) == "invalid_request"


@pytest.mark.parametrize("part", [b"", b'{"harpcaller":1'])
def test_client_that_says_nothing_is_told_so_in_time(dispatcher, part):
    with dispatcher.connect() as client:
        client.send_bytes(part)
        [reply] = client.rest()
        assert error_type(reply) == "invalid_request"
        assert "1.0 s" in reply["error"]["message"]


def test_client_that_comes_and_goes_harms_nobody(dispatcher, wait_for):
    before = dispatcher.descriptors()
    for _ in range(50):
        dispatcher.connect().close()
        dispatcher.connect_unix().close()
    wait_for(lambda: dispatcher.descriptors() <= before)
    assert "hosts" in dispatcher.ask(request("list_hosts", True))


def test_bad_input_on_one_connection_harms_no_other(dispatcher, feed):
    job_id = dispatcher.call("feed")
    with dispatcher.connect() as follower, dispatcher.connect() as kept:
        follower.send(request("follow_stream", job_id, since=0))
        for number, data in enumerate([*BAD, *(data for data, _ in FATAL.values())]):
            with dispatcher.connect() as client:
                client.send_bytes(data[:1_000_000] + b"\n")
                client.line()
            feed.values(number)
            assert follower.reply()["data"] == number
            assert "hosts" in kept.ask(request("list_hosts", True))
        feed.end()
        assert follower.reply() == {"result": "end"}


def test_log_shows_no_password_argument_or_traceback(dispatcher):
    dispatcher.result(dispatcher.call("echo", "a secret argument"))
    log = dispatcher.log()
    assert "correct horse" not in log and "a secret argument" not in log
    assert "Traceback" not in log
