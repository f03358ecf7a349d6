"""Pruning: what is old goes, nothing else does, and nobody is disturbed."""

import contextlib
import json
import os
import time
from pathlib import Path

import pytest
from dispatchers import HARPCALLERD, Daemon, Dispatcher, host_entry, request
from harp import config, jobid
from harp.dispatcher import pruning as pruning_module
from harp.dispatcher.layout import hour_of
from harp.dispatcher.pruning import Pruning
from harp.errors import Refusal
from joblogs import END, START, end_line, make_record, open_log, packet, trailer
from terminals import run_on_terminal

NOW = 1795456800  # 2026-11-23T18:00:00Z
HOUR = 3600
DAY = 86400


@pytest.fixture
def log(tmp_path):
    log = open_log(tmp_path / "jobs")
    yield log
    log.close()


@pytest.fixture
def done(tmp_path):
    return tmp_path / "jobs" / "done"


@pytest.fixture
def wall(fake_clock):
    fake_clock.now = NOW
    return fake_clock


@pytest.fixture
def boot(fake_clock):
    """The time that goes by."""
    return type(fake_clock)()


@pytest.fixture
def make_pruning(log, wall, boot, request):
    def make(**settings):
        checked = config.check(settings, config.DispatcherConfig, "test")
        made = Pruning(log, checked, wall, boot)
        request.addfinalizer(made.stop)
        return made

    return make


@pytest.fixture
def pruning(make_pruning):
    return make_pruning()


def put(done, age, mtime_age=None, hour=None):
    """A job that was submitted so many seconds ago and has ended."""
    job_id = jobid.make(int((NOW - age) * 1000))
    directory = done / (hour or hour_of(job_id))
    directory.mkdir(0o700, exist_ok=True)
    path = directory / f"{job_id}.jsonl"
    path.write_bytes(b"unread")
    changed = NOW - (age if mtime_age is None else mtime_age)
    os.utime(path, (changed, changed))
    return path


def prune(pruning, age):
    """Prune to the end, and return how many jobs went."""
    removed = pruning.prune(age)
    jobs = removed.jobs
    while removed.next is not None:
        removed = pruning.prune(age, removed.next)
        jobs += removed.jobs
    return jobs


# --- what is removed ----------------------------------------------------------------


def test_old_jobs_are_removed_with_their_hours_and_others_stay(pruning, done):
    old = [put(done, 30 * DAY + HOUR * n) for n in (2, 3, 3, 50, 10_000)]
    young = [put(done, age) for age in (0, HOUR, DAY, 29 * DAY, 30 * DAY - 1)]
    assert prune(pruning, 30 * DAY) == len(old)
    assert not any(path.parent.exists() for path in old)
    assert all(path.exists() for path in young)
    assert pruning.pruned == len(old)
    assert prune(pruning, 30 * DAY) == 0


def test_bytes_that_were_freed_are_told(pruning, done):
    for n in range(3):
        put(done, 40 * DAY + n)
    assert pruning.prune(30 * DAY) == (3, 3 * len(b"unread"), None)


@pytest.mark.parametrize(
    ("age", "mtime_age", "hour"),
    [
        # Ran for long, ended only now.
        (40 * DAY, 0, None),
        (40 * DAY, 29 * DAY, None),
        # An old modification time, as a backup restores it.
        (0, 40 * DAY, None),
        # In a directory that isn't its own.
        (0, 40 * DAY, "2026-01-01T00"),
        (40 * DAY, 40 * DAY, "2026-11-23T17"),
    ],
)
def test_job_that_is_young_by_any_sign_stays(pruning, done, age, mtime_age, hour):
    path = put(done, age, mtime_age, hour)
    assert prune(pruning, 30 * DAY) == 0
    assert path.exists()


@pytest.mark.parametrize("age", [1, HOUR, DAY - 1, DAY])
def test_job_younger_than_a_day_is_never_removed(pruning, done, age):
    young = put(done, DAY - 1)
    old = put(done, DAY + 2 * HOUR)
    assert prune(pruning, age) == 1
    assert young.exists() and not old.exists()


def test_active_jobs_are_never_removed(pruning, tmp_path, log, done):
    record = make_record(jobid.make((NOW - 400 * DAY) * 1000))
    log.create(record)
    path = tmp_path / "jobs" / "active" / f"{record.job_id}.jsonl"
    os.utime(path, (0, 0))
    assert prune(pruning, DAY) == 0
    assert path.exists()


def test_what_is_no_job_is_left_alone(pruning, done):
    hour = done / "2020-01-01T00"
    hour.mkdir()
    (done / "2020-01-01T01").mkdir()
    strange = [hour / "README", hour / "x.jsonl", done / "2020-13-45T99", done / "old"]
    for path in strange:
        path.write_text("")
        os.utime(path, (0, 0))
    (done.parent / "corrupt" / "2020-01-01T00").mkdir()
    assert prune(pruning, DAY) == 0
    assert all(path.exists() for path in strange)
    assert not (done / "2020-01-01T01").exists()  # empty, and old
    assert (done.parent / "corrupt" / "2020-01-01T00").exists()


def test_empty_hour_that_may_still_be_used_stays(pruning, done):
    young = done / hour_of(jobid.make((NOW - HOUR) * 1000))
    young.mkdir()
    prune(pruning, DAY)
    assert young.exists()


def test_no_file_is_read(pruning, done):
    path = put(done, 40 * DAY)
    path.unlink()
    path.symlink_to("/dev/full")
    os.utime(path, (0, 0), follow_symlinks=False)
    assert prune(pruning, 30 * DAY) == 1
    assert os.path.exists("/dev/full")


def test_reader_of_a_removed_job_goes_on(pruning, log, done):
    record = make_record(jobid.make((NOW - 40 * DAY) * 1000))
    writer = log.writer(record.job_id, log.create(record))
    writer.append(START.encode() + packet(0), sync=False)
    writer.finish(END, trailer(1))
    writer.close()
    log.archive(record.job_id)
    [path] = done.rglob("*.jsonl")
    os.utime(path, (0, 0))
    with log.open_job(record.job_id) as reader:
        size = reader.file_size()
        assert prune(pruning, 30 * DAY) == 1
        assert log.open_job(record.job_id) is None
        assert reader.record() == record
        found, offset = reader.trailer(size)
        assert found == trailer(1)
        assert reader.read(reader.line_before(offset), offset) == end_line()


def test_many_are_removed_in_steps_that_get_on(pruning, done, monkeypatch):
    monkeypatch.setattr(pruning_module, "_STEP", 100)
    monkeypatch.setattr(pruning_module, "_BATCH", 10)
    kept = [put(done, 40 * DAY + n, mtime_age=0) for n in range(300)]
    for n in range(250):
        put(done, 40 * DAY + n * 60)
    steps = []
    since = None
    while True:
        step = pruning.prune(30 * DAY, since)
        steps.append(step.jobs)
        since = step.next
        if since is None:
            break
    assert sum(steps) == 250 and len(steps) >= 2
    assert max(steps) <= 110
    assert all(path.exists() for path in kept)


def test_nothing_is_pruned_once_it_stops(pruning, done):
    path = put(done, 40 * DAY)
    pruning.stop()
    with pytest.raises(Refusal) as caught:
        pruning.prune(30 * DAY)
    assert caught.value.type == "shutdown"
    assert path.exists()


def test_directory_that_can_not_be_read_is_named(pruning, done):
    done.rmdir()
    with pytest.raises(Refusal, match=str(done)) as caught:
        pruning.prune(30 * DAY)
    assert caught.value.type == "storage_error"


# --- by itself ----------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(pruning_module, "_FIRST", 0.01)
    monkeypatch.setattr(pruning_module, "_INTERVAL", 0.01)


@pytest.fixture
def seen(log, wall):
    """The last run was at work just now."""
    log._last_seen = wall.now


def test_max_age_is_applied_by_itself(impatient, seen, make_pruning, done, wait_for):
    old, young = put(done, 8 * DAY), put(done, 6 * DAY)
    make_pruning(max_age="7d").start()
    wait_for(lambda: not old.parent.exists())
    assert young.exists()


def test_max_age_of_never_removes_nothing(
    impatient, seen, make_pruning, done, wait_for
):
    old = put(done, 1000 * DAY)
    pruning = make_pruning(max_age="never")
    pruning.start()
    # It goes round, and then as soon as it may.
    stamp = done.parent / "lock"
    os.utime(stamp, (0, 0))
    for _ in range(3):
        wait_for(lambda: stamp.stat().st_mtime > 0)
        os.utime(stamp, (0, 0))
    assert old.exists()
    pruning.apply(config.DispatcherConfig())
    wait_for(lambda: not old.exists())


def test_clock_that_was_set_forward_is_not_believed_for_a_day(
    impatient, seen, make_pruning, done, wall, boot, wait_for, caplog
):
    path = put(done, 10 * DAY)
    pruning = make_pruning(max_age="30d")
    pruning.start()
    wall.now += 40 * DAY
    wait_for(lambda: "clock is far ahead" in caplog.text)
    assert path.exists() and pruning.doubtful_since is not None
    # Asked for, it is done.
    young, other = put(done, -39 * DAY), put(done, 11 * DAY)
    assert prune(pruning, 49 * DAY) == 2
    assert young.exists() and not other.exists()
    path = put(done, 10 * DAY)
    wall.now += DAY - 1
    boot.now += DAY - 1
    assert pruning.doubtful_since is not None and path.exists()
    boot.now += 2
    wait_for(lambda: not path.exists())
    assert pruning.doubtful_since is None


def test_clock_that_is_set_back_again_is_believed(
    impatient, seen, make_pruning, done, wall, wait_for
):
    young = put(done, 10 * DAY)
    pruning = make_pruning()
    pruning.start()
    wall.now += 40 * DAY
    wait_for(lambda: pruning.doubtful_since is not None)
    old = put(done, 31 * DAY)
    wall.now -= 40 * DAY
    wait_for(lambda: pruning.doubtful_since is None)
    wait_for(lambda: not old.exists())
    assert young.exists()


def test_start_long_after_the_last_run_does_not_prune_at_once(
    impatient, make_pruning, done, log, wall, boot, wait_for
):
    path = put(done, 40 * DAY)
    log._last_seen = wall.now - 2 * DAY
    pruning = make_pruning()
    pruning.start()
    wait_for(lambda: pruning.doubtful_since is not None)
    assert path.exists()
    boot.now += DAY + 1
    wall.now += DAY + 1
    wait_for(lambda: not path.exists())


def test_clock_that_is_doubted_is_doubted_after_a_restart(
    impatient, make_pruning, tmp_path, done, log, wall, wait_for
):
    log.close()
    lock = tmp_path / "jobs" / "lock"
    os.utime(lock, (NOW - 2 * DAY, NOW - 2 * DAY))
    path = put(done, 40 * DAY)
    for _ in range(2):
        log.open()
        assert log.last_seen == NOW - 2 * DAY
        pruning = make_pruning()
        pruning.start()
        wait_for(lambda: pruning.doubtful_since is not None)
        pruning.stop()
        log.close()
    assert path.exists()


def test_start_soon_after_the_last_run_prunes(
    impatient, make_pruning, done, log, wall, wait_for
):
    path = put(done, 40 * DAY)
    log._last_seen = wall.now - DAY / 2
    make_pruning().start()
    wait_for(lambda: not path.exists())


def test_log_says_when_a_dispatcher_was_last_there(tmp_path):
    first = open_log(tmp_path / "jobs")
    assert abs(first.last_seen - time.time()) < 60
    first.close()
    os.utime(tmp_path / "jobs" / "lock", (1000, 1000))
    second = open_log(tmp_path / "jobs")
    assert second.last_seen == 1000
    second.say_seen()
    second.close()
    assert (tmp_path / "jobs" / "lock").stat().st_mtime > 1000


# --- asked for ----------------------------------------------------------------------


@pytest.fixture
def dispatcher(tmp_path, server_context, certificate):
    with contextlib.ExitStack() as stack:
        daemon = Daemon(server_context)
        stack.callback(daemon.stop)
        host = host_entry(daemon.address, cert_sha256=certificate.sha256)
        dispatcher = Dispatcher(tmp_path, [host])
        stack.callback(dispatcher.stop)
        dispatcher.start()
        yield dispatcher


def put_old(dispatcher, days):
    """A job in a running dispatcher's log."""
    job_id = jobid.make(int((time.time() - days * DAY) * 1000))
    directory = dispatcher.jobs / "done" / hour_of(job_id)
    directory.mkdir(0o700, exist_ok=True)
    path = directory / f"{job_id}.jsonl"
    path.write_bytes(make_record(job_id).encode())
    changed = time.time() - days * DAY
    os.utime(path, (changed, changed))
    return path


def test_prune_jobs_says_how_many_went(dispatcher):
    paths = [put_old(dispatcher, days) for days in (2, 10, 20, 40)]
    size = sum(path.stat().st_size for path in paths[2:])
    done = dispatcher.command("prune-jobs", "--age", "15d")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"pruned": 2, "bytes": size}
    assert [path.exists() for path in paths] == [True, True, False, False]


def test_prune_jobs_goes_by_the_configured_age_unless_told(dispatcher):
    paths = [put_old(dispatcher, days) for days in (29, 31)]
    assert json.loads(dispatcher.command("prune-jobs").stdout)["pruned"] == 1
    assert [path.exists() for path in paths] == [True, False]


def test_prune_jobs_needs_an_age_where_none_is_configured(dispatcher):
    dispatcher.stop()
    dispatcher.configure(max_age="never")
    dispatcher.start()
    path = put_old(dispatcher, 400)
    done = dispatcher.command("prune-jobs")
    assert done.returncode == 4 and "say which age" in done.stderr
    assert path.exists()
    assert dispatcher.command("prune-jobs", "--age", "1d").returncode == 0
    assert not path.exists()


def test_prune_jobs_of_less_than_a_day_is_refused(dispatcher):
    done = dispatcher.command("prune-jobs", "--age", "23h")
    assert done.returncode == 4 and "at least a day" in done.stderr


def test_prune_jobs_tells_people_in_a_line(dispatcher):
    size = put_old(dispatcher, 40).stat().st_size
    configured = [*HARPCALLERD, "-c", dispatcher.config_file]
    printed = run_on_terminal([*configured, "prune-jobs"])
    assert printed == f"1 jobs removed, {size} bytes\n"


@pytest.mark.parametrize("age", ["", "x", "30", "-1d", "0d", "1.5d"])
def test_age_that_is_none_is_refused(dispatcher, age):
    done = dispatcher.command("prune-jobs", f"--age={age}")
    assert done.returncode == 2 and "--age" in done.stderr


@pytest.mark.parametrize("more", [{"age": -1}, {"age": "30d"}, {"since": 5}])
def test_request_that_makes_no_sense_is_refused(dispatcher, more):
    with dispatcher.connect_unix("control") as client:
        reply = client.ask(request("prune", True, **more))
        assert reply["error"]["type"] == "invalid_request"


def test_clients_can_not_prune(dispatcher):
    path = put_old(dispatcher, 400)
    assert dispatcher.ask(request("prune", True))["error"]["type"] == "invalid_request"
    assert path.exists()


def test_calls_go_on_while_jobs_are_pruned(dispatcher, in_thread):
    paths = [put_old(dispatcher, 40 + n / 1000) for n in range(3000)]
    running = in_thread(dispatcher.command, "prune-jobs")
    while running.is_running:
        job_id = dispatcher.call("echo", 1)
        assert dispatcher.result(job_id) == {"result": [1]}
    assert json.loads(running.result().stdout)["pruned"] == len(paths)
    assert dispatcher.status(job_id)["state"] == "done"


def test_dispatcher_that_is_stopped_meanwhile_stops(dispatcher, in_thread):
    for n in range(3000):
        put_old(dispatcher, 40 + n / 1000)
    running = in_thread(dispatcher.command, "prune-jobs")
    dispatcher.stop()
    # It got through, was told, or found nobody there.
    assert running.result().returncode in (0, 4, 69)


def test_pruned_log_has_no_fault(dispatcher):
    for days in (2, 40, 41):
        put_old(dispatcher, days).chmod(0o600)
    Path(dispatcher.jobs / "done" / "2020-01-01T00").mkdir(0o700)
    dispatcher.command("prune-jobs", "--age", "1d")
    checked = dispatcher.command("check-log")
    assert (checked.returncode, checked.stdout) == (0, "")
