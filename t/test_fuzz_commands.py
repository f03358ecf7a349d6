"""Commands whose dispatcher replies in odd ways: they print what they can, or one line
that says what is wrong; never a traceback."""

import contextlib
import json

import fuzzing
import pytest
from harp import wire
from harp.cli.main import main
from test_fuzz_replies import END, ERROR, JOB, LIST, ODD, PACKETS, PROCEDURE, STATUS

EXPLAINED = {
    "explain": {
        "job_id": JOB,
        "state": "queued",
        "host": "web01",
        "procedure": "echo",
        "position": 2,
        "queue": {"name": {"a": 1}, "concurrency": 2, "running": 2, "waiting": 3},
        "held_by": [JOB],
        "reason": "queue",
        "since": 1700000000,
    }
}
PROCEDURES = {"harp": 1, "procedures": [PROCEDURE], "version": "1", "digest": "ab"} | {
    "address": "10.0.0.1",
    "port": 4306,
    "seconds": 0.01,
    "cert_sha256": "ab" * 32,
    "cert_expires": 1800000000,
}
QUEUE = {"name": {"a": 1}, "concurrency": 2, "running": 1, "waiting": 0} | {
    "oldest": JOB
}
HOST = {"hostname": "web01", "address": "10.0.0.1", "port": 4306}
REPLIES = {
    "host": [{"harpcaller": 1, "job_id": JOB}],
    "cancel": [{"cancelled": True}],
    "get_status": [STATUS],
    "follow_stream": PACKETS,
    "read_stream": PACKETS,
    "list_queues": [{"queues": [QUEUE]}],
    "list_hosts": [{"hosts": [HOST]}],
    "list_procedures": [PROCEDURES],
    "list_jobs": [LIST],
    "explain": [EXPLAINED],
}
RESULTS = [END, {"exception": ODD}, {"error": ERROR}, {"cancelled": True}]
COMMANDS = [
    "call web01 echo 1",
    "call web01 echo --detach",
    f"result {JOB}",
    f"result {JOB} --json",
    f"status {JOB}",
    f"status {JOB} --json",
    f"stream {JOB}",
    f"follow {JOB}",
    f"wait {JOB}",
    f"cancel {JOB}",
    f"why {JOB}",
    f"why {JOB} --json",
    "list",
    "list --json",
    "rerun --group g",
    f"rerun {JOB} --detach",
    "queues",
    "queues --json",
    "hosts",
    "ping web01",
    "ping --json web01",
    "procedures web01",
    "procedures web01 echo",
]


class OddDispatcher:
    """Replies to every request, oddly to some; the last line of a stream is in order,
    or the client would ask again for half a minute."""

    def __init__(self, scripted_peer) -> None:
        self.mutator = None
        self.address = scripted_peer(self._serve).address

    def _serve(self, connection) -> None:
        with contextlib.suppress(OSError):
            while line := connection.readline():
                connection.send(self._reply(json.loads(line)))

    def _reply(self, request: dict) -> bytes:
        end = self.mutator.random.choice(RESULTS)
        if "get_result" in request:
            return self._odd(end)
        [lines] = [REPLIES[key] for key in REPLIES if key in request]
        data = b"".join(map(self._odd, lines))
        return data + wire.encode(end) if lines is PACKETS else data

    def _odd(self, message: dict) -> bytes:
        if self.mutator.happens(0.4):
            return wire.encode(message)
        text = fuzzing.to_text(self.mutator.message(message))
        return text.encode("utf-8", "backslashreplace") + b"\n"


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_command_prints_no_traceback_whatever_the_dispatcher_replies(
    scripted_peer, capfd, seed, count
):
    peer = OddDispatcher(scripted_peer)
    host, port = peer.address
    for mutator in fuzzing.cases(f"{seed}/commands", count):
        words = mutator.random.choice(COMMANDS).split()
        peer.mutator = mutator
        try:
            status = main(["--dispatcher", f"harp://{host}:{port}", *words])
        except SystemExit as error:
            status = error.code
        except BaseException as error:
            error.add_note(f"{mutator} {words}")
            raise
        printed, errors = capfd.readouterr()
        assert isinstance(status, int), words
        assert "Traceback" not in errors
        assert printed or errors or status == 0, words
