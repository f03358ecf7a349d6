"""The machine's clock set forth and back under a dispatcher: what is stored tells its
time, but nothing waits, ends or starts by it."""

import random
import threading
import time

import pytest
from dispatchers import (
    ACKNOWLEDGED,
    ACKNOWLEDGED_STREAM,
    Dispatcher,
    call_request,
    host_entry,
    request,
    send,
)
from harp import jobid
from startup import Switch, run_at_start

HOUR = 3600
DAY = 24 * HOUR
YEAR = 365 * DAY
QUEUE = {"name": {"q": 1}, "concurrency": 1}

CODE = """
import time

real, real_ns = time.time, time.time_ns
last = 0

def offset():
    global last
    try:
        with open({path!r}) as file:
            last = int(file.read())
    except OSError:
        pass  # out of descriptors, for one
    return last

time.time = lambda: real() + offset()
time.time_ns = lambda: real_ns() + offset() * 1_000_000_000
"""


class Clock:
    """The wall clock of the programs that a test starts.

    :ivar offset: seconds by which it is fast
    """

    def __init__(self, directory, monkeypatch):
        self._switch = Switch(directory / "offset")
        self.offset = 0
        code = CODE.format(path=str(self._switch.path))
        run_at_start(code, directory / "site", monkeypatch)

    def set(self, offset):
        self._switch.set(offset)
        self.offset = offset

    def now(self):
        return time.time() + self.offset


@pytest.fixture
def clock(tmp_path, monkeypatch):
    return Clock(tmp_path, monkeypatch)


@pytest.fixture
def dispatcher(clock, tmp_path, daemon, certificate):
    dispatcher = Dispatcher(
        tmp_path / "dispatcher",
        [host_entry(daemon.address, cert_sha256=certificate.sha256)],
        limits={"cancel_grace": 2.0},
    )
    dispatcher.start()
    yield dispatcher
    dispatcher.stop()
    assert "Traceback" not in dispatcher.log()


JUMPS = [DAY * 3, -DAY * 3, YEAR, -YEAR * 5, 0, HOUR]


def listed(dispatcher):
    """Ids of all jobs, as pages of three."""
    ids, before = [], None
    while True:
        filters = {"limit": 3} | ({} if before is None else {"before": before})
        page = dispatcher.ask(request("list_jobs", filters))
        ids += [job["job_id"] for job in page["jobs"]]
        before = page["next"]
        if before is None:
            return ids


def test_queue_order_is_that_of_submission_whatever_the_clock_says(
    dispatcher, daemon, clock, wait_for
):
    dispatcher.call("wait", queue=QUEUE)
    wait_for(lambda: daemon.called("wait"))
    made = []
    for number, offset in enumerate(JUMPS):
        clock.set(offset)
        made += [dispatcher.call("echo", number, n, queue=QUEUE) for n in range(3)]
    assert made != sorted(made)  # ids tell the clock's time
    dispatcher.kill()
    clock.set(-DAY)
    dispatcher.start()
    made.append(dispatcher.call("echo", len(JUMPS), 0, queue=QUEUE))
    for job_id in made:
        dispatcher.result(job_id)
    called = [one["arguments"] for one in daemon.requests[1:]]
    assert called == sorted(called) and len(called) == len(made)


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_running_job_is_neither_ended_nor_spared_by_the_clock(
    dispatcher, daemon, clock, wait_for, jump
):
    def answer_late(connection, received):
        send(connection, ACKNOWLEDGED_STREAM, {"stream": 0})
        daemon.released.wait(30)
        send(connection, {"stream": 1}, {"result": 2})

    daemon.scripts["late"] = answer_late
    spared = dispatcher.call("late", timeout=HOUR, max_exec_time=HOUR)
    silent = dispatcher.call("wait", timeout=2)
    long = dispatcher.call("wait", max_exec_time=2)
    connecting = dispatcher.call("wait", queue=QUEUE)
    wait_for(lambda: daemon.called("wait") == 3)
    wait_for(lambda: dispatcher.status(spared)["packets"] == 1)
    clock.set(jump)
    for job_id, text in ((silent, "(timeout)"), (long, "(max_exec_time)")):
        error = dispatcher.result(job_id)["error"]
        assert (error["type"], error["ran"]) == ("timeout", "yes")
        assert text in error["message"]
    assert dispatcher.state(spared) == "running"
    assert dispatcher.cancel(connecting) == {"cancelled": True}
    daemon.released.set()
    assert dispatcher.result(spared) == {"result": 2}
    first, second = [line for line in dispatcher.file(spared) if "packet" in line]
    assert abs(second["time"] - first["time"] - jump) < HOUR


def test_status_tells_the_times_that_the_clock_told(
    dispatcher, daemon, clock, wait_for
):
    def answer(connection, received):
        send(connection, ACKNOWLEDGED)
        daemon.released.wait(30)
        send(connection, {"result": 1})

    daemon.scripts["answer"] = answer
    holding = dispatcher.call("wait", queue=QUEUE)
    wait_for(lambda: daemon.called("wait"))
    clock.set(DAY)
    job_id = dispatcher.call("answer", queue=QUEUE)
    expected = {"submit": clock.now()}
    clock.set(-DAY)
    dispatcher.cancel(holding)
    wait_for(lambda: daemon.called("answer"))
    expected["start"] = clock.now()
    clock.set(YEAR)
    daemon.released.set()
    assert dispatcher.result(job_id) == {"result": 1}
    expected["end"] = clock.now()
    times = dispatcher.status(job_id)["time"]
    for name, moment in expected.items():
        assert abs(times[name] - moment) < HOUR
    dispatcher.kill()
    clock.set(-YEAR)
    dispatcher.start()
    assert dispatcher.status(job_id)["time"] == times
    assert dispatcher.result(job_id) == {"result": 1}


def test_every_job_is_listed_once_whatever_the_clock_says(dispatcher, clock):
    made = []
    for offset in JUMPS:
        clock.set(offset)
        made += [dispatcher.call("echo", number) for number in range(3)]
    for job_id in made:
        dispatcher.result(job_id)
    assert len(set(made)) == len(made)
    assert listed(dispatcher) == sorted(made, reverse=True)


def test_repeated_call_runs_once_also_when_the_clock_has_been_set(
    dispatcher, daemon, clock
):
    message = call_request("echo", 1, job_id=jobid.make())
    job_id = dispatcher.ask(message)["job_id"]
    assert dispatcher.result(job_id) == {"result": [1]}
    for offset, is_taken in ((2 * DAY, False), (HOUR, True), (-2 * DAY, False)):
        clock.set(offset)
        reply = dispatcher.ask(message)
        if is_taken:
            assert reply["job_id"] == job_id
        else:
            assert reply["error"]["type"] == "invalid_request"
            assert "more than a day" in reply["error"]["message"]
        # Whoever has the id can read the job, always.
        assert dispatcher.result(job_id) == {"result": [1]}
    assert daemon.called("echo") == 1


def test_clock_that_jumps_about_under_load_and_crashes_loses_nothing(
    dispatcher, daemon, clock, in_thread
):
    chance = random.Random(7)
    acknowledged = []

    def submit(stop):
        try:
            with dispatcher.connect() as client:
                while not stop.is_set():
                    message = call_request("count", 5, queue=QUEUE)
                    acknowledged.append(client.ask(message)["job_id"])
        except (OSError, AssertionError):
            pass  # the dispatcher has been killed

    for _ in range(3):
        stop = threading.Event()
        submitting = in_thread(submit, stop)
        for _ in range(5):
            clock.set(chance.choice(JUMPS) + chance.randrange(DAY))
            stop.wait(0.03)
        dispatcher.kill()
        stop.set()
        submitting.result()
        dispatcher.start()
    assert acknowledged
    for job_id in acknowledged:
        end = dispatcher.result(job_id)
        assert end == {"result": 5} or end["error"]["type"] == "missing_result"
    called = [one["job_id"] for one in daemon.requests]
    assert len(called) == len(set(called))
    assert set(listed(dispatcher)) >= set(acknowledged)
    assert not list((dispatcher.jobs / "corrupt").iterdir())
