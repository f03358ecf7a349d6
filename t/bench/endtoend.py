"""2,000 jobs that do nothing, from the first submission to the last result: through a
queue of concurrency 8, without a queue, and through 50 queues; client, dispatcher and
daemon on this machine. The floor: the same calls straight to harpd by 8 callers."""

import sys
import time

import direct
from figures import Client, call, queue, report, request, servers, submitted

_ROUNDS = 3
_CALLS = 1000  # in a round; the rounds together are more than 2,000
_CALLERS = 8


def main():
    kinds = {
        "1 queue of concurrency 8": lambda k: {"queue": queue(0, _CALLERS)},
        "no queue": lambda k: {},
        "50 queues": lambda k: {"queue": queue(1 + k % 50)},
    }
    ours = {name: [] for name in kinds}
    floors = []
    with servers(daemon={"limits": {"calls": 500}}) as both:
        for _ in range(_ROUNDS):
            floors.append(call_directly(both))
            for name, more in kinds.items():
                ours[name].append(call_through(both, more))
    for name in kinds:
        wanted = "ratio 0.70" if name.startswith("1 ") else ""
        report(
            f"endtoend, {name}",
            "jobs/s",
            ours[name],
            floors,
            f"direct calls by {_CALLERS}",
            wanted,
        )


def call_directly(both):
    line = direct.request(both)
    port = both.daemon_address[1]
    seconds, latencies = direct.measure(_CALLERS, port, line, _CALLS)
    return len(latencies) / seconds


def call_through(both, more):
    lines = [call(both, "noop", **more(k)) for k in range(_CALLS)]
    return _CALLS / finish(both, lines)


def finish(both, lines):
    """Submit calls and return the seconds until all have their results."""
    with Client(both.dispatcher_address) as client:
        start = time.perf_counter()
        job_ids = map(submitted, client.ask_all(lines))
        asked = [request(get_result=job_id) for job_id in job_ids]
        replies = client.ask_all(asked)
        seconds = time.perf_counter() - start
    for reply in replies:
        if reply != b'{"result":null}\n':
            sys.exit(f"no result: {reply!r}")
    return seconds


if __name__ == "__main__":
    main()
