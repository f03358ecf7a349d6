"""Listing: the 100 newest jobs of 50,000 that have ended, those of a host that none is
of (which looks at all, or stops after a second), and 1,000 queues. The floor of the
first: reading as many files, their names known."""

import itertools
import json
import time

from figures import Client, call, queue, report, request, servers, submitted
from start import make_done

_ROUNDS = 5
_JOBS = 50_000
_QUEUES = 1000


def main():
    with servers(dispatcher={"limits": {"running": 1}}) as both:
        make_done(both, _JOBS)
        both.start_dispatcher()
        with Client(both.dispatcher_address) as client:
            newest, floors, others, queues = [], [], [], []
            for _ in range(_ROUNDS):
                newest.append(listing(client, {"limit": 100}, 100))
                floors.append(read_files(both, 100))
                others.append(listing(client, {"host": "nowhere"}, 0))
            report(
                f"list, the 100 newest of {_JOBS:,}",
                "ms",
                newest,
                floors,
                "reading 100 files",
            )
            report(f"list, none of {_JOBS:,}, one request", "ms", others)
            hold_queues(both, client)
            for _ in range(_ROUNDS):
                queues.append(milliseconds(client, request(list_queues=True))[0])
            report(f"list, {_QUEUES:,} queues", "ms", queues)


def listing(client, filters, number):
    found, reply = milliseconds(client, request(list_jobs=filters))
    if len(reply["jobs"]) != number:
        raise SystemExit(f"{len(reply['jobs'])} jobs instead of {number}")
    return found


def milliseconds(client, line):
    start = time.perf_counter()
    reply = client.ask(line)
    return (time.perf_counter() - start) * 1000, json.loads(reply)


def read_files(both, number):
    hours = sorted((both.directory / "jobs" / "done").iterdir(), reverse=True)
    paths = list(itertools.islice((p for h in hours for p in h.iterdir()), number))
    start = time.perf_counter()
    for path in paths:
        path.read_bytes()
    return (time.perf_counter() - start) * 1000


def hold_queues(both, client):
    """One job runs, so that all others wait."""
    client.submit(both, "sleep", 600, queue=queue(0))
    lines = [call(both, "noop", queue=queue(k)) for k in range(1, _QUEUES)]
    for reply in client.ask_all(lines):
        submitted(reply)


if __name__ == "__main__":
    main()
