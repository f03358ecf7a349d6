"""How cost grows: the rate of each kind of work at once, 10 and 100 times the amount.
What is linear or better keeps its rate; the last ratio is that of the most to the
least."""

import time

import streams
from endtoend import finish
from figures import Client, call, queue, report, request, servers, submitted
from list import milliseconds
from start import make_done

_ROUNDS = 3
_TIMES = (1, 10, 100)


def main():
    with servers(daemon={"limits": {"calls": 500}}) as both:
        with Client(both.dispatcher_address) as client:
            client.submit(both, "sleep", 600, queue=queue(0))
        grow("submitting", "calls", 50, both, submit)
        grow("end to end, queue of 8", "jobs", 20, both, run)
        grow("following", "packets", 1000, both, follow)
        grow("reading afterwards", "packets", 1000, both, read)
    grow_log()


def grow(name, unit, least, both, work):
    """Measure ``work(both, amount)``."""
    amounts = [least * times for times in _TIMES]
    rates = {amount: [] for amount in amounts}
    for _ in range(_ROUNDS):
        for amount in amounts:
            start = time.perf_counter()
            seconds = work(both, amount) or time.perf_counter() - start
            rates[amount].append(amount / seconds)
    for amount in amounts:
        report(
            f"growth, {name}, {amount:,}",
            f"{unit}/s",
            rates[amount],
            rates[least],
            f"{least:,}",
        )


def submit(both, amount):
    with Client(both.dispatcher_address) as client:
        lines = [call(both, "noop", queue=queue(0)) for _ in range(amount)]
        start = time.perf_counter()
        for reply in client.ask_all(lines):
            submitted(reply)
        return time.perf_counter() - start


def run(both, amount):
    return finish(both, [call(both, "noop", queue=queue(1, 8)) for _ in range(amount)])


def follow(both, amount):
    with Client(both.dispatcher_address) as client:
        job_id = client.submit(both, "count", amount)
        streams.count(client, request(follow_stream=job_id, since=0))


def read(both, amount):
    ended = both.caller().host(both.hostname).count(amount)
    ended.get()
    with Client(both.dispatcher_address) as client:
        start = time.perf_counter()
        streams.count(client, request(read_stream=ended.id()))
        return time.perf_counter() - start


def grow_log():
    """The time of a listing and of a status, with so many ended jobs on the disk."""
    found = {}
    for number in (500, 5000, 50_000):
        with servers() as both:
            make_done(both, number)
            both.start_dispatcher()
            with Client(both.dispatcher_address) as client:
                line = request(list_jobs={"limit": 100})
                _, reply = milliseconds(client, line)
                status = request(get_status=reply["jobs"][-1]["job_id"])
                found[number] = [
                    [milliseconds(client, asked)[0] for _ in range(5)]
                    for asked in (line, status)
                ]
    least = min(found)
    for k, name in enumerate(("listing 100", "a status")):
        for number, times in found.items():
            report(
                f"growth, {name} of {number:,} ended",
                "ms",
                times[k],
                found[least][k],
                f"of {least:,}",
            )


if __name__ == "__main__":
    main()
