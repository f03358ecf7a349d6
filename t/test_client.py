"""The client library against a dispatcher that says what a script tells it, and against
the real ones."""

import copy
import inspect
import json
import pickle
import socket
import threading
from pathlib import Path

import harp
import pytest
from harp import CALL_CANCELLED, CALL_NOT_FINISHED, HarpCaller, jobid

JOB = "01932b4e-7c00-7000-8000-000000000001"


def line(message) -> bytes:
    return json.dumps(message).encode() + b"\n"


@pytest.fixture
def dispatcher(scripted_peer):
    """``dispatcher(*replies)``: a client of a dispatcher that gives these replies, one
    for each connection, the last one for all further ones; bytes, several lines of
    them, or a script. What it was asked is in ``.requests``."""

    def start(*replies, **options):
        requests = []
        lock = threading.Lock()

        def serve(connection):
            request = connection.readline()
            with lock:
                requests.append(json.loads(request))
                reply = replies[min(len(requests), len(replies)) - 1]
            if callable(reply):
                reply(connection)
            else:
                connection.send(reply if isinstance(reply, bytes) else line(reply))

        peer = scripted_peer(serve)
        # A connection for each request, so that it's told which reply is whose.
        times = {"retry_for": 0.2, "resume_for": 0.2, "max_kept": 0}
        caller = HarpCaller(*peer.address, **times | options)
        caller.__dict__.update(requests=requests, peer=peer)
        return caller

    return start


def reset(connection):
    connection.reset()


def error_object(type="timeout", message="took too long", **more):
    return {"type": type, "message": message, **more}


# --- calling ------------------------------------------------------------------------


def test_call_sends_positional_arguments_as_array(dispatcher):
    rpc = dispatcher({"harpcaller": 1, "job_id": JOB})
    assert rpc.web01.add(1, "zwei").id() == JOB
    (request,) = rpc.requests
    assert jobid.is_valid(request.pop("job_id"))
    assert request == {
        "harpcaller": 1,
        "host": "web01",
        "procedure": "add",
        "arguments": [1, "zwei"],
    }


def test_call_sends_named_arguments_as_object(dispatcher):
    rpc = dispatcher({"harpcaller": 1, "job_id": JOB})
    rpc.web01.add(a=1, self=2, procedure=3)
    assert rpc.requests[0]["arguments"] == {"a": 1, "self": 2, "procedure": 3}


def test_call_without_arguments_sends_empty_array(dispatcher):
    rpc = dispatcher({"harpcaller": 1, "job_id": JOB})
    rpc.web01.uptime()
    assert rpc.requests[0]["arguments"] == []


def test_call_with_both_kinds_of_arguments_is_a_type_error_and_sends_nothing(
    dispatcher,
):
    rpc = dispatcher()
    with pytest.raises(TypeError, match="all positional or all named"):
        rpc.web01.add(1, b=2)
    assert rpc.requests == []


@pytest.mark.parametrize("value, error", [(object(), TypeError), (1e999, ValueError)])
def test_argument_that_is_no_json_sends_nothing(dispatcher, value, error):
    rpc = dispatcher()
    with pytest.raises(error):
        rpc.web01.echo(value)
    assert rpc.requests == []


def test_options_of_a_host_go_with_its_calls(dispatcher):
    rpc = dispatcher({"harpcaller": 1, "job_id": JOB})
    server = rpc.host("web01", queue={"for": "web01"}, timeout=5, info={"who": "me"})
    server.uptime()
    server(concurrency=3, max_exec_time=9, info=None).uptime()
    first, second = rpc.requests
    assert first["queue"] == {"name": {"for": "web01"}, "concurrency": 1}
    assert (first["timeout"], first["info"]) == (5, {"who": "me"})
    assert "max_exec_time" not in first
    assert second["queue"] == {"name": {"for": "web01"}, "concurrency": 3}
    assert (second["timeout"], second["max_exec_time"]) == (5, 9)
    assert "info" not in second


def test_setting_options_leaves_the_first_host_as_it_was(dispatcher):
    rpc = dispatcher({"harpcaller": 1, "job_id": JOB})
    server = rpc.web01
    server(timeout=5)
    server.uptime()
    assert "timeout" not in rpc.requests[0]


def test_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="tiemout"):
        HarpCaller().web01(tiemout=5)


def test_concurrency_without_queue_is_a_value_error():
    with pytest.raises(ValueError, match="queue"):
        HarpCaller().host("web01", concurrency=2)


def test_hosts_and_procedures_of_any_name_can_be_called(dispatcher):
    rpc = dispatcher({"harpcaller": 1, "job_id": JOB})
    rpc("web-01.example.net")["disk-usage"]()
    rpc("job")["host"]()
    rpc.web01["_hidden"]()
    called = [(request["host"], request["procedure"]) for request in rpc.requests]
    assert called == [
        ("web-01.example.net", "disk-usage"),
        ("job", "host"),
        ("web01", "_hidden"),
    ]


def test_server_and_procedure_say_what_they_are():
    server = HarpCaller("example.net").web01
    assert str(server) == "web01"
    assert (server.uptime.procedure(), server.uptime.host()) == ("uptime", "web01")
    assert "example.net:3502" in repr(HarpCaller("example.net"))


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, lambda x: pickle_copy(x)])
def test_client_objects_can_be_copied_and_pickled(dispatcher, copier):
    rpc = dispatcher({"harpcaller": 1, "job_id": JOB})
    assert copier(rpc("web01").uptime)().id() == JOB
    assert str(copier(rpc.web01)) == "web01"
    assert copier(rpc.job(JOB)).id() == JOB
    assert copier(CALL_NOT_FINISHED) is CALL_NOT_FINISHED
    assert copier(CALL_CANCELLED) is CALL_CANCELLED


def pickle_copy(value):
    return pickle.loads(pickle.dumps(value))


def test_host_is_no_iterable():
    with pytest.raises(TypeError):
        iter(HarpCaller().web01)
    with pytest.raises(TypeError):
        "x" in HarpCaller().web01


def test_name_with_leading_underscore_is_no_procedure():
    assert not hasattr(HarpCaller(), "_ipython_display_")
    assert not hasattr(HarpCaller().web01, "__wrapped__")


# --- submitting again ---------------------------------------------------------------


@pytest.mark.parametrize(
    "broken", [b"", b'{"harpcaller": 1, "job', reset], ids=["eof", "half", "reset"]
)
def test_call_whose_reply_is_lost_is_sent_again_under_its_id(dispatcher, broken):
    rpc = dispatcher(broken, broken, {"harpcaller": 1, "job_id": JOB}, resume_for=30)
    assert rpc.web01.uptime().id() == JOB
    first, *others = rpc.requests
    assert others == [first, first]


def test_call_that_is_refused_is_not_sent_again(dispatcher):
    refusal = {"harpcaller": 1, "error": error_object("storage_error", "disk full")}
    rpc = dispatcher(refusal)
    with pytest.raises(harp.RemoteError, match="storage_error: disk full"):
        rpc.web01.uptime()
    assert len(rpc.requests) == 1


def test_call_whose_reply_is_no_protocol_is_not_sent_again(dispatcher):
    rpc = dispatcher(b"220 mail.example.net ESMTP\r\n")
    with pytest.raises(harp.CommunicationError, match=r"127\.0\.0\.1:\d+.*protocol"):
        rpc.web01.uptime()
    assert len(rpc.requests) == 1


def test_call_whose_reply_is_always_lost_names_its_id(dispatcher):
    rpc = dispatcher(b"")
    with pytest.raises(harp.SubmissionLost) as caught:
        rpc.web01.uptime()
    assert rpc.requests[0]["job_id"] == caught.value.job_id
    assert caught.value.job_id in str(caught.value)
    assert 1 < len(rpc.requests) < 20


def test_call_without_reply_ends_in_time(dispatcher):
    rpc = dispatcher(lambda connection: connection.stall(), reply_timeout=0.05)
    with pytest.raises(harp.SubmissionLost, match="no reply"):
        rpc.web01.uptime()
    assert len(rpc.requests) == 1


def test_refused_connection_names_the_address():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        host, port = bound.getsockname()
        with pytest.raises(
            harp.CommunicationError, match=f"{host}:{port}: can't connect"
        ):
            HarpCaller(host, port).web01.uptime()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 70, "a\0b", "ä" * 80])
def test_host_that_can_not_be_found_is_a_communication_error(host):
    with pytest.raises(harp.CommunicationError, match="can't look it up"):
        HarpCaller(host).web01.uptime()


def test_dispatcher_on_a_unix_socket_is_called(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        job = []
        thread = threading.Thread(
            target=lambda: job.append(HarpCaller(f"unix:{path}").web01.uptime())
        )
        thread.start()
        with listener.accept()[0] as connection:
            assert b'"web01"' in connection.recv(65536)
            connection.sendall(line({"harpcaller": 1, "job_id": JOB}))
            thread.join()
    assert job[0].id() == JOB


def test_missing_unix_socket_names_the_path(tmp_path):
    with pytest.raises(harp.CommunicationError, match=f"unix:{tmp_path}/socket"):
        HarpCaller(f"unix:{tmp_path}/socket").web01.uptime()


def test_relative_unix_socket_is_a_value_error():
    with pytest.raises(ValueError, match="absolute"):
        HarpCaller("unix:socket")


# --- results ------------------------------------------------------------------------


def test_result_returns_the_value(dispatcher):
    job = dispatcher({"result": {"a": [1, None]}}).job(JOB)
    assert job.result() == job.get() == {"a": [1, None]}


def test_exception_is_returned_by_result_and_raised_by_get(dispatcher):
    end = {"exception": error_object("ValueError", "no", data={"line": 5})}
    job = dispatcher(end).job(JOB)
    result = job.result()
    assert isinstance(result, harp.RemoteException)
    assert (result.type, result.message) == ("ValueError", "no")
    assert result.data == {"line": 5}
    with pytest.raises(harp.RemoteException, match="ValueError: no"):
        job.get()


def test_error_is_returned_by_result_and_raised_by_get_with_what_ran(dispatcher):
    job = dispatcher({"error": error_object(ran="yes", data=[1])}).job(JOB)
    result = job.result()
    assert isinstance(result, harp.RemoteError)
    assert (result.type, result.ran, result.data) == ("timeout", "yes", [1])
    with pytest.raises(harp.RemoteError, match="timeout: took too long"):
        job.get()


def test_unknown_keys_of_an_error_are_ignored(dispatcher):
    rpc = dispatcher(
        {"error": error_object(step="resolve")},
        {"exception": error_object(ran="yes", host="web01")},
    )
    assert isinstance(rpc.job(JOB).result(), harp.RemoteError)
    assert isinstance(rpc.job(JOB).result(), harp.RemoteException)


def test_errors_survive_pickling(dispatcher):
    result = dispatcher({"error": error_object(ran="no", data=[1])}).job(JOB).result()
    again = pickle_copy(result)
    assert (again.type, again.message, again.data, again.ran) == (
        "timeout",
        "took too long",
        [1],
        "no",
    )


def test_cancelled_is_returned_by_result_and_raised_by_get(dispatcher):
    job = dispatcher({"cancelled": True}).job(JOB)
    assert job.result() is CALL_CANCELLED
    with pytest.raises(harp.CancelledException, match=JOB):
        job.get()


def test_not_finished_is_never_remembered(dispatcher):
    job = dispatcher({"no_result": True}, {"no_result": True}, {"result": 5}).job(JOB)
    assert job.result(wait=False) is CALL_NOT_FINISHED
    assert job.get(wait=False) is CALL_NOT_FINISHED
    assert job.get(wait=False) == 5
    assert job._caller.requests[0] == {
        "harpcaller": 1,
        "get_result": JOB,
        "wait": False,
    }


def test_waiting_for_a_result_ends_in_time_if_asked_to(dispatcher):
    job = dispatcher(lambda connection: connection.stall()).job(JOB)
    assert job.result(timeout=0.01) is CALL_NOT_FINISHED
    assert job.get(timeout=0.01) is CALL_NOT_FINISHED


def test_looking_for_a_result_for_no_time_at_all_asks_once(dispatcher):
    rpc = dispatcher(line({"result": 5}), line({"no_result": True}))
    assert rpc.job(JOB).get(timeout=0) == 5
    assert rpc.job(JOB).get(timeout=0) is harp.CALL_NOT_FINISHED


def test_refusal_of_a_result_is_raised_also_by_result(dispatcher):
    rpc = dispatcher({"harpcaller": 1, "error": error_object("invalid_jobid", "none")})
    with pytest.raises(harp.RemoteError, match="invalid_jobid"):
        rpc.job(JOB).result()


# --- replies that are none ----------------------------------------------------------

NO_REPLIES = {
    "nothing": b"",
    "half a line": b'{"result": 5}',
    "not json": b"hello\n",
    "not utf-8": b'{"result": "\xff"}\n',
    "no object": b"[]\n",
    "nothing known": b'{"answer": 5}\n',
    "nan": b'{"result": NaN}\n',
    "duplicate key": b'{"result": 1, "result": 2}\n',
    "exception is no object": b'{"exception": 5}\n',
    "exception without type": b'{"exception": {"message": "x"}}\n',
    "error with a type that is a number": b'{"error": {"type": 1, "message": "x"}}\n',
    "cancelled is false": b'{"cancelled": false}\n',
    "ran is unknown": b'{"error": {"type": "x", "message": "x", "ran": 7}}\n',
    "a daemon's": b'{"harp": 1, "error": {"type": "x", "message": "x"}}\n',
    "refusal is a string": b'{"harpcaller": 1, "error": "no"}\n',
    "TLS": b"\x16\x03\x01\x00\x05hello\n",
}


@pytest.mark.parametrize("reply", NO_REPLIES.values(), ids=NO_REPLIES)
def test_reply_that_is_not_the_protocol_names_the_peer(dispatcher, reply):
    job = dispatcher(reply).job(JOB)
    with pytest.raises(harp.CommunicationError, match=r"127\.0\.0\.1:\d+: "):
        job.result()
    with pytest.raises(harp.CommunicationError, match=r"127\.0\.0\.1:\d+: "):
        job.follow().all()


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"call": {"host": "a", "procedure": "b", "arguments": []}},
        {"call": 5, "time": {"submit": 1}},
        {
            "call": {"host": "a", "procedure": "b", "arguments": 5},
            "time": {"submit": 1},
        },
        {
            "call": {"host": "a", "procedure": "b", "arguments": []},
            "time": {"submit": True},
        },
    ],
)
def test_status_that_is_none_is_a_communication_error(dispatcher, reply):
    with pytest.raises(harp.CommunicationError, match="not the protocol"):
        dispatcher(reply).job(JOB).status()


def test_cancel_returns_whether_it_was_stopped(dispatcher):
    replies = [{"cancelled": True}, {"cancelled": False}, {"cancelled": 1}]
    job = dispatcher(*replies).job(JOB)
    assert job.cancel() is True
    assert job.cancel() is False
    with pytest.raises(harp.CommunicationError):
        job.cancel()


def test_request_is_sent_and_its_reply_returned_as_they_are(dispatcher):
    rpc = dispatcher({"whatever": [1]})
    assert rpc.request({"harpcaller": 1, "list_hosts": True}) == {"whatever": [1]}
    assert rpc.requests == [{"harpcaller": 1, "list_hosts": True}]


# --- streams ------------------------------------------------------------------------


def packets(*values, end=None) -> bytes:
    lines = [line({"packet": n, "data": value}) for n, value in enumerate(values)]
    return b"".join(lines) + (b"" if end is None else line(end))


def test_follow_iterates_over_values_and_knows_the_end(dispatcher):
    rpc = dispatcher(packets("a", None, end={"result": 3}))
    values = rpc.job(JOB).follow(since=0)
    assert values.result() is CALL_NOT_FINISHED
    assert list(values) == ["a", None]
    assert values.result() == 3
    assert list(values) == []
    assert rpc.requests == [{"harpcaller": 1, "follow_stream": JOB, "since": 0}]


def test_numbered_stream_iterates_over_pairs(dispatcher):
    rpc = dispatcher(packets("a", "b", end={"continue": True}))
    values = rpc.job(JOB).stream(recent=2, numbered=True)
    assert values.all() == [(0, "a"), (1, "b")]
    assert values.result() is CALL_NOT_FINISHED
    assert rpc.requests == [{"harpcaller": 1, "read_stream": JOB, "recent": 2}]


@pytest.mark.parametrize(
    "end, type_",
    [
        ({"exception": error_object()}, harp.RemoteException),
        ({"error": error_object()}, harp.RemoteError),
    ],
)
def test_failure_of_the_call_ends_its_stream_without_raising(dispatcher, end, type_):
    values = dispatcher(packets("a", end=end)).job(JOB).follow(since=0)
    assert values.all() == ["a"]
    assert isinstance(values.result(), type_)


def test_stream_that_breaks_again_and_again_raises_after_what_has_come(dispatcher):
    values = dispatcher(packets("a", "b"), b"").job(JOB).follow(since=0)
    assert [next(values), next(values)] == ["a", "b"]
    with pytest.raises(harp.ConnectionLost, match="no reply"):
        next(values)
    assert list(values) == []


def test_refusal_within_a_stream_is_raised(dispatcher):
    refusal = {"harpcaller": 1, "error": error_object("storage_error", "disk")}
    values = dispatcher(packets("a", end=refusal)).job(JOB).follow(since=0)
    assert next(values) == "a"
    with pytest.raises(harp.Unavailable, match="storage_error: disk"):
        next(values)


def test_since_and_recent_exclude_each_other(dispatcher):
    job = dispatcher().job(JOB)
    for method in (job.follow, job.stream):
        with pytest.raises(ValueError, match="exclude"):
            method(since=1, recent=1)


def test_leaving_the_context_closes_the_connection(dispatcher):
    closed = threading.Event()

    def script(connection):
        connection.send(packets("a"))
        connection.read_to_end()
        closed.set()

    with dispatcher(script).job(JOB).follow(since=0) as values:
        assert next(values) == "a"
    assert closed.wait(10)
    assert list(values) == []


def test_iterator_that_is_forgotten_closes_its_connection_quietly(dispatcher):
    closed = threading.Event()

    def script(connection):
        connection.send(packets("a"))
        connection.read_to_end()
        closed.set()

    values = dispatcher(script).job(JOB).follow(since=0)
    assert next(values) == "a"
    del values
    assert closed.wait(10)


# --- with the real ones -------------------------------------------------------------


def test_call_returns_at_once_and_its_result_is_read_later(servers):
    job = servers.caller().localhost.add(a=1, b=2)
    again = servers.caller().job(job.id())
    assert again.get() == 3
    assert again.get() == 3


def test_exception_of_a_procedure_arrives(servers):
    result = servers.caller().localhost.fail("so nicht").result()
    assert isinstance(result, harp.RemoteException)
    assert (result.type, result.message) == ("ValueError", "so nicht")


def test_unknown_procedure_and_host_did_not_run(servers):
    rpc = servers.caller()
    for job, type_ in (
        (rpc.localhost.no_such(), "no_such_procedure"),
        (rpc.nowhere.add(1), "unknown_host"),
    ):
        result = job.result()
        assert isinstance(result, harp.RemoteError)
        assert (result.type, result.ran) == (type_, "no")


def test_follow_shows_all_values_and_the_end(servers):
    job = servers.caller().localhost.count(5)
    values = job.follow(since=0, numbered=True)
    assert values.all() == [(n, n) for n in range(5)]
    assert values.result() == 5
    assert job.stream(since=3).all() == [3, 4]
    assert job.stream(recent=1).all() == [4]
    assert job.follow().all() == []


def test_cancel_is_seen_by_who_follows(servers, tmp_path):
    job = servers.caller().localhost.count_then_wait(2, str(tmp_path / "never"))
    values = job.follow(since=0)
    assert [next(values), next(values)] == [0, 1]
    assert job.result(wait=False) is CALL_NOT_FINISHED
    assert job.cancel() is True
    assert values.all() == []
    assert values.result() is CALL_CANCELLED
    assert job.cancel() is False


def test_status_tells_what_was_called(servers):
    server = servers.caller().host("localhost", info={"ticket": 5})
    job = server.add(1, 2)
    job.get()
    assert (job.host(), job.procedure(), job.args()) == ("localhost", "add", [1, 2])
    assert job.info() == {"ticket": 5}
    assert job.submit_time() <= job.start_time() <= job.end_time()
    assert job.status()["state"] == "done"


def test_submission_that_is_repeated_runs_once(servers, tmp_path):
    path = tmp_path / "runs"
    message = {
        "harpcaller": 1,
        "host": "localhost",
        "procedure": "append",
        "arguments": [str(path)],
        "job_id": jobid.make(),
    }
    rpc = servers.caller()
    replies = [rpc.request(message) for _ in range(3)]
    assert replies == [{"harpcaller": 1, "job_id": message["job_id"]}] * 3
    rpc.job(message["job_id"]).get()
    assert path.read_text() == "x\n"


def test_unknown_job_is_refused(servers):
    with pytest.raises(harp.RemoteError, match="invalid_jobid"):
        servers.caller().job(jobid.make()).result()


@pytest.mark.parametrize(
    "host, shown",
    [
        ("127.0.0.1:13502", "127.0.0.1:13502"),
        ("[::1]:13502", "[::1]:13502"),
        ("::1", "[::1]:3502"),
        ("panel", "panel:3502"),
        ("unix:/run/harpcaller/client", "unix:/run/harpcaller/client"),
    ],
)
def test_dispatcher_is_named_with_or_without_its_port(host, shown):
    assert repr(harp.HarpCaller(host)) == f"<HarpCaller {shown}>"


def test_daemon_that_is_taken_for_a_dispatcher_is_told_from_one(servers):
    rpc = harp.HarpCaller(*servers.daemon_address)
    with pytest.raises(harp.CommunicationError, match="is a daemon.* speaks TLS"):
        rpc.web01.uptime()


# --- for type checkers --------------------------------------------------------------


def public_functions():
    for name in harp.__all__:
        value = getattr(harp, name)
        if isinstance(value, type):
            for attribute in vars(value).values():
                if inspect.isfunction(attribute) and (
                    not attribute.__name__.startswith("_")
                    or attribute.__name__ in ("__call__", "__next__", "__enter__")
                ):
                    yield attribute
        elif inspect.isfunction(value):
            yield value


def test_public_names_are_annotated_and_described():
    lacking = []
    for function in public_functions():
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if parameters and parameters[0].name == "self":
            del parameters[0]
        if any(p.annotation is p.empty for p in parameters):
            lacking.append(f"{function.__qualname__}: parameters")
        if signature.return_annotation is signature.empty:
            lacking.append(f"{function.__qualname__}: what it returns")
        if not function.__doc__ and not function.__name__.startswith("_"):
            lacking.append(f"{function.__qualname__}: docstring")
    assert not lacking


def test_help_tells_of_all_public_names():
    assert set(harp.__all__) <= set(dir(harp))
    assert all(getattr(harp, name) is not None for name in harp.__all__)


def test_package_says_that_it_is_typed():
    assert Path(harp.__file__).with_name("py.typed").exists()
