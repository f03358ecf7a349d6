"""Jobs listed by filters from a log with many that have ended."""

import time

import pytest
from dispatchers import Dispatcher, request
from harp import jobid, protocol, wire
from harp.config import DispatcherConfig
from harp.dispatcher import listing
from harp.dispatcher.jobs import Jobs
from harp.dispatcher.listing import list_jobs, list_queues
from harp.dispatcher.queues import Queues, QueueState
from joblogs import open_log, write_done_jobs

HOUR = 3600
COUNT = 400  # an hour apart: more than two weeks of jobs


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A dispatcher with jobs that have ended, and their ids, newest first."""
    dispatcher = Dispatcher(tmp_path_factory.mktemp("dispatcher"))
    now = time.time()
    ids = write_done_jobs(
        dispatcher.jobs,
        [now - number * HOUR for number in range(COUNT)],
        host=lambda number: f"web{number % 4}",
        group=lambda number: f"group {number // 10}",
        arguments={"password": "hunter2", "user": "alice"},
        secret=("password",),
    )
    dispatcher.start()
    yield dispatcher, ids, now
    dispatcher.stop()


@pytest.fixture
def ids(running):
    return running[1]


@pytest.fixture
def pages(running):
    """``pages(**filters)`` returns the replies to list_jobs until there are no more."""

    def ask(**filters):
        found = []
        while not found or filters["before"] is not None:
            reply = running[0].ask(request("list_jobs", filters))
            found.append(reply["jobs"])
            filters["before"] = reply["next"]
            if reply["next"] is None:
                return found

    return ask


@pytest.fixture
def listed(pages):
    """``listed(**filters)`` returns the ids of all of them."""

    def ask(**filters):
        return [job["job_id"] for page in pages(**filters) for job in page]

    return ask


def test_all_jobs_are_listed_once_newest_first(ids, listed):
    assert listed(limit=7) == ids


def test_filters_find_what_was_submitted(ids, listed):
    assert listed(group="group 39") == ids[390:]
    assert listed(host="web3", group="group 0") == [ids[3], ids[7]]
    # As it stands in the file, but as something else.
    assert listed(group="web3") == listed(host="alice") == []


def test_times_of_submission_are_exact(running, ids, listed):
    _, _, now = running
    begin, end = now - 100.5 * HOUR, now - 90.5 * HOUR
    assert listed(**{"from": begin, "to": end}) == ids[91:101]
    assert listed(to=now - 395.5 * HOUR) == ids[396:]
    assert listed(**{"from": now + HOUR}) == []
    assert listed(**{"from": 10**300}) == listed(to=-5) == []


def test_client_whose_clock_is_off_is_found_by_the_time_of_submission(running, listed):
    dispatcher, _, now = running
    job_id = jobid.make(int((time.time() - 20 * HOUR) * 1000))
    dispatcher.call(job_id=job_id)
    dispatcher.result(job_id)
    assert job_id in listed(**{"from": now - 1})
    assert job_id not in listed(to=now - 2)


def test_only_hours_that_can_hold_a_job_are_looked_into(running, ids, listed):
    dispatcher, _, now = running
    # One that nobody can look into, not even root.
    hour = time.strftime("%Y-%m-%dT%H", time.gmtime(now - 1000 * HOUR))
    far = dispatcher.jobs / "done" / hour
    far.symlink_to(far)
    try:
        reply = dispatcher.ask(request("list_jobs", {"group": "none"}))
        assert reply["error"]["type"] == "storage_error"
        assert listed(**{"from": now - 2.5 * HOUR, "group": "group 0"}) == ids[:3]
        assert listed(state="queued") == []
    finally:
        far.unlink()


def test_group_with_a_time_in_its_name_is_not_looked_for_before_it(running, listed):
    dispatcher, _, _ = running
    group = jobid.make()
    job_id = dispatcher.call(group=group)
    dispatcher.result(job_id)
    assert listed(group=group) == [job_id]


def test_secret_arguments_are_masked_in_listings(pages):
    [page] = pages(group="group 5")
    for status in page:
        assert status["call"]["arguments"] == {"password": "***", "user": "alice"}
        assert status["call"]["secret"] == ["password"]


def test_name_in_the_configuration_masks_an_argument_of_all_calls(tmp_path):
    dispatcher = Dispatcher(tmp_path / "dispatcher", secret_arguments=["token"])
    dispatcher.start()
    try:
        arguments = {"token": "x", "user": "alice"}
        message = request(host="web01", procedure="echo", arguments=arguments)
        job_id = dispatcher.ask(message)["job_id"]
        call = dispatcher.status(job_id)["call"]
        [listed] = dispatcher.ask(request("list_jobs", {}))["jobs"]
    finally:
        dispatcher.stop()
    assert call == listed["call"]
    assert call["arguments"] == {"token": "***", "user": "alice"}


def test_directory_that_is_no_hour_is_passed_over(running, ids, listed):
    dispatcher, _, _ = running
    (dispatcher.jobs / "done" / "lost+found").mkdir()
    assert set(ids) <= set(listed(limit=1000))


def test_place_where_a_list_goes_on_names_no_job_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "_SECONDS", 0)  # it looks at one job at a time
    log = open_log(tmp_path / "jobs")
    now = time.time()
    times = [now - number // 2 for number in range(20)]
    ids = write_done_jobs(
        tmp_path / "jobs", times, host=lambda number: f"web{number % 3}"
    )
    jobs = Jobs(DispatcherConfig(), log, Queues(), None)
    found, filters, places = [], {}, []
    while not places or places[-1] is not None:
        page = list_jobs(
            jobs,
            protocol.ListJobs(filters),
            may_see=lambda record: record.call.host == "web0",
        )
        found += [job["job_id"] for job in page["jobs"]]
        places.append(page["next"])
        filters = {"before": page["next"]}
    log.close()
    assert found == sorted(ids[::3], reverse=True)
    assert len(places) == len(ids) and not {*places} & {*ids}


# --- queues -------------------------------------------------------------------------


def test_queues_are_listed_in_parts_of_bounded_size():
    long = "x" * 500_000
    names = [{"queue": f"{number:02}", "text": long} for number in range(20)]
    keys = [protocol.canonical(name) for name in names]
    states = [QueueState(key, 1, 0, 1, None) for key in reversed(keys)]
    found, after, parts = [], None, 0
    while parts == 0 or after is not None:
        reply = list_queues(
            states,
            protocol.ListQueues(after),
            lambda key: key != keys[3],
            lambda job_id: True,
        )
        assert len(wire.encode(reply)) < 6 * 1024 * 1024
        entries, after = protocol.parse_queue_list(reply)
        found += [entry["name"] for entry in entries]
        parts += 1
    assert found == names[:3] + names[4:] and parts == 3
