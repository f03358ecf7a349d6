"""Why a job waits, what it is at, how it ended: the operations ``explain`` and
``list_procedures``, and what ``why`` makes of them."""

import json
import re
import socket
import threading
import time

import pytest
from conftest import TOP
from dispatchers import (
    ACKNOWLEDGED,
    ACKNOWLEDGED_STREAM,
    HOST,
    Daemon,
    Dispatcher,
    host_entry,
    request,
    send,
)
from harp import jobid
from harp.cli import why
from harp.dispatcher.queues import Queues
from harp.protocol import explain as messages

PLACES = 3
QUEUE = {"name": {"deploy": 1}, "concurrency": 1}


def unused_address():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()


@pytest.fixture(scope="module")
def running(tmp_path_factory, server_context, certificate):
    """A dispatcher, the same for all tests here, that runs 3 jobs at a time."""
    daemon = Daemon(server_context)
    silent = socket.create_server(("127.0.0.1", 0))  # accepts, and says nothing
    good = {"cert_sha256": certificate.sha256}
    dispatcher = Dispatcher(
        tmp_path_factory.mktemp("dispatcher"),
        [
            host_entry(daemon.address, **good),
            host_entry(daemon.address, "wrong", cert_sha256="0" * 64),
            host_entry(unused_address(), "down", **good),
            host_entry(silent.getsockname(), "silent", **good),
        ],
        limits={"running": PLACES, "connect_timeout": 30.0},
        secret_arguments=["token"],
    )
    dispatcher.start()
    yield dispatcher, daemon
    dispatcher.stop()
    daemon.stop()
    silent.close()


@pytest.fixture
def daemon(running, wait_for):
    dispatcher, daemon = running
    daemon.reset()
    yield daemon
    daemon.released.set()
    dispatcher.cancel_all()
    wait_for(lambda: not daemon.serving)


@pytest.fixture
def dispatcher(running, daemon):
    return running[0]


@pytest.fixture
def explain(dispatcher):
    """``explain(job_id)`` returns what it says, and checks that it is whole."""

    def ask(job_id):
        reply = dispatcher.ask(request("explain", job_id))
        found = messages.parse_explanation(reply)
        assert messages.build_explanation(found) == reply
        return reply["explain"]

    return ask


@pytest.fixture
def said(dispatcher):
    """``said(job_id)`` returns the same in sentences, as one text."""

    def ask(job_id):
        reply = dispatcher.ask(request("explain", job_id))
        return "\n".join(why.sentences(messages.parse_explanation(reply)))

    return ask


# --- one that waits -----------------------------------------------------------------


def test_job_waits_for_those_that_hold_its_queue(dispatcher, explain, said, wait_for):
    holder = dispatcher.call("wait", queue=QUEUE)
    wait_for(lambda: dispatcher.state(holder) == "running")
    waiting = [dispatcher.call("echo", queue=QUEUE) for _ in range(3)]
    start = dispatcher.status(holder)["time"]["start"]
    assert explain(waiting[1]) == {
        "state": "queued",
        "job_id": waiting[1],
        "reason": "queue",
        "position": 2,
        "queue": QUEUE["name"],
        "concurrency": 1,
        "running": [
            {"job_id": holder, "host": HOST, "procedure": "wait", "start": start}
        ],
        "running_count": 1,
        "all_running": 1,
        "max_running": PLACES,
    }
    assert "as number 2" in said(waiting[1]) and holder in said(waiting[1])
    assert "is the next" in said(waiting[0])
    dispatcher.cancel(waiting[0])
    assert [explain(job_id)["position"] for job_id in waiting[1:]] == [1, 2]


def test_job_waits_for_a_place_in_the_dispatcher(dispatcher, explain, said, wait_for):
    holders = [dispatcher.call("wait") for _ in range(PLACES)]
    wait_for(lambda: all(dispatcher.state(one) == "running" for one in holders))
    job_id = dispatcher.call("echo", queue=QUEUE)
    found = explain(job_id)
    assert (found["reason"], found["position"]) == ("max_running", 1)
    assert (found["all_running"], found["running"]) == (PLACES, [])
    assert f"limits.running is {PLACES}" in said(job_id)


@pytest.fixture
def make_dispatcher(tmp_path, daemon):
    """``make_dispatcher(*hosts)`` starts one for this test alone."""
    made = []

    def make(*hosts):
        made.append(Dispatcher(tmp_path / "dispatcher", hosts))
        made[-1].start()
        return made[-1]

    yield make
    for dispatcher in made:
        dispatcher.stop()


def test_drained_dispatcher_says_that_it_starts_nothing(
    make_dispatcher, daemon, certificate, wait_for
):
    entry = host_entry(daemon.address, cert_sha256=certificate.sha256)
    dispatcher = make_dispatcher(entry)
    holder = dispatcher.call("wait")
    wait_for(lambda: dispatcher.state(holder) == "running")
    with dispatcher.connect_unix("control") as client:
        client.ask(request("stop", True, drain=True))
        job_id = dispatcher.call("echo")

        def reason():
            reply = client.ask(request("explain", job_id))
            return reply["explain"]["reason"]

        wait_for(lambda: reason() == "stopping")


class QueuedJob:
    def __init__(self, number):
        self.id = f"job {number}"
        self.order = number
        self.queue = None


def test_queues_tell_places_and_members():
    queues = Queues()
    jobs = [QueuedJob(number) for number in range(4)]
    for job in jobs:
        queues.put(job, queues.enter("{}", 2))
    assert queues.take(0) is jobs[0]
    assert queues.members("{}") == (jobs[:1], jobs[1:])
    assert queues.members("other") == ([], [])
    place = queues.place(jobs[3])
    assert (place.position, place.running, place.next) == (3, (jobs[0],), "job 1")
    assert queues.place(jobs[0]).position is None
    assert queues.remove_all("{}") == (jobs[:1], jobs[1:])
    assert queues.place(jobs[3]) is None
    assert queues.members("{}") == (jobs[:1], [])


# --- one that runs ------------------------------------------------------------------


def test_running_job_tells_its_last_packet_and_what_waits_behind(
    dispatcher, daemon, explain, said, wait_for
):
    def stream_three(connection, received):
        send(connection, ACKNOWLEDGED_STREAM, *({"stream": n} for n in range(3)))
        connection.read_to_end()

    daemon.scripts["three"] = stream_three
    job_id = dispatcher.call("three", queue=QUEUE, timeout=500, max_exec_time=1000)
    wait_for(lambda: dispatcher.status(job_id)["packets"] == 3)
    behind = dispatcher.call("echo", queue=QUEUE)
    found = explain(job_id)
    address, port = daemon.address
    now = time.time()
    assert 0 <= now - found.pop("last_heard") < 60
    assert 400 < found.pop("timeout_left") <= 500
    assert 900 < found.pop("max_exec_time_left") <= 1000
    assert found == {
        "state": "running",
        "job_id": job_id,
        "step": "running",
        "host": HOST,
        "address": address,
        "port": port,
        "start": dispatcher.status(job_id)["time"]["start"],
        "packets": 3,
        "last_packet": 2,
        "stopping": None,
        "queue": QUEUE["name"],
        "behind": 1,
        "next": behind,
    }
    assert "last packet is number 2" in said(job_id)
    assert f"{behind} first" in said(job_id)


def test_job_that_is_connecting_says_so(dispatcher, explain, said, wait_for):
    job_id = dispatcher.call("echo", host="silent")
    wait_for(lambda: dispatcher.state(job_id) == "running")
    found = explain(job_id)
    assert (found["step"], found["address"]) == ("connecting", None)
    assert found["timeout_left"] is found["last_heard"] is None
    assert "is connecting to silent" in said(job_id)


# --- one that has ended -------------------------------------------------------------


def error(type, **more):
    return {"harp": 1, "error": {"type": type, "message": f"{type} it is", **more}}


SCRIPTS = {
    "raise": [ACKNOWLEDGED, {"exception": {"type": "E", "message": "m"}}],
    "refuse": [error("no_such_procedure")],
    "die": [ACKNOWLEDGED, error("process_died")],
    "vanish": [],
    "vanish late": [ACKNOWLEDGED],
    "long": [ACKNOWLEDGED, {"exception": {"type": "E", "message": "x" * 5000}}],
}
ENDS = [  # procedure, host; then outcome, step, type, ran
    ("echo", HOST, "result", None, None, None),
    ("raise", HOST, "exception", "running", "E", None),
    ("refuse", HOST, "error", "acknowledgement", "no_such_procedure", "no"),
    ("die", HOST, "error", "running", "process_died", "yes"),
    ("vanish", HOST, "error", "acknowledgement", "network_error", "maybe"),
    ("vanish late", HOST, "error", "running", "network_error", "yes"),
    ("echo", "wrong", "error", "certificate", "certificate_error", "no"),
    ("echo", "down", "error", "connecting", "network_error", "no"),
    ("echo", "nowhere", "error", "connecting", "unknown_host", "no"),
]


@pytest.mark.parametrize("procedure, host, outcome, step, type, ran", ENDS)
def test_ended_job_tells_at_which_step_and_what_is_known(
    dispatcher, daemon, explain, said, procedure, host, outcome, step, type, ran
):
    for name, lines in SCRIPTS.items():
        daemon.scripts[name] = lambda connection, _, lines=lines: send(
            connection, *lines
        )
    job_id = dispatcher.call(procedure, host=host)
    end = dispatcher.result(job_id)
    found = explain(job_id)
    status = dispatcher.status(job_id)
    address, port = daemon.address if found["address"] else (None, None)
    assert found == {
        "state": "done",
        "job_id": job_id,
        "outcome": outcome,
        "step": step,
        "host": host,
        "address": address,
        "port": port,
        **status["time"],
        "packets": 0,
        "type": type,
        "message": None if type is None else end[outcome]["message"],
        "ran": ran,
    }
    assert (found["address"] is not None) == (host == HOST)
    assert job_id in said(job_id)
    if ran == "no":
        assert "safe to call it again" in said(job_id)


def test_long_message_is_cut(dispatcher, daemon, explain):
    daemon.scripts["long"] = lambda connection, _: send(connection, *SCRIPTS["long"])
    job_id = dispatcher.call("long")
    dispatcher.result(job_id)
    assert explain(job_id)["message"] == "x" * 2000 + "…"


@pytest.mark.parametrize("was_running", [False, True])
def test_cancelled_job_tells_whether_it_was_running(
    dispatcher, explain, said, wait_for, was_running
):
    holder = dispatcher.call("wait", queue=QUEUE)
    wait_for(lambda: explain(holder).get("step") == "running")
    waiting = dispatcher.call("echo", queue=QUEUE)
    job_id = holder if was_running else waiting
    assert dispatcher.cancel(job_id) == {"cancelled": True}
    found = explain(job_id)
    assert found["outcome"] == "cancelled"
    assert found["step"] == ("running" if was_running else "queued")
    assert "was cancelled while" in said(job_id)


@pytest.mark.parametrize("value", [jobid.make(), "x", None, 5, {}])
def test_unknown_job_is_refused(dispatcher, value):
    reply = dispatcher.ask(request("explain", value))
    assert reply["error"]["type"] == "invalid_jobid"


def test_examples_in_the_manual_have_the_keys_of_replies():
    text = (TOP / "doc" / "protocol.rst").read_text(encoding="utf-8")
    section = text[text.index("\nexplain") : text.index("\nThe admin socket")]
    found = re.findall(r'^    < (\{"explain": .*?\n)(?=\n)', section, re.M | re.S)
    examples = [json.loads(example) for example in found]
    kinds = [type(messages.parse_explanation(example)) for example in examples]
    assert kinds == [messages.Queued, messages.Running, messages.Ended]
    for example in examples:
        parsed = messages.parse_explanation(example)
        assert messages.build_explanation(parsed) == example
        assert why.sentences(parsed)


# --- list_procedures ----------------------------------------------------------------

LISTED = {
    "harp": 1,
    "procedures": [{"name": "uptime", "doc": None, "parameters": []}],
    "version": "1.0",
    "digest": "d",
}


@pytest.fixture
def answering(running, daemon, monkeypatch):
    """``answering(function)``: what the daemon does with a request for its list."""

    def answer(function):
        def serve(connection):
            line = connection.readline()
            if line:
                function(connection, json.loads(line))

        monkeypatch.setattr(daemon, "_serve_call", serve)

    return answer


def test_host_is_asked_what_there_is_to_call(
    dispatcher, daemon, answering, certificate
):
    asked = []

    def answer(connection, received):
        asked.append(received)
        send(connection, LISTED)

    answering(answer)
    reply = dispatcher.ask(request("list_procedures", HOST))
    assert reply.pop("seconds") > 0
    assert reply.pop("cert_expires") > time.time()
    address, port = daemon.address
    assert reply == {
        "procedures": LISTED["procedures"],
        "version": "1.0",
        "digest": "d",
        "address": address,
        "port": port,
        "cert_sha256": certificate.sha256,
    }
    assert asked[0]["procedures"] is True and "auth" in asked[0]


@pytest.mark.parametrize(
    "host, type",
    [
        ("nowhere", "unknown_host"),
        ("wrong", "certificate_error"),
        ("down", "network_error"),
    ],
)
def test_host_that_cannot_be_asked_is_an_error_of_its_type(dispatcher, host, type):
    reply = dispatcher.ask(request("list_procedures", host))
    assert reply["error"]["type"] == type
    assert host in reply["error"]["message"]


@pytest.mark.parametrize(
    "answer, type",
    [
        (b"", "network_error"),
        (b'{"harp": 1', "network_error"),
        (b"garbage\n", "protocol_error"),
        (b'{"harp": 1, "stream_result": true}\n', "protocol_error"),
        (json.dumps(error("auth_error")).encode() + b"\n", "auth_error"),
        *(
            (json.dumps(error("x") | more).encode() + b"\n", "protocol_error")
            for more in ({"result": 5}, {"stream": 5})
        ),
    ],
)
def test_answer_that_is_no_list_is_an_error(dispatcher, answering, answer, type):
    answering(lambda connection, _: connection.send(answer))
    reply = dispatcher.ask(request("list_procedures", HOST))
    assert reply["error"]["type"] == type
    assert "password" not in str(reply)


def test_connection_goes_on_after_a_list_and_after_a_refusal(dispatcher, answering):
    answering(lambda connection, _: send(connection, LISTED))
    with dispatcher.connect() as client:
        for _ in range(20):
            assert "procedures" in client.ask(request("list_procedures", HOST))
            assert "error" in client.ask(request("list_procedures", "nowhere"))


def test_client_that_leaves_ends_its_question(dispatcher, daemon, answering, wait_for):
    asked, gone = threading.Event(), threading.Event()

    def stay_silent(connection, received):
        asked.set()
        connection.read_to_end()
        gone.set()

    answering(stay_silent)
    client = dispatcher.connect()
    client.send(request("list_procedures", HOST))
    assert asked.wait(30)
    client.close()
    assert gone.wait(30)


def test_questions_beyond_the_limit_wait_for_others(
    dispatcher, daemon, answering, wait_for
):
    answering(
        lambda connection, _: (daemon.released.wait(30), send(connection, LISTED))
    )
    clients = [dispatcher.connect() for _ in range(25)]
    for client in clients:
        client.send(request("list_procedures", HOST))
    wait_for(lambda: daemon.serving == 20)
    daemon.released.set()
    for client in clients:
        assert "procedures" in client.reply()
        client.close()


def test_stop_ends_questions_and_says_so(make_dispatcher, certificate):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        entry = host_entry(silent.getsockname(), cert_sha256=certificate.sha256)
        dispatcher = make_dispatcher(entry)
        with dispatcher.connect() as client:
            client.send(request("list_procedures", HOST))
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1)  # the handshake has begun
                dispatcher.stop()
                [reply] = client.rest()
    assert reply["error"]["type"] == "shutdown"
