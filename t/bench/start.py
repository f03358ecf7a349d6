"""From starting the dispatcher until it serves: with nothing on disk, with 100,000 jobs
queued, and with jobs that have ended, made as files: 200,000 of them, or as many as
START_DONE says (an hour of 1,000,000 takes some minutes to make)."""

import json
import os
import time

from figures import Client, call, queue, report, servers
from harp import jobid

_ROUNDS = 3
_QUEUED = 100_000
_DONE = int(os.environ.get("START_DONE", "200000"))
_FILES_IN_AN_HOUR = 20_000


def main():
    with servers() as both:
        nothing = starts(both)
        report("start, nothing on disk", "s", nothing)
        make_done(both, _DONE)
        report(
            f"start, {_DONE:,} ended",
            "s",
            starts(both),
            nothing,
            "nothing on disk",
            wanted="as with none",
        )
        make_queued(both, _QUEUED)
        # Each start ends the first of them, which was cut off, and runs the next.
        report(f"start, {_QUEUED:,} queued", "s", starts(both), wanted="below 20 s")


def starts(both):
    return [start(both) for _ in range(_ROUNDS)]


def start(both):
    both.dispatcher.kill()
    begin = time.perf_counter()
    both.start_dispatcher()
    with Client(both.dispatcher_address) as client:
        client.ask(b'{"harpcaller":1,"list_queues":true}\n')
    return time.perf_counter() - begin


def make_done(both, number):
    """Make files of ended jobs, after the pattern of one."""
    with Client(both.dispatcher_address) as client:
        job_id = client.submit(both, "noop")
        client.ask(b'{"harpcaller":1,"get_result":"%b"}\n' % job_id.encode())
    both.dispatcher.stop()
    done = both.directory / "jobs" / "done"
    [pattern] = done.glob("*/*.jsonl")
    text = pattern.read_text()
    now = time.time()
    for first in range(0, number, _FILES_IN_AN_HOUR):
        hour = now - 3600 * (2 + first // _FILES_IN_AN_HOUR)
        directory = done / time.strftime("%Y-%m-%dT%H", time.gmtime(hour))
        directory.mkdir(exist_ok=True)
        for _ in range(min(_FILES_IN_AN_HOUR, number - first)):
            new = jobid.make(int(hour * 1000))
            (directory / f"{new}.jsonl").write_text(text.replace(job_id, new))


def make_queued(both, number):
    """Make files of jobs that wait behind one that runs, after the pattern of one.
    The dispatcher runs before, and is killed."""
    with Client(both.dispatcher_address) as client:
        client.submit(both, "sleep", 3600, queue=queue(0))
        job_id = client.submit(both, "sleep", 3600, queue=queue(0))
    active = both.directory / "jobs" / "active"
    text = (active / f"{job_id}.jsonl").read_text()
    order = json.loads(text)["order"]
    before, after = text.split(f'"order":{order}', 1)
    both.dispatcher.kill()
    for k in range(1, number):
        new = jobid.make()
        line = f'{before}"order":{order + k}{after}'.replace(job_id, new)
        (active / f"{new}.jsonl").write_text(line)


if __name__ == "__main__":
    main()
