"""One call at a time: submitting it and waiting for its result over a kept connection,
beside the same call straight to harpd; cancelling one that runs, until the answer is
there, which is when its process is gone."""

import time

import direct
from figures import Client, percentile, queue, report, request, servers

_ROUNDS = 5
_CALLS = 100  # in a round
_CANCELS = 20


def main():
    ours, floors, cancels = [], [], []
    with servers() as both, Client(both.dispatcher_address) as client:
        line = direct.request(both)
        for _ in range(_ROUNDS):
            _, found = direct.measure(1, both.daemon_address[1], line, _CALLS)
            floors.append([seconds * 1000 for seconds in found])
            ours.append([call(both, client) for _ in range(_CALLS)])
            cancels += [cancel(both, client) for _ in range(_CANCELS)]
    for percent, wanted in ((50, "below 6 ms"), (99, "")):
        report(
            f"latency, submit and wait, p{percent}",
            "ms",
            [percentile(found, percent) for found in ours],
            [percentile(found, percent) for found in floors],
            "direct call",
            wanted,
        )
    for percent in (50, 99):
        report(f"latency, cancel, p{percent}", "ms", [percentile(cancels, percent)])


def call(both, client):
    start = time.perf_counter()
    job_id = client.submit(both, "noop", queue=queue(0))
    reply = client.ask(request(get_result=job_id))
    seconds = time.perf_counter() - start
    if reply != b'{"result":null}\n':
        raise SystemExit(f"no result: {reply!r}")
    return seconds * 1000


def cancel(both, client):
    job_id = client.submit(both, "tick", 60)
    with Client(both.dispatcher_address) as follower:
        follower.ask(request(follow_stream=job_id, since=0))  # a packet: it runs
        start = time.perf_counter()
        reply = client.ask(request(cancel=job_id))
        seconds = time.perf_counter() - start
    if reply != b'{"cancelled":true}\n':
        raise SystemExit(f"not cancelled: {reply!r}")
    return seconds * 1000


if __name__ == "__main__":
    main()
