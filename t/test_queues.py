"""Which job runs next."""

import itertools

import pytest
from harp.dispatcher.queues import Queues

NOW = 0.0  # s to wait for a job that is there
LONG = 30.0


class Job:
    """What the queues know of a job."""

    def __init__(self, job_id, order):
        self.id = str(job_id)
        self.order = order
        self.queue = None

    def __repr__(self):
        return self.id


@pytest.fixture
def queues():
    return Queues()


@pytest.fixture
def put(queues):
    """``put(id, key, concurrency)`` adds a job; the orders ascend."""
    orders = itertools.count(1)

    def add(job_id, key="q", concurrency=1, order=None):
        job = Job(job_id, order or next(orders))
        queues.put(job, queues.enter(key, concurrency))
        return job

    return add


def take_all(queues):
    """Take what can be taken, without giving anything back."""
    taken = []
    while (job := queues.take(NOW)) is not None:
        taken.append(job)
    return taken


def ids(jobs):
    return [job.id for job in jobs]


def names(queues):
    return {state.key for state in queues.states()}


# --- order and limits ---------------------------------------------------------------


def test_oldest_job_of_a_queue_is_first(queues, put):
    for job_id in "abc":
        put(job_id, concurrency=3)
    assert ids(take_all(queues)) == ["a", "b", "c"]


def test_order_counts_not_the_moment_of_putting(queues, put):
    for job_id, order in (("c", 3), ("a", 1), ("d", 4), ("b", 2)):
        put(job_id, concurrency=4, order=order)
    assert ids(take_all(queues)) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_no_more_jobs_are_out_than_concurrency(queues, put, concurrency):
    for job_id in range(8):
        put(job_id, concurrency=concurrency)
    assert len(take_all(queues)) == concurrency


def test_released_job_makes_place_for_exactly_one(queues, put):
    for job_id in range(6):
        put(job_id, concurrency=2)
    first, _ = take_all(queues)
    queues.release(first)
    assert ids(take_all(queues)) == ["2"]


def test_jobs_without_queue_have_no_limit(queues, put):
    for job_id in range(50):
        put(job_id, key=None, concurrency=None)
    assert len(take_all(queues)) == 50


def test_full_queue_keeps_no_other_from_running(queues, put):
    put("a1", "a")
    put("a2", "a")
    put("b1", "b")
    assert ids(take_all(queues)) == ["a1", "b1"]


def test_queues_take_turns(queues, put):
    for job_id in ("a1", "a2", "a3", "b1", "b2", "c1", "n1", "n2"):
        key = None if job_id[0] == "n" else job_id[0]
        put(job_id, key, None if key is None else 9)
    assert ids(take_all(queues)) == ["a1", "b1", "c1", "n1", "a2", "b2", "n2", "a3"]


def test_queue_that_becomes_free_waits_for_its_turn(queues, put):
    for job_id in ("a1", "a2", "b1", "b2"):
        put(job_id, job_id[0], 1)
    a1 = queues.take(NOW)
    put("c1", "c", 1)
    queues.release(a1)
    assert ids(take_all(queues)) == ["b1", "c1", "a2"]


# --- a queue's life -----------------------------------------------------------------


def test_concurrency_is_that_of_the_job_that_makes_the_queue(queues, put):
    put("a", concurrency=2)
    put("b", concurrency=9)
    put("c", concurrency=9)
    assert ids(take_all(queues)) == ["a", "b"]
    assert queues.enter("q", 7).concurrency == 2


def test_queue_is_gone_with_its_last_job(queues, put):
    put("a", concurrency=2)
    job = queues.take(NOW)
    assert names(queues) == {"q"}
    queues.release(job)
    assert names(queues) == set()
    assert queues.enter("q", 7).concurrency == 7


def test_queue_is_gone_when_its_last_waiting_job_is_removed(queues, put):
    assert queues.remove(put("a", concurrency=2))
    assert queues.enter("q", 7).concurrency == 7


def test_queue_lives_while_a_job_enters(queues, put):
    entered = queues.enter("q", 2)
    put("a", concurrency=9)
    queues.release(queues.take(NOW))
    assert queues.enter("q", 7) is entered


def test_queue_is_gone_when_nothing_comes_of_what_entered(queues):
    queues.leave(queues.enter("q", 2))
    assert queues.enter("q", 7).concurrency == 7


def test_queue_in_which_nothing_waits_yet_is_not_shown(queues):
    queues.enter("q", 2)
    assert queues.states() == []


def test_state_shows_what_waits_and_what_runs(queues, put):
    for job_id in "abc":
        put(job_id, concurrency=1)
    put("n", None, None)
    queues.take(NOW)
    assert [tuple(state) for state in queues.states()] == [("q", 1, 1, 2, "b")]
    assert queues.counts() == (3, 1)


# --- cancelling ---------------------------------------------------------------------


def test_removed_job_is_never_taken(queues, put):
    jobs = [put(job_id, concurrency=3) for job_id in "abc"]
    assert queues.remove(jobs[1])
    assert ids(take_all(queues)) == ["a", "c"]


def test_job_is_removed_once(queues, put):
    job = put("a")
    assert queues.remove(job)
    assert not queues.remove(job)


def test_job_that_is_out_can_not_be_removed(queues, put):
    put("a")
    assert not queues.remove(queues.take(NOW))


def test_job_that_has_no_queue_can_not_be_removed(queues):
    assert not queues.remove(Job("a", 1))


def test_removing_the_only_takable_job_takes_the_queue_out_of_turn(queues, put):
    queues.remove(put("a1", "a"))
    put("b1", "b")
    assert ids(take_all(queues)) == ["b1"]
    assert queues.unattended() == 0


@pytest.mark.parametrize("which", [0, 1, 2])
def test_job_that_is_put_back_has_its_old_place(queues, put, which):
    jobs = [put(job_id, concurrency=3) for job_id in "abc"]
    queues.remove(jobs[which])
    queues.put_back(jobs[which])
    assert ids(take_all(queues)) == ["a", "b", "c"]


def test_job_that_is_put_back_makes_its_queue_again(queues, put):
    job = put("a", concurrency=2)
    queues.remove(job)
    queues.put_back(job)
    assert queues.enter("q", 7).concurrency == 2
    assert ids(take_all(queues)) == ["a"]


def test_job_that_is_put_back_joins_the_queue_that_came_to_be_meanwhile(queues, put):
    job = put("a", concurrency=2)
    queues.remove(job)
    put("b", concurrency=1)
    queues.put_back(job)
    first = queues.take(NOW)
    assert first is job
    assert queues.take(NOW) is None
    queues.release(first)
    assert ids(take_all(queues)) == ["b"]


# --- takers -------------------------------------------------------------------------


def test_taker_gets_the_job_that_comes(queues, put, in_thread, wait_for):
    taker = in_thread(queues.take, LONG)
    put("a")
    assert taker.result().id == "a"


def test_taker_gets_the_job_whose_place_becomes_free(queues, put, in_thread):
    put("a")
    put("b")
    first = queues.take(NOW)
    taker = in_thread(queues.take, LONG)
    queues.release(first)
    assert taker.result().id == "b"


def test_taker_leaves_when_no_job_comes(queues):
    assert queues.take(0.01) is None


def test_closed_queues_give_nothing_out(queues, put, in_thread):
    taker = in_thread(queues.take, LONG)
    queues.close()
    assert taker.result() is None
    put("a")
    assert queues.take(LONG) is None
    assert queues.counts() == (1, 0)


def test_waiting_job_can_be_removed_after_the_close(queues, put):
    job = put("a")
    queues.close()
    assert queues.remove(job)


def test_job_is_unattended_if_no_taker_waits_for_it(queues, put, in_thread, wait_for):
    taker = in_thread(queues.take, LONG)
    wait_for(lambda: queues._takers)
    for job_id in "abcd":
        put(job_id, concurrency=3)
    # Four wait, three could be taken, one of them by the taker.
    assert queues.unattended() == 2
    assert taker.result().id == "a"
    assert queues.unattended() == 2


def test_nothing_is_unattended_after_the_close(queues, put):
    put("a")
    queues.close()
    assert queues.unattended() == 0


def test_every_job_is_taken_once_and_limits_hold_under_many_takers(queues, in_thread):
    limits = {"a": 1, "b": 3, "c": 7, None: None}
    out = dict.fromkeys(limits, 0)
    too_many = []
    taken = []

    def work():
        while (job := queues.take(0.3)) is not None:
            key = job.queue.key
            # Counted low: the place is freed after the count.
            out[key] += 1
            if limits[key] is not None and out[key] > limits[key]:
                too_many.append(job)
            taken.append(job.id)
            out[key] -= 1
            queues.release(job)

    workers = [in_thread(work) for _ in range(8)]
    for number in range(2000):
        key = list(limits)[number % len(limits)]
        queues.put(Job(number, number), queues.enter(key, limits[key]))
    for worker in workers:
        worker.result()
    assert sorted(map(int, taken)) == list(range(2000))
    assert not too_many
    assert queues.counts() == (0, 0) and not queues._queues
