"""Metrics, in Prometheus' text format and as JSON, and what status says."""

import contextlib
import errno
import json
import re
import resource
import time

import pytest
from dispatchers import HOST, TOP, Daemon, Dispatcher, host_entry, request
from harp import config, jobid, protocol
from harp.cli.admin.exposition import render
from harp.cli.admin.life import describe
from harp.dispatcher.counters import Counters
from harp.dispatcher.jobs import Jobs
from harp.dispatcher.queues import Queues
from harp.errors import Refusal
from harp.protocol.admin import (
    Metric,
    build_dispatcher_status,
    parse_dispatcher_status,
    parse_metrics,
)
from joblogs import FailingDisk, make_record, open_log

# The grammar of the text format 0.0.4, of what we use of it.
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
HELP = re.compile(rf"# HELP (?P<name>{NAME}) (?P<text>(?:[^\\\n]|\\\\|\\n)*)")
TYPE = re.compile(rf"# TYPE (?P<name>{NAME}) (?P<type>counter|gauge)")
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
NUMBER = r"[-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|NaN|[+-]Inf"
SAMPLE = re.compile(
    rf"(?P<name>{NAME})(?:{{(?P<labels>{LABEL}(?:,{LABEL})*)}})? (?P<value>{NUMBER})"
)
UNITS = ("_seconds", "_bytes", "_total", "_info")


def parse(text):
    """Return the samples by name and labels; fail where it isn't the format."""
    assert text.endswith("\n")
    samples = {}
    name = kind = None
    for line in text[:-1].split("\n"):
        if match := HELP.fullmatch(line):
            assert match["text"]
            name, kind = match["name"], None
            assert not any(key[0] == name for key in samples), f"{name}: twice"
        elif match := TYPE.fullmatch(line):
            assert match["name"] == name and kind is None
            kind = match["type"]
            assert (kind == "counter") == name.endswith("_total")
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match["name"] == name and kind is not None
            labels = re.findall(LABEL, match["labels"] or "")
            key = (name, *labels)
            assert key not in samples, f"{key}: twice"
            samples[key] = float(match["value"])
    return samples


# --- the format ---------------------------------------------------------------------


def test_metrics_are_written_as_the_format_says():
    metrics = [
        Metric("a_total", "counter", "Of a.", [({}, 5)]),
        Metric("b", "gauge", "b\\c\nd", [({"x": "1", "y": "2"}, 0.5), ({"x": "2"}, 0)]),
        Metric("c", "gauge", "None.", []),
    ]
    assert render(metrics) == (
        "# HELP a_total Of a.\n# TYPE a_total counter\na_total 5\n"
        "# HELP b b\\\\c\\nd\n# TYPE b gauge\n"
        'b{x="1",y="2"} 0.5\nb{x="2"} 0\n'
        "# HELP c None.\n# TYPE c gauge\n"
    )


@pytest.mark.parametrize(
    "entry",
    [
        5,
        {},
        {"name": "a", "type": "gauge", "help": "A.", "samples": [5]},
        {"name": "a", "type": "gauge", "help": "A.", "samples": [{"labels": {}}]},
    ],
)
def test_reply_that_holds_no_metrics_is_refused(entry):
    with pytest.raises(Refusal):
        parse_metrics({"metrics": [entry]})


@pytest.mark.parametrize(
    "value", ['a"b', "a\\b", "a\nb", '\\"', "\\n", "é", "a b}", "", '",x="y']
)
def test_label_values_are_escaped(value):
    text = render([Metric("a", "gauge", "A.", [({"x": value}, 1)])])
    [(_, label)] = parse(text)
    written = label.removeprefix('x="').removesuffix('"')
    escapes = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
    unescaped = re.sub(r'\\[\\"n]', lambda match: escapes[match[0]], written)
    assert unescaped == value


@pytest.mark.parametrize("value", [0, 12345678901234567890, 0.1, 1e-9, 1e300, 5.0])
def test_numbers_are_read_back_as_they_are(value):
    read = parse(render([Metric("a", "gauge", "A.", [({}, value)])]))
    assert read == {("a",): float(value)}


# --- counting -----------------------------------------------------------------------


def test_ends_are_counted_by_outcome_and_error():
    counters = Counters()
    counters.count_ended(protocol.End(protocol.RESULT, 1), 3, 100)
    for type in ("timeout", "timeout", "made up by a daemon", "x" * 10_000):
        counters.count_ended(protocol.error_end(type, "", "no"), 0, 10)
    counts = counters.counts()
    assert counts.ended == {"result": 1, "exception": 0, "cancelled": 0, "error": 4}
    # A daemon can't make up as many as it likes.
    assert counts.errors == {"timeout": 2, "other": 2}
    assert (counts.packets, counts.bytes) == (3, 140)


def test_counts_are_exact_from_many_threads(in_thread):
    counters = Counters()

    def count():
        for _ in range(5000):
            counters.count_submitted()
            counters.count_refused("overloaded")

    for thread in [in_thread(count) for _ in range(4)]:
        thread.result()
    assert counters.counts().submitted == 20_000
    assert counters.counts().refused == {"overloaded": 20_000}


# --- a running dispatcher -----------------------------------------------------------


@pytest.fixture
def daemon(server_context, request):
    daemon = Daemon(server_context)
    request.addfinalizer(daemon.stop)
    return daemon


@pytest.fixture
def start(tmp_path, daemon, certificate, request):
    def start(**changes):
        host = host_entry(daemon.address, cert_sha256=certificate.sha256)
        dispatcher = Dispatcher(tmp_path, [host], **changes)
        request.addfinalizer(dispatcher.stop)
        dispatcher.start()
        return dispatcher

    return start


@pytest.fixture
def dispatcher(start):
    return start()


def command(dispatcher, *arguments):
    done = dispatcher.command(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def metrics(dispatcher):
    return parse(command(dispatcher, "metrics"))


def test_dispatcher_at_rest_tells_all_about_itself(dispatcher):
    text = command(dispatcher, "metrics")
    found = parse(text)
    names = {key[0] for key in found}
    assert all(name.startswith("harpcaller_") for name in names)
    for name in re.findall("# TYPE (.+) ", text):
        words = ("second", "byte")
        assert not any(word in name for word in words) or name.endswith(UNITS)
    assert {
        "harpcaller_build_info", "harpcaller_start_time_seconds", "harpcaller_jobs",
        "harpcaller_queues", "harpcaller_longest_wait_seconds",
        "harpcaller_log_free_bytes", "harpcaller_log_reserve_bytes",
        "harpcaller_connections", "harpcaller_hosts", "harpcaller_threads",
        "harpcaller_jobs_submitted_total", "harpcaller_jobs_ended_total",
        "harpcaller_packets_total", "harpcaller_job_bytes_total",
        "harpcaller_jobs_pruned_total",
    } <= names  # fmt: skip
    assert found["harpcaller_hosts",] == 1
    assert found["harpcaller_connections",] == 1
    assert abs(found["harpcaller_start_time_seconds",] - time.time()) < 300
    # What is counted by a label is there before the first one.
    assert found["harpcaller_jobs_ended_total", 'outcome="exception"'] == 0


def test_jobs_are_counted_as_they_come_and_go(dispatcher, daemon, wait_for):
    queue = {"name": {"q": 1}}
    running, waiting = (dispatcher.call("wait", queue=queue) for _ in range(2))
    wait_for(lambda: dispatcher.state(running) == "running")
    found = metrics(dispatcher)
    assert found["harpcaller_jobs", 'state="running"'] == 1
    assert found["harpcaller_jobs", 'state="queued"'] == 1
    assert found["harpcaller_queues",] == 1
    assert found["harpcaller_longest_wait_seconds",] > 0
    dispatcher.cancel(waiting)
    dispatcher.cancel(running)
    dispatcher.result(dispatcher.call("count", 7))
    unknown = dispatcher.call("echo", host="nowhere")
    dispatcher.result(unknown)
    dispatcher.ask({"harpcaller": 1})
    found = metrics(dispatcher)
    assert found["harpcaller_jobs_submitted_total",] == 4
    assert found["harpcaller_jobs_ended_total", 'outcome="cancelled"'] == 2
    assert found["harpcaller_jobs_ended_total", 'outcome="result"'] == 1
    assert found["harpcaller_jobs_ended_total", 'outcome="error"'] == 1
    assert found["harpcaller_job_errors_total", 'type="unknown_host"'] == 1
    assert found["harpcaller_requests_refused_total", 'type="invalid_request"'] == 1
    assert found["harpcaller_packets_total",] == 7
    files = dispatcher.jobs.glob("done/*/*.jsonl")
    assert found["harpcaller_job_bytes_total",] == sum(f.stat().st_size for f in files)
    assert found["harpcaller_longest_wait_seconds",] == 0


def test_longest_wait_goes_by_our_clock_and_not_by_the_clients(dispatcher, daemon):
    queue = {"name": {"q": 1}}
    for _ in range(2):
        yesterday = jobid.make(int((time.time() - 80_000) * 1000))
        dispatcher.call("wait", queue=queue, job_id=yesterday)
    assert metrics(dispatcher)["harpcaller_longest_wait_seconds",] < 1000


def test_metrics_as_json_are_a_line_for_each_sample(dispatcher):
    lines = command(dispatcher, "metrics", "--json").splitlines()
    samples = [json.loads(line) for line in lines]
    keys = ("name", "type", "labels", "value")
    assert {tuple(sample) for sample in samples} == {keys}
    states = [s["labels"] for s in samples if s["name"] == "harpcaller_jobs"]
    assert states == [{"state": "queued"}, {"state": "running"}]


def test_clients_get_no_metrics(dispatcher):
    reply = dispatcher.ask(request("metrics", True))
    assert reply["error"]["type"] == "invalid_request"


# --- what is degraded ---------------------------------------------------------------


def test_dispatcher_that_is_well_says_so(dispatcher):
    status = dispatcher.admin("status")
    assert status["degraded"] == []
    assert status["free"] > status["reserve"] == 64 << 20
    assert not any(key[0] == "harpcaller_degraded" for key in metrics(dispatcher))


def test_whatever_can_be_degraded_is_documented():
    code = (TOP / "lib/harp/dispatcher/health.py").read_text(encoding="utf-8")
    text = (TOP / "doc/protocol.rst").read_text(encoding="utf-8")
    kinds = set(re.findall(r'Degraded\(\s*"(\w+)"', code))
    assert len(kinds) > 5
    table = text.partition("\nmetrics\n")[0].rpartition("what    ")[2]
    assert kinds == set(re.findall(r"^``(\w+)``", table, re.MULTILINE))


def test_disk_without_room_is_told(start):
    dispatcher = start(limits={"reserve": 1 << 60})
    [entry] = dispatcher.admin("status")["degraded"]
    assert (entry["what"], entry["since"]) == ("no_room", None)
    dispatcher.ask(request(host=HOST, procedure="echo", arguments=[]))
    [entry] = dispatcher.admin("status")["degraded"]
    assert abs(entry["since"] - time.time()) < 300
    assert "limits.reserve" in entry["text"]
    found = metrics(dispatcher)
    assert found["harpcaller_degraded", 'what="no_room"'] == 1
    assert found["harpcaller_requests_refused_total", 'type="storage_error"'] == 1


def test_lack_of_descriptors_is_told(dispatcher, wait_for):
    hard = resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE)[1]
    with contextlib.ExitStack() as stack:
        admin = stack.enter_context(dispatcher.connect_unix("control"))
        assert admin.ask(request("status", True))["degraded"] == []
        # Those that are open stay, and no more can be had.
        resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE, (3, hard))
        stack.enter_context(dispatcher.connect())
        [entry] = wait_for(lambda: admin.ask(request("status", True))["degraded"])
        assert entry["what"] == "resources"
        assert abs(entry["since"] - time.time()) < 300
        resource.prlimit(dispatcher.pid, resource.RLIMIT_NOFILE, (hard, hard))


def test_log_says_since_when_calls_are_refused(tmp_path):
    disk = FailingDisk()
    log = open_log(tmp_path / "jobs", disk)
    try:
        log.create(make_record())
        assert log.refusing_since is None
        disk.fail("sync", errno.EIO)
        for _ in range(2):
            with pytest.raises(Exception, match="Input/output"):
                log.create(make_record())
        since = log.refusing_since
        assert abs(since - time.time()) < 300
        disk.mend()
        log.create(make_record())
        assert log.refusing_since is None
    finally:
        log.close()


def test_status_reads_well():
    status = {
        "version": "1.0",
        "pid": 12,
        "since": 1795456800,
        "queued": 3,
        "running": 2,
        "queues": 1,
        "connections": 5,
        "hosts": 7,
        "free": 5 * 2**30 // 2,
        "reserve": 64 << 20,
        "stopping": True,
        "draining": False,
        "degraded": [
            {"what": "a", "since": 1795456800, "text": "it is bad"},
            {"what": "b", "since": None, "text": "worse"},
        ],
    }
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1795456800))
    found = parse_dispatcher_status(status)
    assert list(describe(found)) == [
        f"harpcallerd 1.0, process 12, running since {when}",
        "2 jobs running, 3 queued, 1 queues, 7 hosts, 5 connections",
        "2.5 GiB free for the job log, 64.0 MiB kept in reserve",
        "stopping",
        f"degraded since {when}: it is bad",
        "degraded: worse",
    ]
    assert build_dispatcher_status(found) == status
    draining = found._replace(stopping=False, draining=True, free=None)
    assert list(describe(draining))[2].startswith("draining: ")


def test_ends_that_can_not_be_stored_are_told(tmp_path, wait_for):
    disk = FailingDisk()
    log = open_log(tmp_path / "jobs", disk)
    end = protocol.End(protocol.RESULT, 1)
    queues = Queues()
    jobs = Jobs(config.DispatcherConfig(), log, queues, lambda *_: end)
    jobs.recover()
    try:
        assert jobs.unstored() == (0, None)
        disk.fail("write", errno.ENOSPC, after=1)
        jobs.submit(protocol.Call(HOST, "echo", []), None)
        wait_for(lambda: jobs.unstored()[0], 30)
        count, since = jobs.unstored()
        assert count == 1 and abs(since - time.time()) < 300
        disk.mend()
        wait_for(lambda: jobs.unstored() == (0, None), 30)
    finally:
        disk.mend()
        assert jobs.stop(time.monotonic() + 30) == []
        log.close()
