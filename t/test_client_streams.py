"""Reading what a call streams: polled, followed, closed by other threads, in asyncio;
and what else is asked about calls."""

import asyncio
import json
import threading

import harp
import pytest
from harp import CALL_CANCELLED, HarpCaller, Result

JOB = "01932b4e-7c00-7000-8000-000000000001"


def to_lines(*messages) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def packets(since, *values) -> bytes:
    return to_lines(*({"packet": since + n, "data": v} for n, v in enumerate(values)))


STOPS = to_lines({"harpcaller": 1, "error": {"type": "shutdown", "message": "stops"}})


@pytest.fixture
def dispatcher(scripted_peer):
    """``dispatcher(*replies)``: a client of a dispatcher that gives these, one for each
    connection, and closes. What it was asked is in ``.requests``."""

    def start(*replies, **options):
        requests = []

        def serve(connection):
            requests.append(json.loads(connection.readline()))
            reply = replies[len(requests) - 1]
            if callable(reply):
                reply(connection)
            else:
                connection.send(reply)

        peer = scripted_peer(serve)
        caller = HarpCaller(*peer.address, max_kept=0, **options)
        caller.__dict__["requests"] = requests
        return caller

    return start


# --- taken up where it broke --------------------------------------------------------


@pytest.mark.parametrize("end", [b"", b'{"packet": 2, "da', STOPS])
def test_stream_that_breaks_goes_on_at_the_right_packet(dispatcher, end):
    rpc = dispatcher(
        packets(0, "a", "b") + end, packets(2, "c") + to_lines({"result": 5})
    )
    values = rpc.job(JOB).follow(since=0, numbered=True)
    assert values.all() == [(0, "a"), (1, "b"), (2, "c")]
    assert values.result() == 5
    assert [request["since"] for request in rpc.requests] == [0, 2]


def test_recent_values_are_asked_for_by_number(dispatcher):
    call = {"host": "a", "procedure": "b", "arguments": []}
    status = to_lines({"call": call, "time": {"submit": 1}, "packets": 7})
    rpc = dispatcher(status, b"", packets(5, "f", "g") + to_lines({"result": 5}))
    assert rpc.job(JOB).follow(recent=2).all() == ["f", "g"]
    assert [request.get("since") for request in rpc.requests] == [None, 5, 5]


def test_stream_whose_place_is_unknown_is_not_taken_up(dispatcher):
    call = {"host": "a", "procedure": "b", "arguments": []}
    status = to_lines({"call": call, "time": {"submit": 1}})
    rpc = dispatcher(status, b"")
    values = rpc.job(JOB).follow(recent=2)
    with pytest.raises(harp.ConnectionLost):
        next(values)
    assert rpc.requests[1] == {"harpcaller": 1, "follow_stream": JOB, "recent": 2}


def test_reading_a_stream_that_breaks_goes_on_too(dispatcher):
    rpc = dispatcher(packets(0, "a"), packets(1, "b") + to_lines({"continue": True}))
    assert rpc.job(JOB).stream().all() == ["a", "b"]
    assert [request["since"] for request in rpc.requests] == [0, 1]


def test_follower_outlives_the_dispatcher(make_servers, tmp_path):
    servers = make_servers()
    with servers.caller() as rpc:
        job = rpc.localhost.count_then_wait(3, str(tmp_path / "never"))
        with job.follow(since=0) as values:
            assert [next(values) for _ in range(3)] == [0, 1, 2]
            servers.dispatcher.kill()
            servers.start_dispatcher()
            assert values.all() == []
            assert values.result().type == "missing_result"
            assert values.result().ran == "yes"


# --- deadlines and other threads ----------------------------------------------------


def test_value_that_does_not_come_in_time_may_come_later(dispatcher):
    released = threading.Event()

    def script(connection):
        connection.send(packets(0, "a"))
        released.wait(10)
        connection.send(packets(1, "b") + to_lines({"result": 5}))

    values = dispatcher(script).job(JOB).follow(since=0, timeout=0.05)
    assert next(values) == "a"
    with pytest.raises(harp.ReplyTimeout):
        next(values)
    released.set()
    values._timeout = 10
    assert values.all() == ["b"]


def test_closing_in_another_thread_ends_the_wait(dispatcher, in_thread):
    waits = threading.Event()

    def script(connection):
        connection.send(packets(0, "a"))
        connection.read_to_end()

    def read():
        for value in values:
            waits.set()
        return value

    values = dispatcher(script).job(JOB).follow(since=0)
    reader = in_thread(read)
    assert waits.wait(10)
    values.close()
    assert reader.result() == "a"
    assert list(values) == []


def test_negative_positions_are_value_errors(dispatcher):
    job = HarpCaller().job(JOB)
    for wrong in (
        lambda: job.follow(since=-1),
        lambda: job.stream(recent=-1),
        lambda: job.poll(-1),
        lambda: job.poll(limit=0),
    ):
        with pytest.raises(ValueError):
            wrong()


# --- polling ------------------------------------------------------------------------


def test_poll_goes_through_a_stream_in_steps(servers):
    with servers.caller() as rpc:
        job = rpc.localhost.count(5)
        job.get()
        assert job.poll(limit=2) == ([0, 1], 2, None)
        assert job.poll(since=2, limit=2) == ([2, 3], 4, None)
        assert job.poll(since=4, limit=2) == ([4], 5, Result(5))
        assert job.poll() == ([0, 1, 2, 3, 4], 5, Result(5))
        assert job.poll(since=9) == ([], 9, Result(5))


def test_poll_of_what_goes_on_has_no_end(servers, tmp_path):
    with servers.caller() as rpc:
        job = rpc.localhost.count_then_wait(2, str(tmp_path / "never"))
        with job.follow(since=0) as values:
            assert [next(values), next(values)] == [0, 1]
        assert job.poll() == ([0, 1], 2, None)
        job.cancel()
        assert job.poll(2) == ([], 2, CALL_CANCELLED)


def test_poll_tells_failure_from_a_result_that_is_none(servers):
    with servers.caller() as rpc:
        failed = rpc.localhost.count_then_fail(1)
        failed.result()
        assert isinstance(failed.poll().end, harp.RemoteException)
        none = rpc.localhost.echo(None)
        none.get()
        assert none.poll() == ([], 0, Result(None))


def test_poll_that_breaks_is_repeated_from_its_start(dispatcher):
    rpc = dispatcher(packets(3, "d"), packets(3, "d", "e") + to_lines({"result": 1}))
    assert rpc.job(JOB).poll(3) == (["d", "e"], 5, Result(1))


@pytest.mark.parametrize("numbers", [(4, 5), (3, 3), (3, 5)])
def test_poll_takes_no_packet_for_another(dispatcher, numbers):
    lines = [{"packet": number, "data": "d"} for number in numbers]
    rpc = dispatcher(to_lines(*lines, {"result": 1}))
    with pytest.raises(harp.CommunicationError, match=r"packet \d in place of \d"):
        rpc.job(JOB).poll(3)


def test_poll_reads_no_more_than_it_wants(dispatcher):
    def stream_for_ever(connection):
        number = 0
        try:
            while True:
                connection.send(packets(number, "a", "b"))
                number += 2
        except OSError:
            pass  # the client has left

    rpc = dispatcher(stream_for_ever)
    assert rpc.job(JOB).poll(limit=3) == (["a", "b", "a"], 3, None)


def test_connection_with_more_than_the_reply_is_not_used_again(scripted_peer):
    def serve(connection):
        connection.readline()
        connection.send(to_lines({"result": 1}, {"result": 2}))
        connection.read_to_end()

    peer = scripted_peer(serve)
    with HarpCaller(*peer.address) as rpc:
        assert [rpc.job(JOB).result(), rpc.job(JOB).result()] == [1, 1]
    assert peer.connections == 2


# --- asyncio ------------------------------------------------------------------------


async def follow(job, since=0):
    """As in the guide (doc/client.rst)."""
    end = object()
    with await asyncio.to_thread(job.follow, since=since) as values:
        while (value := await asyncio.to_thread(next, values, end)) is not end:
            yield value


def test_calls_and_streams_are_awaited_in_threads(servers):
    async def run(rpc):
        job = await asyncio.to_thread(rpc.localhost.count, 3)
        values = [value async for value in follow(job)]
        return values, await asyncio.to_thread(job.get, timeout=30)

    with servers.caller() as rpc:
        assert asyncio.run(run(rpc)) == ([0, 1, 2], 3)


def test_task_that_follows_can_be_cancelled(servers, tmp_path):
    async def run(rpc):
        job = await asyncio.to_thread(
            rpc.localhost.count_then_wait, 1, str(tmp_path / "never")
        )
        first = asyncio.Event()

        async def read():
            async for _ in follow(job):
                first.set()

        task = asyncio.create_task(read())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.to_thread(job.cancel)

    with servers.caller() as rpc:
        assert asyncio.run(run(rpc)) is True


# --- secrets ------------------------------------------------------------------------


def test_secret_arguments_arrive_and_are_shown_to_nobody(servers):
    with servers.caller() as rpc:
        positional = rpc.localhost.arguments(1, harp.Secret("geheim"))
        named = rpc.localhost.arguments(a=1, b=harp.Secret(["geheim"]))
        assert positional.get()["positional"] == [1, "geheim"]
        assert named.get()["named"] == {"a": 1, "b": ["geheim"]}
        shown = json.dumps([positional.status(), named.status()])
        shown += json.dumps(list(rpc.jobs(ids=[positional.id(), named.id()])))
        assert "geheim" not in shown
        assert "geheim" not in servers.dispatcher.log()


def test_secret_is_sent_to_a_daemon_directly(servers):
    assert servers.direct().add(harp.Secret(1), 2) == 3


def test_secret_within_an_argument_is_a_type_error(servers):
    with servers.caller() as rpc, pytest.raises(TypeError, match="Secret"):
        rpc.localhost.echo([harp.Secret("geheim")])


def test_secret_does_not_show_itself():
    assert repr(harp.Secret("geheim")) == str(harp.Secret("geheim")) == "Secret(***)"


# --- questions ----------------------------------------------------------------------


def test_procedures_of_a_host_are_told(servers):
    with servers.caller() as rpc:
        found = {entry["name"]: entry for entry in rpc.procedures("localhost")}
        assert found["count"]["doc"] == "Stream 0 to n - 1 and return n."
        assert [p["name"] for p in found["add"]["parameters"]] == ["a", "b"]
        with pytest.raises(harp.RemoteError, match="unknown_host"):
            rpc.procedures("nowhere")


def test_jobs_and_queues_are_listed(servers, tmp_path):
    name = {"test": str(tmp_path)}
    with servers.caller() as rpc:
        server = rpc.host("localhost", queue=name, concurrency=1, info=str(tmp_path))
        job = server.count_then_wait(1, str(tmp_path / "never"))
        waits = server.add(1, 2)
        (queue,) = [queue for queue in rpc.queues() if queue["name"] == name]
        assert (queue["running"] + queue["waiting"], queue["concurrency"]) == (2, 1)
        assert waits.explain()
        listed = [status["job_id"] for status in rpc.jobs(queue=name)]
        assert listed == [waits.id(), job.id()]
        assert [status["job_id"] for status in rpc.jobs(queue=name, limit=1)] == [
            waits.id()
        ]
        waits.cancel()
        job.cancel()
