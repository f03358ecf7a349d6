"""Connections that are kept, go stale, break; and processes that fork."""

import copy
import gc
import json
import os
import pickle
import signal
import socket
import threading

import harp
import pytest
from harp import jobid


class Dispatcher:
    """A dispatcher that answers requests on a connection one after the other.

    :ivar requests: pairs of the connection's number and the request
    """

    def __init__(self, scripted_peer, answer):
        self.requests = []
        self._answer = answer
        self._connections = 0
        self._lock = threading.Lock()
        self.peer = scripted_peer(self._serve)

    def caller(self, **options) -> harp.HarpCaller:
        times = {"retry_for": 5, "resume_for": 5}
        return harp.HarpCaller(*self.peer.address, **times | options)

    def _serve(self, connection):
        with self._lock:
            number = self._connections
            self._connections += 1
        while line := connection.readline():
            request = json.loads(line)
            with self._lock:
                self.requests.append((number, request))
                count = len(self.requests)
            reply = self._answer(request, count)
            if reply is None:
                return
            connection.send(reply if isinstance(reply, bytes) else to_line(reply))

    def numbers(self) -> list[int]:
        """On which connection each request came."""
        return [number for number, _ in self.requests]


def to_line(message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def answer_anything(request, count):
    if "host" in request:
        return {"harpcaller": 1, "job_id": request["job_id"]}
    if "cancel" in request:
        return {"cancelled": True}
    return {"result": count}


@pytest.fixture
def dispatcher(scripted_peer):
    """``dispatcher(answer)``: see :class:`Dispatcher`; the answer to a request, and
    to which one it is; None: the connection is closed instead."""
    return lambda answer=answer_anything: Dispatcher(scripted_peer, answer)


# --- kept ---------------------------------------------------------------------------


def test_connection_is_used_again(dispatcher):
    peer = dispatcher()
    with peer.caller() as rpc:
        job = rpc.web01.uptime()
        job.result()
        job.cancel()
    assert peer.numbers() == [0, 0, 0]


def test_connection_of_a_refused_request_is_used_again(dispatcher):
    refusal = {
        "harpcaller": 1,
        "error": {"type": "invalid_jobid", "message": "no such job"},
    }
    peer = dispatcher(lambda request, count: refusal)
    with peer.caller() as rpc:
        for _ in range(3):
            with pytest.raises(harp.NoSuchCall):
                rpc.job("x").result()
    assert peer.numbers() == [0, 0, 0]


def test_connection_that_was_idle_for_too_long_is_not_used(dispatcher):
    peer = dispatcher()
    with peer.caller(idle_time=0) as rpc:
        rpc.web01.uptime()
        rpc.web01.uptime()
    assert peer.numbers() == [0, 1]


def test_no_more_connections_are_kept_than_asked_for(dispatcher):
    arrived = threading.Barrier(5)

    def answer(request, count):
        if count <= 5:
            arrived.wait(10)
        return {"result": count}

    peer = dispatcher(answer)
    with peer.caller(max_kept=2) as rpc:
        threads = [threading.Thread(target=rpc.job("x").result) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(peer.numbers()) == [0, 1, 2, 3, 4]
        assert len(rpc._connections._kept) == 2


def test_threads_share_a_caller(dispatcher):
    peer = dispatcher(lambda request, count: {"result": request["get_result"]})
    wrong = []

    def ask(rpc, name):
        for n in range(50):
            if rpc.job(f"{name} {n}").result() != f"{name} {n}":
                wrong.append((name, n))

    with peer.caller() as rpc:
        threads = [threading.Thread(target=ask, args=(rpc, n)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(peer.requests) == 300


def test_closed_caller_makes_new_connections(dispatcher):
    peer = dispatcher()
    rpc = peer.caller()
    rpc.web01.uptime()
    rpc.close()
    rpc.web01.uptime()
    rpc.close()
    assert peer.numbers() == [0, 1]


def test_reply_that_came_too_late_is_not_taken_for_the_next_one(dispatcher):
    released = threading.Event()

    def answer(request, count):
        if count == 1:
            released.wait(10)
        return {"result": count}

    peer = dispatcher(answer)
    with peer.caller() as rpc:
        job = rpc.job("x")
        assert job.result(timeout=0.01) is harp.CALL_NOT_FINISHED
        released.set()
        assert job.result() == 2


def test_caller_that_is_forgotten_closes_its_connections_at_once(dispatcher):
    rpc = dispatcher().caller()
    rpc.job("x").result()
    connection = rpc._connections._kept[0][0]._connection
    gc.disable()
    try:
        del rpc
        assert connection.sock.fileno() == -1
    finally:
        gc.enable()


# --- stale and broken ---------------------------------------------------------------


def test_stale_connection_is_noticed_or_repaired(dispatcher):
    # Closed after each second request, of which it serves one.
    peer = dispatcher(
        lambda request, count: answer_anything(request, count) if count % 2 else None
    )
    with peer.caller() as rpc:
        assert len({rpc.web01.uptime().id() for _ in range(4)}) == 4
    calls = [request["job_id"] for _, request in peer.requests]
    # What got no answer was sent again as it was: one id for each call.
    assert len(set(calls)) == 4


def test_dispatcher_that_starts_anew_is_waited_for(in_thread):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = reserved.getsockname()
    rpc = harp.HarpCaller(*address, retry_for=30)
    job = in_thread(rpc.web01["uptime"].__call__)
    with socket.create_server(address) as listener:
        with listener.accept()[0] as sock:
            line = sock.makefile("rb").readline()
            sock.sendall(to_line(answer_anything(json.loads(line), 1)))
            assert jobid.is_valid(job.result().id())
    rpc.close()


def test_wait_for_a_result_goes_on_when_the_dispatcher_has_stopped(dispatcher):
    stops = {"harpcaller": 1, "error": {"type": "shutdown", "message": "it stops"}}
    replies = [stops, None, {"result": "done"}]
    peer = dispatcher(lambda request, count: replies[count - 1])
    with peer.caller() as rpc:
        assert rpc.job("x").result() == "done"
    assert len(peer.requests) == 3


def test_cancel_whose_reply_is_lost_tells_whether_it_was_stopped(dispatcher):
    replies = [None, {"cancelled": False}, {"cancelled": True}]
    peer = dispatcher(lambda request, count: replies[count - 1])
    with peer.caller() as rpc:
        assert rpc.job("x").cancel() is True
    asked = [sorted(request)[0] for _, request in peer.requests]
    assert asked == ["cancel", "cancel", "get_result"]


def test_raw_request_is_never_sent_twice(dispatcher):
    peer = dispatcher(lambda request, count: None)
    rpc = peer.caller()
    with pytest.raises(harp.ConnectionLost):
        rpc.request({"harpcaller": 1, "whatever": True})
    assert len(peer.requests) == 1


def test_refusal_after_a_lost_reply_that_says_nothing_leaves_it_unknown(dispatcher):
    full = {"harpcaller": 1, "error": {"type": "overloaded", "message": "full"}}
    peer = dispatcher(lambda request, count: None if count == 1 else full)
    with peer.caller() as rpc:
        with pytest.raises(harp.SubmissionLost) as caught:
            rpc.web01.uptime()
    assert caught.value.job_id == peer.requests[0][1]["job_id"]


@pytest.mark.parametrize(
    "type, error",
    [
        ("invalid_jobid", harp.NoSuchCall),
        ("auth_error", harp.AccessDenied),
        ("overloaded", harp.Unavailable),
        ("storage_error", harp.Unavailable),
        ("invalid_request", harp.RequestRefused),
    ],
)
def test_refusals_have_classes_of_their_own(dispatcher, type, error):
    refusal = {"harpcaller": 1, "error": {"type": type, "message": "no"}}
    with dispatcher(lambda *_: refusal).caller() as rpc:
        with pytest.raises(error) as caught:
            rpc.job("x").result()
    assert caught.value.__class__ is error


def test_how_a_call_ended_is_no_refusal(dispatcher):
    end = {"error": {"type": "auth_error", "message": "no", "ran": "no"}}
    with dispatcher(lambda *_: end).caller() as rpc:
        with pytest.raises(harp.RemoteError) as caught:
            rpc.job("x").get()
    assert caught.value.__class__ is harp.RemoteError


# --- forks --------------------------------------------------------------------------


def in_child(function) -> None:
    """Run a function in a forked process and see that it succeeds."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(30)
            function()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_forked_process_uses_a_connection_of_its_own(dispatcher):
    peer = dispatcher(lambda request, count: {"result": request["get_result"]})
    with peer.caller() as rpc:
        assert rpc.job("parent").result() == "parent"

        def child():
            assert rpc.job("child").result() == "child"
            assert rpc.job("child").result() == "child"

        in_child(child)
        assert rpc.job("parent again").result() == "parent again"
    assert peer.numbers() == [0, 1, 1, 0]


def test_stream_goes_on_in_both_processes_after_a_fork(servers):
    job = servers.caller().localhost.count(5)
    values = job.follow(since=0)
    assert next(values) == 0

    def child():
        assert values.all() == [1, 2, 3, 4]

    in_child(child)
    assert values.all() == [1, 2, 3, 4]


# --- pickles and copies -------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        harp.HarpException("text"),
        harp.ConfigurationError("file: key"),
        harp.CommunicationError("text"),
        harp.ConnectFailed("text", False),
        harp.ConnectionLost("text"),
        harp.ReplyTimeout("text"),
        harp.SubmissionLost("text", "id"),
        harp.RemoteException("ValueError", "text", [1]),
        harp.RemoteError("timeout", "text", {"a": 1}, "maybe"),
        harp.RequestRefused("invalid_request", "text"),
        harp.NoSuchCall("invalid_jobid", "text"),
        harp.AccessDenied("auth_error", "text"),
        harp.Unavailable("shutdown", "text", None),
        harp.CancelledException("text"),
        harp.ProcedureError("text", type="T", data=[1]),
    ],
    ids=lambda error: error.__class__.__name__,
)
@pytest.mark.parametrize("copier", [copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_exceptions_survive_pickling(error, copier):
    again = copier(error)
    assert again.__class__ is error.__class__
    assert (str(again), again.args) == (str(error), error.args)
    assert again.__dict__ == error.__dict__


def test_every_public_exception_is_pickled_above():
    parameters = test_exceptions_survive_pickling.pytestmark[1].args[1]
    public = {
        value
        for value in vars(harp).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert public == {error.__class__ for error in parameters}


def test_pickled_call_finds_its_dispatcher_again(servers):
    job = servers.caller().localhost.add(1, 2)
    again = pickle.loads(pickle.dumps(job))
    assert again == job
    assert again.get() == 3


def test_pickle_and_text_hold_no_password_of_a_file(tmp_path):
    path = tmp_path / "password"
    path.write_text("geheim\n")
    rpc = harp.HarpCaller("harps://panel@web01", password_file=path)
    assert b"geheim" not in pickle.dumps(rpc.job("x"))
    assert "geheim" not in repr(rpc) + repr(rpc.web01) + repr(rpc._settings)
    again = pickle.loads(pickle.dumps(rpc))
    assert again._settings.password == "geheim"
