"""A daemon that answers the dispatcher in odd ways: each job ends once, with what the
daemon may have said or a documented error, and nothing else is harmed."""

import contextlib
import json
import ssl

import fuzzing
import peers
import pytest
from attacks import JOB_ERRORS, Unharmed
from dispatchers import (
    ACKNOWLEDGED,
    ACKNOWLEDGED_STREAM,
    Daemon,
    Dispatcher,
    call_request,
    host_entry,
    request,
)
from harp import wire

MAX_VALUE = 32 * 1024
MAX_JOB_SIZE = 256 * 1024
AT_ONCE = 80

EXCEPTION = {"type": "ValueError", "message": "so it is", "data": [1]}
OUTCOMES = ("result", "exception", "cancelled", "error")


class Answer:
    """What a daemon says to a call, and how it leaves.

    :ivar pieces: of what it sends
    :ivar leaves: what it does then: ``closes``, ``resets``, ``floods``, ``floods in a
        line``, or ``waits`` until the dispatcher has closed
    """

    def __init__(self, mutator) -> None:
        self.mutator = mutator
        lines = self._lines(mutator)
        self.data = b"".join(lines)
        self.pieces = mutator.pieces(self.data)
        self.leaves = mutator.random.choice(
            ["closes"] * 8 + ["resets"] * 4 + ["waits", "floods", "floods in a line"]
        )
        self.messages = list(_objects(self.data))

    def _lines(self, mutator) -> list[bytes]:
        lines = []
        for message in self._conversation(mutator):
            while mutator.happens(0.08):
                lines.append(self._odd_line(mutator, message))
            if mutator.happens(0.15):
                lines.append(mutator.line(message))
            elif not mutator.happens(0.08):
                lines.append(wire.encode(message))
        if lines and mutator.happens(0.2):
            lines[-1] = lines[-1][: mutator.random.randrange(len(lines[-1]))]
        return lines

    def _odd_line(self, mutator, message) -> bytes:
        return mutator.random.choice(
            [
                wire.encode(message),
                wire.encode(ACKNOWLEDGED),
                wire.encode({"stream": "x" * (MAX_VALUE + wire.WRAPPING_BYTES)}),
                wire.encode({"result": mutator.random.random()}),
                wire.encode({"cancelled": True}),
                wire.encode({"harp": 1, "error": EXCEPTION}),
                mutator.random.choice(fuzzing.NASTY_LINES),
            ]
        )

    def _conversation(self, mutator) -> list[dict]:
        values = [{"stream": n} for n in range(mutator.random.choice([0, 1, 3, 40]))]
        end = mutator.random.choice(
            [
                {"result": [1, {"a": None}]},
                {"exception": EXCEPTION},
                {"harp": 1, "error": {"type": "timeout", "message": "too long"}},
            ]
        )
        return mutator.random.choice(
            [
                [ACKNOWLEDGED, end],
                [ACKNOWLEDGED_STREAM, *values, end],
                [{"harp": 1, "error": {"type": "system_error", "message": "no"}}],
            ]
        )

    def give(self, connection: peers.PeerConnection) -> None:
        for piece in self.pieces:
            connection.send(piece)
        if self.leaves == "resets":
            connection.reset()
        elif self.leaves == "waits":
            connection.read_to_end()
        elif self.leaves == "floods":
            while True:
                connection.send(b'{"stream":"and on it goes"}\n' * 100)
        elif self.leaves == "floods in a line":
            while True:
                connection.send(b"x" * 4096)


def _objects(data: bytes):
    """The objects in some lines, as any reader would take them."""
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(line)
            if isinstance(message, dict):
                yield message


@pytest.fixture
def daemon(server_context):
    daemon = Daemon(server_context)
    yield daemon
    daemon.stop()


@pytest.fixture
def dispatcher(tmp_path, daemon, certificate):
    dispatcher = Dispatcher(
        tmp_path / "d",
        [host_entry(daemon.address, cert_sha256=certificate.sha256)],
        limits={
            "value": MAX_VALUE,
            "job_size": MAX_JOB_SIZE,
            "cancel_grace": 0.2,
            "running": AT_ONCE,
        },
        default_timeout=1,
    )
    dispatcher.start()
    yield dispatcher
    assert dispatcher.stop() == 0


def check_job(client, job_id: str, end: dict, answer: Answer) -> None:
    """All that can be read of a job agrees, and with what the daemon said."""
    [outcome] = end.keys()
    assert outcome in OUTCOMES
    assert client.ask(request("get_result", job_id)) == end
    status = client.ask(request("get_status", job_id))
    assert (status["state"], status["outcome"]) == ("done", outcome)
    client.send(request("read_stream", job_id))
    packets, last = client.stream()
    assert last == end
    assert [packet["packet"] for packet in packets] == list(range(len(packets)))
    assert status["packets"] == len(packets)
    check_truth(outcome, end[outcome], packets, answer)


def check_truth(outcome: str, value, packets: list, answer: Answer) -> None:
    said = answer.messages
    streamed = [message["stream"] for message in said if "stream" in message]
    if answer.leaves == "floods":
        streamed += ["and on it goes"] * len(packets)
    assert [packet["data"] for packet in packets] == streamed[: len(packets)]
    acknowledged = any(
        type(message.get("stream_result")) is bool and message.get("harp") == 1
        for message in said
    )
    if outcome == "error":
        check_error(value, said)
        assert value["ran"] != "yes" or acknowledged
        return
    assert acknowledged and outcome in ("result", "exception")
    ends = [message[outcome] for message in said if outcome in message]
    if outcome == "result":
        assert value in ends
    else:
        assert value["type"] in [end["type"] for end in ends if "type" in end]


def check_error(error: dict, said: list) -> None:
    assert {"type", "message", "ran"} <= error.keys() <= {
        *("type", "message", "ran", "data")
    }
    of_daemon = [
        message["error"]
        for message in said
        if isinstance(message.get("error"), dict)
        and message["error"].get("type") == error["type"]
    ]
    assert of_daemon or error["type"] in JOB_ERRORS
    assert error["ran"] in ("maybe", "yes") or of_daemon
    assert of_daemon or "\n" not in error["message"]


@pytest.mark.parametrize(
    "count", [100, pytest.param(5000, marks=pytest.mark.slow)]
)
def test_job_ends_once_and_truly_whatever_the_daemon_says(
    dispatcher, daemon, wait_for, seed, count
):
    answers = list(map(Answer, fuzzing.cases(f"{seed}/answers", count)))
    daemon.scripts["odd"] = lambda connection, received: answers[
        received["arguments"][0]
    ].give(connection)
    dispatcher.result(dispatcher.call("echo"))
    unharmed = Unharmed(dispatcher, wait_for)
    with dispatcher.connect() as client:
        for begin in range(0, count, AT_ONCE):
            numbers = range(begin, min(begin + AT_ONCE, count))
            client.send(*(call_request("odd", number) for number in numbers))
            jobs = [client.reply()["job_id"] for _ in numbers]
            for number, job_id in zip(numbers, jobs):
                try:
                    end = client.ask(request("get_result", job_id))
                    check_job(client, job_id, end, answers[number])
                    assert dispatcher.file(job_id)[-2] == end
                except AssertionError as error:
                    answer = answers[number]
                    error.add_note(
                        f"{answer.mutator} {answer.leaves}: {answer.data[:2000]!r}"
                    )
                    raise
            assert dispatcher.result(dispatcher.call("echo", 1)) == {"result": [1]}
    assert daemon.called("odd") == count
    unharmed.check(idle=AT_ONCE)


def odd_handshake(mutator, context, connection: peers.PeerConnection) -> None:
    """Answer the beginning of a handshake with something odd, and leave."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(connection.sock.recv(65536))
    with contextlib.suppress(ssl.SSLWantReadError):
        server.do_handshake()
    flight = outgoing.read()
    data = mutator.random.choice([mutator.bytes(flight), *fuzzing.NASTY_LINES])
    # The dispatcher may leave when it has seen enough.
    with contextlib.suppress(OSError):
        for piece in mutator.pieces(data):
            connection.send(piece)
        if mutator.happens(0.3):
            connection.reset()


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_odd_handshake_of_a_daemon_ends_the_job_before_anything_is_sent(
    dispatcher, scripted_peer, server_context, certificate, wait_for, seed, count
):
    mutators = iter(list(fuzzing.cases(f"{seed}/handshakes", count)))
    peer = scripted_peer(
        lambda connection: odd_handshake(next(mutators), server_context, connection)
    )
    entry = host_entry(peer.address, "odd", cert_sha256=certificate.sha256)
    dispatcher.write_hosts([entry])
    dispatcher.reload()
    unharmed = Unharmed(dispatcher, wait_for)
    with dispatcher.connect() as client:
        client.send(*(call_request("x", host="odd") for _ in range(count)))
        jobs = [client.reply()["job_id"] for _ in range(count)]
        for job_id in jobs:
            error = client.ask(request("get_result", job_id))["error"]
            assert error["type"] in {"network_error", "protocol_error"}, error
            assert error["ran"] == "no" and "\n" not in error["message"]
    unharmed.check(idle=AT_ONCE)
