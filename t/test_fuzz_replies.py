"""Clients whose dispatcher or daemon answers in odd ways: they return, or raise one of
the library's errors, and nothing else."""

import contextlib

import fuzzing
import harp
import pytest
from harp import jobid, wire

JOB = jobid.make()
WAIT = 0.2  # s for a reply that doesn't come
ERROR = {"type": "timeout", "message": "took too long", "data": [1], "ran": "maybe"}
ODD = ERROR | {"type": "ValueError"}
END = {"result": {"pid": 1, "lines": [True, None, 0.5]}}
PACKETS = [{"packet": n, "time": 1e9 + n, "data": [n]} for n in range(3)]
PROCEDURE = {"name": "echo", "doc": None, "streaming": False, "parameters": []} | {
    "timeout": None,
    "concurrency": 2,
}
STATUS = {
    "call": {"host": "web01", "procedure": "echo", "arguments": [1], "secret": [0]},
    "time": {"submit": 1700000000, "start": 1700000001, "end": None},
    "info": {"by": "me"},
    "job_id": JOB,
    "queue": {"name": {"a": 1}, "concurrency": 2},
    "state": "running",
    "outcome": None,
    "packets": 3,
    "group": "g",
    "submitted_by": None,
    "on_behalf_of": None,
}


LIST = {"jobs": [STATUS | {"state": "done", "outcome": "error"}], "next": None}


def read_all(stream) -> list:
    with stream:
        return list(stream)


def run_again(rpc) -> None:
    with contextlib.suppress(ValueError):  # there is none that could be
        rpc.group("g").run_again()


CLIENT_CASES = [
    (lambda rpc: rpc.web01.echo(1).id(), [{"harpcaller": 1, "job_id": JOB}]),
    (lambda rpc: rpc.job(JOB).cancel(), [{"cancelled": True}]),
    (lambda rpc: rpc.job(JOB).get(timeout=WAIT), [END]),
    (lambda rpc: rpc.job(JOB).get(wait=False), [{"no_result": True}]),
    (lambda rpc: rpc.job(JOB).result(timeout=WAIT), [{"error": ERROR}]),
    (lambda rpc: rpc.job(JOB).result(timeout=WAIT), [{"exception": ODD}]),
    (lambda rpc: rpc.job(JOB).result(timeout=WAIT), [{"cancelled": True}]),
    (lambda rpc: rpc.job(JOB).get(timeout=WAIT), [{"harpcaller": 1, "error": ERROR}]),
    (lambda rpc: rpc.job(JOB).status(), [STATUS]),
    (lambda rpc: (rpc.job(JOB).args(), rpc.job(JOB).end_time()), [STATUS]),
    (lambda rpc: rpc.job(JOB).explain(), [{"explain": {"state": "queued"}}]),
    (lambda rpc: rpc.job(JOB).poll(), [*PACKETS, {"continue": True}]),
    (lambda rpc: rpc.job(JOB).poll(limit=2), PACKETS),
    (lambda rpc: read_all(rpc.job(JOB).follow(since=0, timeout=WAIT)), [*PACKETS, END]),
    (
        lambda rpc: read_all(rpc.job(JOB).follow(recent=2, timeout=WAIT)),
        [STATUS, *PACKETS, END],
    ),
    (lambda rpc: read_all(rpc.job(JOB).stream()), [*PACKETS, {"error": ERROR}]),
    (lambda rpc: list(rpc.jobs(limit=5)), [{"jobs": [STATUS], "next": JOB}]),
    (lambda rpc: rpc.queues(), [{"queues": [{"name": {"a": 1}}], "next": {"a": 1}}]),
    (
        lambda rpc: rpc.procedures("web01"),
        [{"harp": 1, "procedures": [PROCEDURE], "version": "1", "digest": "ab"}],
    ),
    (lambda rpc: rpc.group("g").calls(), [LIST]),
    (lambda rpc: rpc.group("g").results(timeout=WAIT), [LIST, END]),
    (run_again, [LIST, {"harpcaller": 1, "job_id": JOB}]),
    (lambda rpc: rpc.group("g").cancel(), [LIST, {"cancelled": True}]),
]

SINGLE = {"harp": 1, "stream_result": False}
STREAMED = {"harp": 1, "stream_result": True}
DAEMON_CASES = [
    [SINGLE, END],
    [SINGLE, {"exception": ERROR}],
    [{"harp": 1, "error": ERROR}],
    [STREAMED, {"stream": 1}, {"stream": None}, END],
    [STREAMED, {"stream": 1}, {"harp": 1, "error": ERROR}],
]


def odd_reply(mutator, messages: list[dict]) -> bytes:
    odd = mutator.random.randrange(len(messages))
    lines = [
        mutator.line(message) if number == odd else wire.encode(message)
        for number, message in enumerate(messages)
    ]
    if mutator.happens(0.1):
        lines.insert(odd, mutator.random.choice(fuzzing.NASTY_LINES))
    data = b"".join(lines)
    if mutator.happens(0.1):
        data = data[: mutator.random.randrange(len(data) + 1)]
    return data


class OddPeer:
    """Answers every request with :attr:`reply`."""

    def __init__(self, scripted_peer, **options) -> None:
        self.mutator = None
        self.reply = b""
        self.address = scripted_peer(self._serve, **options).address

    def _serve(self, connection) -> None:
        # The client leaves when it has seen enough.
        with contextlib.suppress(OSError):
            while connection.readline():
                for piece in self.mutator.pieces(self.reply):
                    connection.send(piece)
                if self.mutator.happens(0.3):
                    connection.reset()
                    return
                if self.mutator.happens(0.7):
                    return


def try_it(function, *arguments, note: str) -> None:
    try:
        function(*arguments)
    except harp.HarpException as error:
        assert str(error) and "\n" not in repr(str(error))
    except BaseException as error:
        error.add_note(note)
        raise


@pytest.mark.parametrize("count", [200, pytest.param(6000, marks=pytest.mark.slow)])
def test_client_returns_or_raises_its_own_errors_whatever_it_is_told(
    scripted_peer, seed, count
):
    peer = OddPeer(scripted_peer)
    times = {"retry_for": 0, "resume_for": 0, "reply_timeout": WAIT}
    with harp.HarpCaller(*peer.address, **times) as rpc:
        for mutator in fuzzing.cases(f"{seed}/client", count):
            ask, messages = mutator.random.choice(CLIENT_CASES)
            peer.mutator, peer.reply = mutator, odd_reply(mutator, messages)
            try_it(ask, rpc, note=f"{mutator} {messages[0]} {peer.reply[:1000]!r}")


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_direct_client_returns_or_raises_its_own_errors_whatever_it_is_told(
    scripted_peer, certificate, seed, count
):
    peer = OddPeer(scripted_peer, tls=True)
    server = harp.HarpServer(
        "127.0.0.1",
        "panel",
        "secret",
        port=peer.address[1],
        cert_sha256=certificate.sha256,
        timeout=WAIT,
    )

    def call() -> None:
        found = server.echo(1)
        if isinstance(found, harp.HarpStreamIterator):
            read_all(found)

    for mutator in fuzzing.cases(f"{seed}/direct", count):
        messages = mutator.random.choice(DAEMON_CASES)
        peer.mutator, peer.reply = mutator, odd_reply(mutator, messages)
        try_it(call, note=f"{mutator} {messages[0]} {peer.reply[:1000]!r}")
