"""Results and statuses of ended jobs, read over one kept connection, one after the
other and 50 ahead. The floor: a bare server of lines that answers as many bytes."""

import time

from figures import Client, call, echo_server, report, request, servers, submitted

_ROUNDS = 5
_JOBS = 200
_READS = 2000  # in a round


def main():
    with servers() as both, Client(both.dispatcher_address) as client:
        lines = [call(both, "noop") for _ in range(_JOBS)]
        job_ids = list(map(submitted, client.ask_all(lines)))
        ended = [request(get_result=job_id) for job_id in job_ids]
        client.ask_all(ended)
        statuses = [request(get_status=job_id) for job_id in job_ids]
        for name, requests in (("results", ended), ("statuses", statuses)):
            reply = client.ask(requests[0])
            with echo_server(reply) as address, Client(address) as echo:
                measure(name, client, echo, requests * (_READS // _JOBS))


def measure(name, client, echo, requests):
    for way, ask in (
        ("one after the other", one_after_the_other),
        ("50 ahead", Client.ask_all),
    ):
        rates, floors = [], []
        for _ in range(_ROUNDS):
            rates.append(rate(ask, client, requests))
            floors.append(rate(ask, echo, requests))
        wanted = "5,000/s" if name == "results" else ""
        report(f"results, {name}, {way}", "/s", rates, floors, "bare server", wanted)


def one_after_the_other(client, requests):
    return [client.ask(line) for line in requests]


def rate(ask, client, requests):
    start = time.perf_counter()
    replies = ask(client, requests)
    seconds = time.perf_counter() - start
    if not all(b'"result"' in reply for reply in replies):
        raise SystemExit("some have no result")
    return len(requests) / seconds


if __name__ == "__main__":
    main()
