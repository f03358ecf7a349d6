"""Jobs on a disk that fails, and what happens between two threads: with the real log,
queues and caller in this process."""

import errno
import threading
import time

import pytest
from dispatchers import (
    ACKNOWLEDGED_STREAM,
    HOST,
    host_entry,
    send,
    to_line,
)
from harp import config, jobid, protocol, wire
from harp.dispatcher import jobs as jobs_module
from harp.dispatcher.call import Caller
from harp.dispatcher.connecting import Connector
from harp.dispatcher.explain import Explaining
from harp.dispatcher.hosts import Hosts
from harp.dispatcher.jobs import Jobs
from harp.dispatcher.queues import Queues
from harp.dispatcher.reading import Reading
from harp.dispatcher.resolver import Resolver
from harp.dispatcher.trust import Trust
from harp.errors import Refusal
from joblogs import START, FailingDisk, make_record, open_log

QUEUE = protocol.Queue({"q": 1}, 1)


class BlockingDisk(FailingDisk):
    """A disk on which a sync can be made to take its time.

    :ivar blocked: set when one has begun
    """

    def __init__(self):
        super().__init__()
        self.blocked = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def sync(self, fd):
        if not self.go_on.is_set():
            self.blocked.set()
            self.go_on.wait(30)
        super().sync(fd)


class System:
    """All of a dispatcher but its clients.

    :param call: what runs a job; None: the real one
    """

    def __init__(self, directory, settings, call=None, disk=None):
        self.disk = disk or BlockingDisk()
        self.log = open_log(directory, self.disk)
        self.queues = Queues()
        self.hosts = Hosts(settings)
        self.hosts.start()
        connector = Connector(settings, self.hosts, Trust(settings), Resolver())
        caller = Caller(settings, connector)
        self.jobs = Jobs(settings, self.log, self.queues, call or caller.run)
        self.waiting = self.jobs.recover()

    def stop(self):
        self.disk.go_on.set()
        assert self.jobs.stop(time.monotonic() + 30) == []
        self.hosts.stop()
        self.log.close()

    def submit(self, procedure="echo", *arguments, by=None, **keys):
        call = protocol.Call(HOST, procedure, list(arguments), **keys)
        return self.jobs.submit(call, by)

    def reading(self, job_id):
        job, reader = self.jobs.open(job_id)
        with reader:
            reading = Reading(job, reader)
            return reading.status(), reading.extent()

    def state(self, job_id):
        return self.reading(job_id)[0]["state"]

    def end(self, job_id):
        """The end of a job, None if it hasn't ended."""
        job, reader = self.jobs.open(job_id)
        with reader:
            extent = Reading(job, reader).extent()
            if extent.trailer is None:
                return None
            line = reader.read(extent.until, extent.trailer_offset)
        return protocol.parse_reply_end(wire.decode(line))

    def packets(self, job_id):
        job, reader = self.jobs.open(job_id)
        with reader:
            extent = Reading(job, reader).extent()
            lines = reader.read(extent.begin, extent.until).splitlines()
        return [wire.decode(line)["data"] for line in lines]


class Script:
    """Runs jobs as the test says: each waits until it is let go."""

    def __init__(self):
        self.released = threading.Event()
        self.end = protocol.End(protocol.RESULT, "done")
        self.called = []

    def __call__(self, job, record, writer, waker):
        self.called.append(record.call.procedure)
        self.released.wait(30)
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(jobs_module, "_RETRY_SECONDS", 0.01)


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def make_system(tmp_path, request):
    def make(call=None, **settings):
        checked = config.check(settings, config.DispatcherConfig, "test")
        system = System(tmp_path / "jobs", checked, call)
        request.addfinalizer(system.stop)
        return system

    return make


@pytest.fixture
def system(make_system, script, request):
    system = make_system(script)
    request.addfinalizer(script.released.set)
    return system


@pytest.fixture
def real(make_system, daemon, certificate, tmp_path):
    """``real(**settings)``: a system that calls a scripted daemon."""

    def make(**settings):
        entry = host_entry(daemon.address, cert_sha256=certificate.sha256)
        (tmp_path / "hosts").write_bytes(to_line(entry))
        return make_system(hosts={"file": str(tmp_path / "hosts")}, **settings)

    return make


def active(tmp_path):
    return sorted(path.name for path in (tmp_path / "jobs" / "active").iterdir())


def refusal(function, *arguments, **keys):
    with pytest.raises(Refusal) as caught:
        function(*arguments, **keys)
    return caught.value.type


# --- submitting ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation", ["free", "create", "write", "sync", "rename", "sync_directory"]
)
@pytest.mark.parametrize("queue", [None, QUEUE])
def test_call_that_can_not_be_stored_is_refused_and_forgotten(
    system, script, tmp_path, operation, queue
):
    system.disk.fail(operation, errno.ENOSPC)
    job_id = jobid.make()
    assert refusal(system.submit, job_id=job_id, queue=queue) == "storage_error"
    assert active(tmp_path) == []
    assert refusal(system.jobs.open, job_id) == "invalid_jobid"
    assert system.queues.states() == [] and system.queues.counts() == (0, 0)
    system.disk.mend()
    # The same id can be tried again.
    assert system.submit(job_id=job_id, queue=queue) == job_id
    assert system.queues.enter("other", 7).concurrency == 7


def test_refused_call_whose_file_stays_is_no_job(system, script, tmp_path, wait_for):
    script.released.set()
    system.disk.fail("sync_directory")
    system.disk.fail("remove")
    left, again = jobid.make(), jobid.make()
    for job_id in (left, again):
        assert refusal(system.submit, job_id=job_id) == "storage_error"
        assert refusal(system.jobs.open, job_id) == "invalid_jobid"
        assert system.jobs.request_cancel(job_id) is False
    assert active(tmp_path) == sorted(f"{job_id}.jsonl" for job_id in (left, again))
    system.disk.mend()
    # Under its id another call may come: nobody was told that the first was taken.
    assert system.submit("other", job_id=again) == again
    wait_for(lambda: system.end(again))
    assert script.called == ["other"]
    system.jobs.stop(time.monotonic() + 10)
    system.log.close()
    # Nor does the next start run it.
    wait_for(lambda: active(tmp_path) == [])


def test_storage_that_failed_is_found_mended_without_a_call(system, tmp_path):
    system.disk.fail("sync", errno.EIO)
    assert refusal(system.submit) == "storage_error"
    system.log.look_again()
    assert system.log.refusing_since is not None
    system.disk.mend()
    system.log.look_again()
    assert system.log.refusing_since is None and active(tmp_path) == []


def test_repeated_call_waits_for_the_sync_of_the_first(
    system, in_thread, wait_for, script
):
    system.disk.go_on.clear()
    job_id = jobid.make()
    submitting = [in_thread(lambda: system.submit(job_id=job_id)) for _ in range(3)]
    assert system.disk.blocked.wait(10)
    assert all(one.is_running for one in submitting)
    system.disk.go_on.set()
    assert [one.result() for one in submitting] == [job_id] * 3
    script.released.set()
    wait_for(lambda: system.end(job_id))
    assert script.called == ["echo"]


def test_repeated_call_is_stored_if_the_first_could_not_be(system, in_thread, script):
    system.disk.go_on.clear()
    system.disk.fail("sync", times=1)
    job_id = jobid.make()

    def submit():
        try:
            return system.submit(job_id=job_id)
        except Refusal as error:
            return error.type

    first = in_thread(submit)
    assert system.disk.blocked.wait(10)
    second = in_thread(submit)
    system.disk.go_on.set()
    assert first.result() == "storage_error"
    assert second.result() == job_id


def test_job_that_is_being_stored_is_waited_for(system, in_thread, wait_for, script):
    system.disk.go_on.clear()
    job_id = jobid.make()
    submitting = in_thread(lambda: system.submit(job_id=job_id))
    assert system.disk.blocked.wait(10)
    opening = in_thread(system.state, job_id)
    cancelling = in_thread(system.jobs.request_cancel, job_id)
    assert opening.is_running and cancelling.is_running
    system.disk.go_on.set()
    submitting.result()
    assert opening.result() in ("queued", "running", "done")
    assert cancelling.result() is not False


def test_queue_order_is_that_of_submission_whoever_is_stored_first(
    system, in_thread, wait_for, script
):
    holding = system.submit("hold", queue=QUEUE)
    wait_for(lambda: script.called)
    system.disk.go_on.clear()
    first = in_thread(lambda: system.submit("first", queue=QUEUE))
    assert system.disk.blocked.wait(10)
    # Stored before the first is.
    system.disk.go_on, blocked = threading.Event(), system.disk.go_on
    system.disk.go_on.set()
    second = system.submit("second", queue=QUEUE)
    blocked.set()
    first.result()
    script.released.set()
    wait_for(lambda: system.end(second))
    assert script.called == ["hold", "first", "second"]
    assert system.end(holding)


def test_call_during_the_stop_is_refused(system, script):
    script.released.set()
    system.jobs.stop(time.monotonic() + 10)
    assert refusal(system.submit) == "shutdown"


# --- running ------------------------------------------------------------------------


def test_job_whose_file_can_not_be_opened_waits_until_it_can(
    system, script, wait_for, caplog
):
    script.released.set()
    system.disk.fail("open", errno.EMFILE)
    job_id = system.submit()
    wait_for(lambda: "can't be opened for now" in caplog.text)
    assert script.called == [] and "can't be stored" not in caplog.text
    job = system.jobs.request_cancel(job_id)
    assert job.unstored
    system.disk.mend()
    wait_for(lambda: system.end(job_id))
    assert script.called == ["echo"] and not job.unstored


def test_ends_that_can_not_be_stored_at_the_start_take_one_thread(
    script, tmp_path, wait_for, request
):
    open_log(tmp_path / "jobs").close()
    ids = [jobid.make() for _ in range(20)]
    for job_id in ids:
        path = tmp_path / "jobs" / "active" / f"{job_id}.jsonl"
        path.write_bytes(make_record(job_id).encode() + START.encode())
    before = threading.active_count()
    disk = BlockingDisk()
    disk.fail("write", errno.ENOSPC)
    settings = config.check({}, config.DispatcherConfig, "test")
    system = System(tmp_path / "jobs", settings, script, disk)
    request.addfinalizer(system.stop)
    assert threading.active_count() < before + len(ids)
    wait_for(lambda: system.jobs.unstored()[0] == len(ids))
    assert all(system.state(job_id) == "running" for job_id in ids)
    disk.mend()
    for job_id in ids:
        wait_for(lambda: system.end(job_id))
    assert system.jobs.unstored() == (0, None)
    wait_for(lambda: active(tmp_path) == [])


# What can fail while something is stored in a job's file, and how often. After a sync
# that failed, only a synced copy in the file's place is trusted.
FAULTS = {
    "no room": {"write": 10**9},
    "sync": {"sync": 10**9},
    "sync, then no copy": {"sync": 1, "create": 10**9},
    "sync, then the copy keeps its name": {"sync": 1, "rename": 10**9},
    "sync, then that of the directory": {"sync": 1, "sync_directory": 10**9},
}


def break_disk(disk, fault):
    for operation, times in FAULTS[fault].items():
        code = errno.ENOSPC if operation == "write" else errno.EIO
        disk.fail(operation, code, times=times)


@pytest.mark.parametrize("fault", FAULTS)
def test_end_that_can_not_be_stored_is_kept_until_it_can(
    system, script, wait_for, caplog, tmp_path, fault
):
    job_id = system.submit()
    wait_for(lambda: script.called)
    break_disk(system.disk, fault)
    script.released.set()
    wait_for(lambda: system.jobs.active(job_id).unstored)
    assert system.end(job_id) is None
    assert system.state(job_id) == "running"
    system.disk.mend()
    assert wait_for(lambda: system.end(job_id)) == script.end
    assert caplog.text.count("can't be stored for now") == 1
    wait_for(lambda: active(tmp_path) == [])


def test_fault_of_ours_ends_the_job_and_is_logged(system, script, wait_for, caplog):
    script.end = ZeroDivisionError("a fault")
    script.released.set()
    job_id = system.submit()
    end = wait_for(lambda: system.end(job_id))
    assert (end.value["type"], end.value["ran"]) == ("os_error", "maybe")
    assert "ZeroDivisionError" in caplog.text


def test_record_that_can_not_be_read_any_more_ends_the_job(
    system, script, tmp_path, wait_for
):
    system.submit("hold", queue=QUEUE)
    wait_for(lambda: script.called)
    # That of a small one is still in memory.
    job_id = system.submit("large", "x" * 10_000, queue=QUEUE)
    path = tmp_path / "jobs" / "active" / f"{job_id}.jsonl"
    path.write_bytes(b"x" * (path.stat().st_size - 1) + b"\n")
    script.released.set()
    end = wait_for(lambda: system.end(job_id))
    assert (end.value["type"], end.value["ran"]) == ("storage_error", "no")


def test_job_that_goes_back_to_its_queue_is_as_if_it_had_not_run(
    make_system, script, tmp_path, wait_for
):
    system = make_system(script)
    job_id = system.submit(queue=QUEUE)
    wait_for(lambda: script.called)
    before = (tmp_path / "jobs" / "active" / f"{job_id}.jsonl").read_bytes()
    script.end = None
    threading.Timer(0.05, script.released.set).start()
    assert system.jobs.stop(time.monotonic() + 10) == []
    system.log.close()
    assert active(tmp_path) == [f"{job_id}.jsonl"]
    after = (tmp_path / "jobs" / "active" / f"{job_id}.jsonl").read_bytes()
    assert after == before
    script.end = protocol.End(protocol.RESULT, 1)
    again = make_system(script)
    assert again.waiting == 1
    assert wait_for(lambda: again.end(job_id)) == script.end


# --- cancelling ---------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_cancel_that_can_not_be_stored_is_refused_and_the_job_goes_on(
    system, script, wait_for, fault
):
    system.submit("hold", queue=QUEUE)
    wait_for(lambda: script.called)
    first, second = system.submit("1", queue=QUEUE), system.submit("2", queue=QUEUE)
    break_disk(system.disk, fault)
    assert refusal(system.jobs.request_cancel, first) == "storage_error"
    assert system.state(first) == "queued"
    system.disk.mend()
    script.released.set()
    wait_for(lambda: system.end(second))
    assert script.called == ["hold", "1", "2"]
    assert system.end(first) == script.end


def test_queue_whose_cancel_can_not_be_stored_midway_goes_on(
    system, script, wait_for
):
    holder = system.submit("hold", queue=QUEUE)
    wait_for(lambda: script.called)
    waiting = [system.submit(f"n{n}", queue=QUEUE) for n in range(5)]
    system.disk.fail("write", errno.ENOSPC, after=2)
    with pytest.raises(Refusal, match="2 of 5 jobs are cancelled") as caught:
        system.jobs.cancel_queue(protocol.canonical(QUEUE.name))
    assert caught.value.type == "storage_error"
    system.disk.mend()
    outcomes = [system.reading(job_id)[0]["outcome"] for job_id in waiting]
    assert outcomes == ["cancelled", "cancelled", None, None, None]
    # The one that runs was not told: what holds the queue goes on, too.
    script.released.set()
    wait_for(lambda: system.end(waiting[-1]))
    assert system.end(holder).outcome == "result"
    assert script.called == ["hold", "n2", "n3", "n4"]


def test_queue_is_not_cancelled_during_the_stop(system, script, wait_for, tmp_path):
    system.submit("hold", queue=QUEUE)
    wait_for(lambda: script.called)
    waiting = [system.submit(queue=QUEUE) for _ in range(3)]
    script.released.set()
    system.jobs.stop(time.monotonic() + 10)
    with pytest.raises(Refusal, match="0 of 3 .* stopping"):
        system.jobs.cancel_queue(protocol.canonical(QUEUE.name))
    assert active(tmp_path) == sorted(f"{job_id}.jsonl" for job_id in waiting)
    assert system.queues.counts() == (3, 0)


def test_job_waits_for_a_thread_only_as_long_as_none_can_be_started(
    system, script, monkeypatch, wait_for
):
    explaining = Explaining(system.jobs, system.queues, lambda: 1000)

    def why(job_id):
        job, reader = system.jobs.open(job_id)
        with reader:
            said = explaining.explain(job, reader, lambda record: True)
        return said["explain"].get("reason")

    holder = system.submit("hold")
    wait_for(lambda: script.called)
    with monkeypatch.context() as patch:

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        job_id = system.submit("wait")
        assert why(job_id) == "threads"
        assert system.jobs.threads_refused_since() is not None
    # Nobody submits anything: who asks for the state has it tried again.
    wait_for(lambda: system.jobs.threads_refused_since() is None)
    wait_for(lambda: script.called == ["hold", "wait"])
    script.released.set()
    for one in (holder, job_id):
        wait_for(lambda: system.end(one))


def test_second_who_cancels_is_told_when_the_cancel_can_not_be_stored(
    system, script, wait_for, in_thread
):
    system.submit("hold", queue=QUEUE)
    wait_for(lambda: script.called)
    job_id = system.submit(queue=QUEUE)
    system.disk.go_on.clear()
    system.disk.fail("sync", errno.EIO)
    system.disk.fail("create", errno.EIO)
    first = in_thread(system.jobs.request_cancel, job_id)
    assert system.disk.blocked.wait(10)
    waiting = system.jobs.request_cancel(job_id)
    waker = wire.Waker()
    assert waiting.watch(None, waker)
    system.disk.go_on.set()
    with pytest.raises(Refusal):
        first.result()
    assert waker.wait(time.monotonic() + 10)
    assert waiting.unstored and not waiting.has_ended
    waker.close()
    system.disk.mend()
    script.released.set()


def test_cancel_that_could_not_be_stored_once_is_as_any_other_the_next_time(
    system, script, wait_for, in_thread
):
    system.submit("hold", queue=QUEUE)
    wait_for(lambda: script.called)
    job_id = system.submit(queue=QUEUE)
    system.disk.fail("write", errno.ENOSPC)
    assert refusal(system.jobs.request_cancel, job_id) == "storage_error"
    system.disk.mend()
    system.disk.go_on.clear()
    first = in_thread(system.jobs.request_cancel, job_id)
    assert system.disk.blocked.wait(10)
    second = system.jobs.request_cancel(job_id)
    # Who cancels it as well waits for the end, and isn't told of what was before.
    assert not second.unstored
    system.disk.go_on.set()
    assert first.result() is True
    assert second.has_ended
    assert system.end(job_id).outcome == "cancelled"


def test_job_that_waits_for_its_file_is_told_of_after_a_cancel_that_failed(
    system, script, wait_for, caplog
):
    system.submit("hold", queue=QUEUE)
    wait_for(lambda: script.called)
    job_id = system.submit(queue=QUEUE)
    system.disk.fail("open", errno.EIO)
    assert refusal(system.jobs.request_cancel, job_id) == "storage_error"
    script.released.set()
    wait_for(lambda: system.jobs.unstored()[0] == 1)
    wait_for(lambda: "can't be opened for now" in caplog.text)
    system.disk.mend()
    wait_for(lambda: system.end(job_id))
    assert system.jobs.unstored() == (0, None)
    assert caplog.text.count("can't be opened for now") == 1


# --- news ---------------------------------------------------------------------------


@pytest.fixture
def waker():
    waker = wire.Waker()
    yield waker
    waker.close()


def is_set(waker):
    return waker.wait(time.monotonic())


def test_watcher_is_woken_once_for_each_time_it_asks(waker):
    job = jobs_module.Job(jobid.make(), 1, 100)
    assert job.watch(100, waker)
    assert not is_set(waker)
    job.publish(200, 1)
    assert is_set(waker)
    job.publish(300, 2)
    assert not is_set(waker)
    # There is news already.
    assert not job.watch(200, waker)
    assert job.watch(300, waker)
    job.finish(400, protocol.RESULT)
    assert is_set(waker)
    assert not job.watch(400, waker)


def test_watcher_of_the_end_is_not_woken_by_packets(waker):
    job = jobs_module.Job(jobid.make(), 1, 100)
    assert job.watch(None, waker)
    job.publish(200, 1)
    assert not is_set(waker)
    job.finish(300, protocol.RESULT)
    assert is_set(waker)


def test_watcher_that_leaves_is_not_woken(waker):
    job = jobs_module.Job(jobid.make(), 1, 100)
    for size in (100, None):
        assert job.watch(size, waker)
        job.unwatch(waker)
    job.finish(200, protocol.RESULT)
    assert not is_set(waker)


# --- with the real caller -----------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_request_is_not_sent_before_the_start_is_on_the_disk(
    real, daemon, wait_for, server_context, fault
):
    system = real()
    job_id = system.submit("echo", queue=QUEUE)
    wait_for(lambda: system.end(job_id))
    assert daemon.called("echo") == 1

    # From here on nothing is stored until the start has failed.
    def break_and_shake_hands(*_):
        break_disk(system.disk, fault)

    server_context.sni_callback = break_and_shake_hands
    try:
        job_id = system.submit("echo", queue=QUEUE)
        job = system.jobs.active(job_id)
        wait_for(lambda: job is None or job.has_ended or job.unstored)
    finally:
        server_context.sni_callback = None
    system.disk.mend()
    end = wait_for(lambda: system.end(job_id))
    assert (end.value["type"], end.value["ran"]) == ("storage_error", "no")
    assert daemon.called("echo") == 1


def test_sync_that_fails_in_a_stream_is_not_noticed_by_those_who_follow(
    real, daemon, wait_for, in_thread
):
    go_on = [threading.Event() for _ in range(3)]

    def stream(connection, received):
        send(connection, ACKNOWLEDGED_STREAM)
        for number, event in enumerate(go_on):
            send(connection, {"stream": number})
            event.wait(30)
        send(connection, {"result": 3})

    daemon.scripts["stream"] = stream
    system = real(sync_packets=True)
    job_id = system.submit("stream")
    wait_for(lambda: system.packets(job_id) == [0])
    job, reader = system.jobs.open(job_id)
    with reader:  # of the file that will be replaced
        system.disk.fail("sync", times=1)
        go_on[0].set()
        wait_for(lambda: job.progress()[1] == 2)
        go_on[1].set()
        wait_for(lambda: job.progress()[1] == 3)
        system.disk.fail("sync", times=1)
        go_on[2].set()
        wait_for(lambda: job.has_ended)
        reading = Reading(job, reader)
        extent = reading.extent()
        lines = reader.read(extent.begin, extent.until).splitlines()
        assert [wire.decode(line)["data"] for line in lines] == [0, 1, 2]
    assert system.end(job_id) == protocol.End(protocol.RESULT, 3)
    assert "create" in system.disk.operations


def test_nothing_shows_before_it_is_on_the_disk(real, daemon, wait_for, waker):
    go_on = [threading.Event() for _ in range(2)]

    def stream(connection, received):
        send(connection, ACKNOWLEDGED_STREAM, {"stream": 0})
        go_on[0].wait(30)
        send(connection, {"stream": 1})
        go_on[1].wait(30)
        send(connection, {"result": 2})

    daemon.scripts["stream"] = stream
    system = real(sync_packets=True)
    job_id = system.submit("stream")
    wait_for(lambda: system.packets(job_id) == [0])
    job = system.jobs.active(job_id)
    for event in go_on:
        before = job.progress()
        assert job.watch(before[0], waker)
        system.disk.blocked.clear()
        system.disk.go_on.clear()
        event.set()
        assert system.disk.blocked.wait(10)
        # Written, but not synced yet.
        assert job.progress() == before and not is_set(waker)
        system.disk.go_on.set()
        assert waker.wait(time.monotonic() + 10)
        assert job.progress() != before
    assert system.end(job_id) == protocol.End(protocol.RESULT, 2)
    assert system.packets(job_id) == [0, 1]


@pytest.mark.parametrize("fault", FAULTS)
def test_packets_that_can_not_be_stored_end_the_call_over_there(
    real, daemon, wait_for, fault
):
    cancelled = threading.Event()

    def stream(connection, received):
        send(connection, ACKNOWLEDGED_STREAM, {"stream": 0})
        daemon.released.wait(30)
        send(connection, {"stream": 1}, {"stream": 2})
        connection.read_to_end()
        cancelled.set()
        send(connection, {"stream": 3}, {"result": 5})

    daemon.scripts["stream"] = stream
    system = real(sync_packets=True)
    job_id = system.submit("stream")
    wait_for(lambda: system.packets(job_id) == [0])
    break_disk(system.disk, fault)
    daemon.released.set()
    assert cancelled.wait(10)
    system.disk.mend()
    end = wait_for(lambda: system.end(job_id))
    # The result came, but not all that belongs to it is there.
    assert (end.value["type"], end.value["ran"]) == ("storage_error", "yes")
    assert system.packets(job_id) == [0]


def test_cancel_is_not_lost_while_a_name_is_looked_up(
    make_system, monkeypatch, tmp_path, wait_for
):
    looked_up, go_on = threading.Event(), threading.Event()

    class SlowResolver(Resolver):
        def resolve(self, name, port, waker, deadline):
            looked_up.set()
            go_on.wait(30)
            # As when the answer and the cancel come at the same moment.
            waker.clear()
            return super().resolve(name, port, waker, deadline)

    monkeypatch.setattr("test_jobs.Resolver", SlowResolver)
    (tmp_path / "hosts").write_bytes(to_line(host_entry(("127.0.0.1", 1))))
    system = make_system(hosts={"file": str(tmp_path / "hosts")})
    job_id = system.submit()
    assert looked_up.wait(10)
    system.jobs.request_cancel(job_id)
    go_on.set()
    end = wait_for(lambda: system.end(job_id))
    assert end.outcome == "cancelled"
