"""Removing 100,000 old jobs while calls go on: the time it takes, beside that of merely
removing as many such files, and what a caller waits for submitting a call and for its
result, beside what it waits when nothing else happens."""

import os
import sys
import threading
import time

from figures import Client, call, percentile, report, request, servers, submitted

import harp  # found by what figures has done
from harp import jobid
from harp.protocol import admin as protocol

_JOBS = 100_000
_HOURS = 50
_RAW = 20_000  # files that are merely removed, for the floor
_CALLS = 300
_DAYS = 40
_AGE = 30 * 86400
_CONTENT = b"x" * 600


def main():
    # Not by itself: it is asked to.
    with servers(dispatcher={"max_age": "never"}) as both:
        make_old_jobs(both.directory / "jobs" / "done")
        measure_both(both)


def measure_both(both):
    with Client(both.dispatcher_address) as client:
        measure(both, client, lambda count: count < 100)
        unloaded = measure(both, client, lambda count: count < _CALLS)
        floor = remove_files(both.directory / "raw")
        pruning = threading.Thread(target=prune, args=(both, floor))
        pruning.start()
        loaded = measure(both, client, lambda _: pruning.is_alive())
        pruning.join()
        hours = list((both.directory / "jobs" / "done").iterdir())
        if len(hours) > 2:
            sys.exit(f"{len(hours)} hours are still there")
    for name, values, others in zip(
        ("submit", "submit to result"), loaded, unloaded, strict=True
    ):
        for percent in (50, 99):
            report(
                f"prune, {name} meanwhile, p{percent}",
                "ms",
                [percentile(values, percent)],
                [percentile(others, percent)],
                "otherwise",
            )


def make_old_jobs(done):
    begin = time.time() - _DAYS * 86400
    for hour in range(_HOURS):
        since = begin - hour * 3600
        for number in range(_JOBS // _HOURS):
            job_id = jobid.make(int(since * 1000) + number)
            seconds = jobid.time_of(job_id)
            directory = done / time.strftime("%Y-%m-%dT%H", time.gmtime(seconds))
            directory.mkdir(0o700, exist_ok=True)
            path = f"{directory}/{job_id}.jsonl"
            with open(path, "wb") as file:
                file.write(_CONTENT)
            os.utime(path, (seconds, seconds))
    os.sync()


def measure(both, client, go_on):
    """Return the times in ms to submit a call, and to have its result."""
    submitting, ending = [], []
    while go_on(len(ending)):
        line = call(both, "noop")
        start = time.perf_counter()
        job_id = submitted(client.ask(line))
        submitting.append((time.perf_counter() - start) * 1000)
        client.ask(request(get_result=job_id))
        ending.append((time.perf_counter() - start) * 1000)
    return submitting, ending


def remove_files(directory):
    """Return the seconds that removing so many files takes, scaled to all jobs."""
    directory.mkdir()
    paths = [f"{directory}/{number}" for number in range(_RAW)]
    for path in paths:
        with open(path, "wb") as file:
            file.write(_CONTENT)
    os.sync()  # what isn't on the disk yet is removed for nothing
    start = time.perf_counter()
    for path in paths:
        os.unlink(path)
    return (time.perf_counter() - start) * _JOBS / _RAW


def prune(both, floor):
    start = time.perf_counter()
    dispatcher = harp.HarpCaller(f"unix:{both.directory}/control")
    jobs, since, is_done = 0, None, False
    while not is_done:
        reply = dispatcher.request(protocol.build_prune(_AGE, since))
        more, _, since = protocol.parse_pruned(reply)
        jobs += more
        is_done = since is None
    seconds = time.perf_counter() - start
    report(
        f"prune, {jobs} jobs",
        "s",
        [seconds],
        [floor],
        "merely removing the files",
        wanted="below 10 s",
    )


if __name__ == "__main__":
    main()
