"""Queues and streams with a real harpd: what counts is what happens on the host."""

import random
import threading
import time

import pytest
from dispatchers import Client, request

PROCEDURES = '''
import fcntl, os, time
from harp import procedure, streaming_procedure

def note(path, *words):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    os.close(fd)

def take_place(path, places):
    """A lock goes with its process, however that ends."""
    for place in range(places):
        fd = os.open(f"{path}.{place}", os.O_WRONLY | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            os.close(fd)
    return None

@procedure
def interval(path, queue, number, seconds, concurrency, fail):
    """Note when it has begun and ended, and whether there was a place for it."""
    place = take_place(f"{path}.{queue}", concurrency)
    if place is None:
        note(path, queue, number, "too-many", time.monotonic())
    note(path, queue, number, "begin", time.monotonic())
    time.sleep(seconds)
    note(path, queue, number, "end", time.monotonic())
    if place is not None:
        os.close(place)
    if fail:
        raise ValueError(number)
    return number

@streaming_procedure
def numbers(n, pause_every=0):
    for number in range(n):
        yield number
        if pause_every and number % pause_every == 0:
            time.sleep(0.002)
    return n
'''


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    from harp import testing

    directory = tmp_path_factory.mktemp("queue")
    path = directory / "procedures.py"
    path.write_text(PROCEDURES)
    with testing.Servers(path, directory / "servers") as servers:
        yield servers


@pytest.fixture
def connect(running):
    return lambda: Client(running.dispatcher_address)


class Notes:
    """What the procedure ``interval`` has noted."""

    def __init__(self, path):
        self.path = path

    def begun(self, queue):
        """Numbers of the jobs of a queue, in the order in which they began."""
        return [number for number, what, _ in self._of(queue) if what == "begin"]

    def too_many(self, queue):
        """Numbers of the jobs for which there was no place."""
        return [number for number, what, _ in self._of(queue) if what == "too-many"]

    def most_at_once(self, queue):
        """How many jobs ran at a time, if all have ended by themselves."""
        now = most = 0
        for _, what, _ in sorted(self._of(queue), key=lambda note: note[2]):
            now += 1 if what == "begin" else -1
            most = max(most, now)
        return most

    def _of(self, queue):
        if not self.path.exists():
            return
        for line in self.path.read_text().splitlines():
            of, number, what, moment = line.split()
            if of == queue:
                yield int(number), what, float(moment)


@pytest.fixture
def notes(tmp_path):
    return Notes(tmp_path / "notes")


def interval(notes, queue, number, seconds=0.0, concurrency=1, **keys):
    name = {"name": {"q": queue}, "concurrency": concurrency}
    fail = keys.pop("fail", False)
    arguments = [str(notes.path), queue, number, seconds, concurrency, fail]
    return request(
        host="localhost",
        procedure="interval",
        arguments=arguments,
        queue=name,
        **keys,
    )


def submit_all(connect, messages):
    with connect() as client:
        client.send(*messages)
        return [client.reply()["job_id"] for _ in messages]


def results(connect, job_ids):
    with connect() as client:
        client.send(*(request("get_result", job_id) for job_id in job_ids))
        return [client.reply() for _ in job_ids]


def cancel_all(connect, job_ids):
    with connect() as client:
        for job_id in job_ids:
            assert client.ask(request("cancel", job_id)) == {"cancelled": True}


# --- queues -------------------------------------------------------------------------


def test_queue_of_one_runs_its_jobs_one_after_the_other_in_order(connect, notes):
    jobs = [interval(notes, "one", number) for number in range(30)]
    ends = results(connect, submit_all(connect, jobs))
    assert ends == [{"result": number} for number in range(30)]
    assert notes.begun("one") == list(range(30))
    assert notes.most_at_once("one") == 1


@pytest.mark.parametrize("concurrency", [2, 5])
def test_queue_runs_as_many_jobs_as_its_concurrency_and_no_more(
    connect, notes, wait_for, concurrency
):
    # given: the first ones stay until all of them run
    seconds = [60] * concurrency + [0.01] * 15
    job_ids = submit_all(
        connect,
        [
            interval(notes, "many", number, stay, concurrency)
            for number, stay in enumerate(seconds)
        ],
    )
    wait_for(lambda: len(notes.begun("many")) == concurrency, 30)
    # when
    cancel_all(connect, job_ids[:concurrency])
    results(connect, job_ids)
    # then
    assert notes.too_many("many") == []
    assert sorted(notes.begun("many")) == list(range(len(seconds)))


def test_full_queue_holds_up_no_other(connect, notes, wait_for):
    jobs = [interval(notes, "slow", number, 60) for number in range(4)]
    jobs += [interval(notes, "quick", number) for number in range(4)]
    job_ids = submit_all(connect, jobs)
    slow, quick = job_ids[:4], job_ids[4:]
    assert results(connect, quick) == [{"result": number} for number in range(4)]
    wait_for(lambda: notes.begun("slow"), 30)
    cancel_all(connect, reversed(slow))  # so that none of them comes to its turn
    assert notes.begun("slow") == [0]


def test_queues_take_turns_when_there_are_too_many_jobs(make_servers, notes, tmp_path):
    path = tmp_path / "procedures.py"
    path.write_text(PROCEDURES)
    servers = make_servers(path, dispatcher={"limits": {"running": 1}})

    def connect():
        return Client(servers.dispatcher_address)

    jobs = [interval(notes, "first", 0, 0.5, 9)]
    jobs += [interval(notes, "a", number, 0, 9) for number in range(6)]
    jobs += [interval(notes, "b", number, 0, 9) for number in range(3)]
    results(connect, submit_all(connect, jobs))
    lines = [line.split() for line in notes.path.read_text().splitlines()]
    begun = [line[0] + line[1] for line in lines if line[2] == "begin"]
    assert begun == ["first0", "a0", "b0", "a1", "b1", "a2", "b2", "a3", "a4", "a5"]


@pytest.mark.parametrize(
    ("count", "queues"),
    [(200, 8), pytest.param(2000, 50, marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_limits_hold_on_the_host_whatever_becomes_of_the_jobs(
    connect, notes, in_thread, count, queues
):
    chance = random.Random(5)
    messages = []
    for number in range(count):
        queue = number % queues
        keys = {"fail": chance.random() < 0.2}
        seconds = chance.uniform(0, 0.03)
        if chance.random() < 0.02:
            seconds, keys["max_exec_time"] = 30, 1
        messages.append(
            interval(notes, f"q{queue}", number, seconds, 1 + queue % 3, **keys)
        )
    job_ids, submitted = [], threading.Event()

    def cancel_some(seed):
        mine = random.Random(seed)
        with connect() as client:
            while not submitted.is_set():
                if job_ids:
                    job_id = mine.choice(job_ids[-40:])
                    client.ask(request("cancel", job_id))
                threading.Event().wait(mine.uniform(0, 0.05))

    cancelling = [in_thread(cancel_some, seed) for seed in range(3)]
    for begin in range(0, count, 10):
        job_ids += submit_all(connect, messages[begin : begin + 10])
    submitted.set()
    ends = results(connect, job_ids)
    for one in cancelling:
        one.result(120)
    for queue in range(queues):
        assert not notes.too_many(f"q{queue}")
    kinds = {list(end)[0] for end in ends}
    # The few that take too long may all have been cancelled.
    assert {"result", "exception", "cancelled"} <= kinds
    assert kinds <= {"result", "exception", "cancelled", "error"}
    errors = [end["error"]["type"] for end in ends if "error" in end]
    assert set(errors) <= {"timeout"}
    # Each job began once at most, and those that ended by themselves exactly once.
    for queue in range(queues):
        begun = notes.begun(f"q{queue}")
        assert len(begun) == len(set(begun))
        for number in range(queue, count, queues):
            if "result" in ends[number] or "exception" in ends[number]:
                assert number in begun
    with connect() as client:
        assert client.ask(request("list_queues", True)) == {"queues": []}


# --- streams ------------------------------------------------------------------------


def follow(connect, job_id, since):
    """Everything that a follower gets, as bytes, from that packet on."""
    lines = []
    with connect() as client:
        client.send(request("follow_stream", job_id, since=since))
        while (line := client.line()).startswith(b'{"packet"'):
            lines.append(line)
        lines.append(line)
    return lines


@pytest.mark.parametrize(
    "count",
    [10_000, pytest.param(100_000, marks=pytest.mark.slow)],
    ids=["short", "long"],
)
def test_followers_that_join_at_any_moment_see_the_same_bytes(
    connect, in_thread, count
):
    chance = random.Random(3)
    message = request(host="localhost", procedure="numbers", arguments=[count, 100])
    [job_id] = submit_all(connect, [message])

    def join(delay, since):
        threading.Event().wait(delay)
        return since, follow(connect, job_id, since)

    followers = [
        in_thread(join, chance.uniform(0, 2), number % 2 * chance.randrange(count))
        for number in range(50)
    ]
    whole = follow(connect, job_id, 0)
    assert len(whole) == count + 1
    assert whole[-1] == b'{"result":%d}\n' % count
    for number in (0, 1, count // 2, count - 1):
        assert whole[number].startswith(b'{"packet":%d,' % number)
        assert whole[number].endswith(b'"data":%d}\n' % number)
    for follower in followers:
        since, lines = follower.result(120)
        assert lines == whole[since:]
    # And so does who reads it afterwards.
    with connect() as client:
        client.send(request("read_stream", job_id))
        assert [client.line() for _ in whole] == whole


def test_recent_packets_are_those_before_and_all_after(connect):
    message = request(host="localhost", procedure="numbers", arguments=[5000, 100])
    [job_id] = submit_all(connect, [message])
    with connect() as client:
        client.send(request("follow_stream", job_id, recent=10))
        packets, end = client.stream()
    assert end == {"result": 5000}
    first = packets[0]["packet"]
    assert [one["packet"] for one in packets] == list(range(first, 5000))
