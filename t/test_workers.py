"""Threads that run jobs."""

import threading
import time

import pytest
from harp.dispatcher import workers as workers_module
from harp.dispatcher.queues import Queues
from harp.dispatcher.workers import Workers


class Job:
    def __init__(self, number):
        self.id = f"{number:08d}-job"
        self.order = number
        self.queue = None


class Pool:
    """Workers whose jobs run until they are let go."""

    def __init__(self, most):
        self.queues = Queues()
        self.workers = Workers(self.queues, self._run, most)
        self.released = threading.Event()
        self.running = []
        self.ended = []

    def submit(self, number, key=None, concurrency=None):
        self.queues.put(Job(number), self.queues.enter(key, concurrency))
        self.workers.grow()

    def _run(self, job):
        self.running.append(job.order)
        self.released.wait(30)
        self.ended.append(job.order)
        self.queues.release(job)
        if job.order < 0:
            raise ValueError("a fault")

    @property
    def threads(self):
        return [
            thread.name
            for thread in threading.enumerate()
            if thread.name.startswith(("worker", "call-"))
        ]

    def stop(self):
        self.released.set()
        self.queues.close()
        assert self.workers.join(time.monotonic() + 30) == []


@pytest.fixture
def make_pool(request):
    def make(most):
        pool = Pool(most)
        request.addfinalizer(pool.stop)
        return pool

    return make


def test_no_thread_before_the_first_job(make_pool):
    assert make_pool(4).threads == []


def test_each_job_gets_a_thread_up_to_the_limit(make_pool, wait_for):
    pool = make_pool(4)
    for number in range(10):
        pool.submit(number)
    wait_for(lambda: len(pool.running) == 4)
    assert len(pool.threads) == 4
    assert sorted(pool.running) == [0, 1, 2, 3]


def test_thread_is_named_as_its_job(make_pool, wait_for):
    pool = make_pool(4)
    pool.submit(7)
    wait_for(lambda: pool.running)
    assert pool.threads == ["call-00000007"]


def test_idle_thread_is_used_again(make_pool, wait_for):
    pool = make_pool(4)
    pool.released.set()
    for number in range(20):
        pool.submit(number)
        wait_for(lambda count=number + 1: len(pool.ended) == count)
        wait_for(lambda: pool.queues._takers)
    assert len(pool.threads) == 1


def test_job_that_can_not_be_taken_yet_needs_no_thread(make_pool, wait_for):
    pool = make_pool(10)
    for number in range(5):
        pool.submit(number, "queue", 1)
    wait_for(lambda: pool.running)
    wait_for(lambda: len(pool.threads) == 1)


def test_jobs_that_came_at_once_get_threads_with_one_hint(make_pool, wait_for):
    pool = make_pool(6)
    for number in range(10):
        pool.queues.put(Job(number), pool.queues.enter(None, None))
    pool.workers.grow()
    wait_for(lambda: len(pool.running) == 6)


def test_threads_leave_when_idle_but_for_one(make_pool, wait_for, monkeypatch):
    monkeypatch.setattr(workers_module, "_IDLE_SECONDS", 0.05)
    pool = make_pool(4)
    for number in range(4):
        pool.submit(number)
    wait_for(lambda: len(pool.running) == 4)
    pool.released.set()
    wait_for(lambda: len(pool.threads) == 1)
    # And grow again.
    pool.released.clear()
    for number in range(4, 8):
        pool.submit(number)
    wait_for(lambda: len(pool.running) == 8)


def test_fault_in_a_job_takes_no_thread_away(make_pool, wait_for, caplog):
    pool = make_pool(1)
    pool.released.set()
    for number in (-1, -2, 3):
        pool.submit(number)
    wait_for(lambda: pool.ended == [-1, -2, 3])
    assert "fault in the dispatcher" in caplog.text


def test_thread_that_can_not_be_started_leaves_the_jobs_waiting(
    make_pool, wait_for, monkeypatch, caplog
):
    pool = make_pool(4)
    with monkeypatch.context() as patch:

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        pool.submit(1)
        pool.submit(2)
    assert pool.threads == []
    assert caplog.text.count("can't start a thread") == 1
    pool.submit(3)
    wait_for(lambda: sorted(pool.running) == [1, 2, 3])


def test_thread_that_was_started_first_gets_on_with_the_jobs_if_no_other_starts(
    make_pool, wait_for, monkeypatch
):
    pool = make_pool(4)
    pool.workers.start()
    with monkeypatch.context() as patch:

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        for number in range(3):
            pool.submit(number)
        wait_for(lambda: pool.running)
        pool.released.set()
        wait_for(lambda: pool.ended == [0, 1, 2])
    assert len(pool.threads) == 1


def test_first_thread_that_can_not_be_started_is_an_error_of_this_machine(
    make_pool, monkeypatch
):
    pool = make_pool(4)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="can't start new thread"):
            pool.workers.start()
    pool.workers.start()
    assert len(pool.threads) == 1


def test_join_names_threads_that_do_not_end(make_pool, wait_for):
    pool = make_pool(4)
    pool.submit(7)
    wait_for(lambda: pool.running)
    pool.queues.close()
    assert pool.workers.join(time.monotonic() + 0.01) == ["call-00000007"]


def test_job_that_waits_at_the_stop_is_not_run(make_pool, wait_for):
    pool = make_pool(1)
    pool.submit(1)
    pool.submit(2)
    wait_for(lambda: pool.running)
    pool.stop()
    assert pool.ended == [1]
    assert pool.queues.counts() == (1, 0)
