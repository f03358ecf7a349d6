"""The actions of harpcallerd on jobs and queues, as a process of its own."""

import json
import subprocess
import time

import pytest
from dispatchers import HARPCALLERD, HOST, Daemon, Dispatcher, host_entry, request
from harp import jobid
from harp.cli.times import parse_time
from terminals import run_on_terminal

QUEUE = {"deploy": 1}
QUEUE_TEXT = json.dumps(QUEUE)


@pytest.fixture(scope="module")
def running(tmp_path_factory, server_context, certificate):
    daemon = Daemon(server_context)
    entry = host_entry(daemon.address, cert_sha256=certificate.sha256)
    dispatcher = Dispatcher(tmp_path_factory.mktemp("dispatcher"), [entry])
    dispatcher.start()
    yield dispatcher, daemon
    dispatcher.stop()
    daemon.stop()


@pytest.fixture
def dispatcher(running, wait_for):
    dispatcher, daemon = running
    daemon.reset()
    yield dispatcher
    daemon.released.set()
    dispatcher.cancel_all()
    wait_for(lambda: not daemon.serving)


@pytest.fixture
def command(running):
    """The command's beginning."""
    return [*HARPCALLERD, "-c", str(running[0].config_file)]


@pytest.fixture
def run(command):
    """``run(*arguments)`` runs an action and returns the values that it printed."""

    def run(*arguments, status=0):
        process = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=60
        )
        assert process.returncode == status, process.stderr
        assert "Traceback" not in process.stderr
        run.said = process.stderr
        return [json.loads(line) for line in process.stdout.splitlines()]

    return run


@pytest.fixture
def shown(command):
    """``shown(*arguments)`` runs an action on a terminal and returns the lines."""

    def shown(*arguments):
        return run_on_terminal([*command, *arguments], columns=150).splitlines()

    return shown


@pytest.fixture
def queue(dispatcher, wait_for):
    """The ids of a queue's jobs: the first runs, the others wait."""
    queue = {"name": QUEUE, "concurrency": 1}
    job_ids = [dispatcher.call("wait", queue=queue)]
    wait_for(lambda: dispatcher.state(job_ids[0]) == "running")
    return job_ids + [dispatcher.call("echo", queue=queue) for _ in range(3)]


def ids_of(jobs):
    return [job["job_id"] for job in jobs]


# --- list ---------------------------------------------------------------------------


def test_list_has_running_jobs_then_waiting_ones(dispatcher, queue, run):
    dispatcher.result(dispatcher.call("echo"))
    listed = ids_of(run("list"))
    assert listed[0] == queue[0]
    assert sorted(listed) == sorted(queue)


@pytest.mark.parametrize(
    "options, procedures",
    [
        (["--all"], {"wait", "echo"}),
        (["--state", "done"], {"echo"}),
        (["--outcome", "result"], {"echo"}),
        (["--outcome", "error"], set()),
        (["--state", "running"], {"wait"}),
        (["--all", "--procedure", "wait"], {"wait"}),
        (["--queue", QUEUE_TEXT], {"wait", "echo"}),
        (["--queue", "{}"], set()),
        (["--all", "--host", "nowhere"], set()),
        (["--group", "none"], set()),
        (["--from", "1h"], {"wait", "echo"}),
        (["--to", "1h"], set()),
        (["--all", "--to", "2000-01-01"], set()),
        (["--limit", "1"], {"wait"}),
    ],
)
def test_list_takes_filters(dispatcher, queue, run, options, procedures):
    ended = dispatcher.call("echo")
    dispatcher.result(ended)
    # Those of other tests are listed, too.
    ours = [job for job in run("list", *options) if job["job_id"] in [*queue, ended]]
    assert {job["call"]["procedure"] for job in ours} == procedures


def test_list_is_a_table_on_a_terminal(dispatcher, queue, shown):
    titles, first, *rest = shown("list")
    assert titles.split() == [
        *("JOB", "STATE", "HOST", "PROCEDURE", "SUBMITTED", "TOOK", "BY", "QUEUE")
    ]
    assert first.split()[:4] == [queue[0], "running", HOST, "wait"]
    assert len(rest) == 3
    assert [json.loads(line) for line in shown("list", "--json")]


@pytest.mark.parametrize(
    "options, text",
    [
        (["--queue", "[1]"], "is no JSON object"),
        (["--from", "yesterday"], "is no time like"),
        (["--limit", "0"], "no positive integer"),
        (["--state", "asleep"], "invalid choice"),
    ],
)
def test_wrong_filter_is_refused_on_one_line(dispatcher, run, options, text):
    assert run("list", *options, status=2) == []
    assert text in run.said.splitlines()[-1]


# --- info, why, cancel --------------------------------------------------------------


def test_info_tells_all_that_is_known(dispatcher, queue, run, shown):
    assert run("info", queue[0]) == [dispatcher.status(queue[0])]
    text = "\n".join(shown("info", queue[0]))
    for word in (queue[0], "running", HOST, "wait", '{"deploy":1}'):
        assert word in text


def test_secret_arguments_are_masked(dispatcher, run, shown):
    arguments = {"user": "alice", "password": "hunter2"}
    message = request(
        host=HOST, procedure="echo", arguments=arguments, secret=["password"]
    )
    job_id = dispatcher.ask(message)["job_id"]
    assert dispatcher.result(job_id) == {"result": arguments}
    [status] = run("info", job_id)
    assert status["call"]["arguments"] == {"user": "alice", "password": "***"}
    assert status["call"]["secret"] == ["password"]
    assert "hunter2" not in str(run("list", "--all")) + "".join(shown("info", job_id))


def test_why_is_sentences_for_people(dispatcher, queue, run, shown):
    text = "\n".join(shown("why", queue[2]))
    assert "as number 2" in text and queue[0] in text
    [found] = run("why", queue[2])
    assert (found["position"], found["reason"]) == (2, "queue")


@pytest.mark.parametrize("action", ["info", "why"])
def test_unknown_job_is_told_on_one_line(dispatcher, run, action):
    run(action, jobid.make(), status=4)
    assert run.said.count("\n") == 1 and "there is no job" in run.said


def test_cancel_takes_several_jobs_and_says_which_had_none(dispatcher, queue, run):
    unknown = jobid.make()
    run("cancel", queue[1], unknown, queue[2], status=4)
    assert run.said == f"harpcallerd: {unknown}: nothing to cancel\n"
    assert dispatcher.result(queue[2]) == {"cancelled": True}


# --- queues -------------------------------------------------------------------------


def test_queues_are_listed(dispatcher, queue, run, shown):
    [found] = run("queue-list")
    assert found["name"] == QUEUE
    assert (found["running"], found["waiting"]) == (1, 3)
    titles, line = shown("queue-list")
    assert line.split() == ['{"deploy":1}', "1", "1", "3", queue[1]]


def test_jobs_of_a_queue_are_listed_in_the_order_in_which_they_start(
    dispatcher, queue, run, shown
):
    # By its id it would be the first; what counts is the submission.
    early = jobid.make(int((time.time() - 3600) * 1000))
    queue.append(
        dispatcher.call("echo", job_id=early, queue={"name": QUEUE, "concurrency": 1})
    )
    assert ids_of(run("queue-list", QUEUE_TEXT)) == queue
    assert [line.split()[0] for line in shown("queue-list", QUEUE_TEXT)][1:] == queue
    assert run("queue-list", "{}") == []


def test_queue_is_cancelled_and_none_of_it_starts(dispatcher, running, queue, run):
    other = dispatcher.call("wait", queue={"name": {}, "concurrency": 1})
    assert run("queue-cancel", QUEUE_TEXT) == [{"waiting": 3, "running": 1}]
    assert all(dispatcher.result(one) == {"cancelled": True} for one in queue)
    assert running[1].called("echo") == 0
    assert dispatcher.state(other) != "done"
    assert run("queue-cancel", QUEUE_TEXT) == [{"waiting": 0, "running": 0}]


def test_cancelled_queue_says_how_many_to_people(dispatcher, queue, shown):
    said = shown("queue-cancel", QUEUE_TEXT)
    assert said == ["cancelled 3 jobs that waited and 1 that ran"]


def test_what_is_submitted_after_a_queue_is_cancelled_runs(dispatcher, queue, run):
    run("queue-cancel", QUEUE_TEXT)
    job_id = dispatcher.call("echo", 1, queue={"name": QUEUE, "concurrency": 1})
    assert dispatcher.result(job_id) == {"result": [1]}


# --- times --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, is_end, expected",
    [
        ("1970-01-02T00:00Z", False, 86400),
        ("1970-01-01T01:00:00+01:00", True, 0),
        ("1970-01-02", False, 86400 + 3600),
        ("1970-01-02", True, 2 * 86400 + 3600 - 1),
        ("1970-01-01T00:00", False, 3600),
    ],
)
def test_times_are_local_unless_they_say_otherwise(
    monkeypatch, text, is_end, expected
):
    monkeypatch.setenv("TZ", "XYZ1")  # an hour behind UTC
    time.tzset()
    try:
        assert parse_time(text, is_end) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


def test_time_may_be_how_long_ago_it_is():
    before = time.time()
    found = parse_time("2h")
    assert before - 7200 <= found <= time.time() - 7200


@pytest.mark.parametrize("text", ["", "x", "2 fortnights", "2026-13-01", "9" * 50])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="no time like"):
        parse_time(text)
