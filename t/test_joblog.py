"""The job log as a directory: creating, finding, moving and recovering jobs."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harp import config, jobid, protocol
from harp.dispatcher import layout
from harp.dispatcher.disk import FileGone, StorageError
from harp.dispatcher.joblog import LogInUse
from harp.dispatcher.layout import LAYOUT, begin_of_hour
from joblogs import (
    CALL,
    END,
    START,
    FailingDisk,
    end_line,
    make_record,
    open_log,
    packet,
    trailer,
)

HOUR = 3600 * 1000


@pytest.fixture
def disk():
    return FailingDisk()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "jobs"


@pytest.fixture
def log(directory, disk):
    log = open_log(directory, disk)
    disk.operations.clear()
    yield log
    log.close()


def active(directory, job_id):
    return directory / "active" / f"{job_id}.jsonl"


def names(directory, part="active"):
    return sorted(entry.name for entry in (directory / part).iterdir())


def store(directory, *lines, record=None):
    """Put a job's file there as a dispatcher that was killed would have left it."""
    record = record or make_record()
    active(directory, record.job_id).write_bytes(record.encode() + b"".join(lines))
    return record.job_id


def recover(log):
    """Recover, and return the ids of the jobs that wait."""
    waiting, unended = log.recover()
    assert unended == []
    return [job.job_id for job in waiting]


def end_of(log, job_id):
    """The end that a job has ended with."""
    with log.open_job(job_id) as reader:
        size = reader.file_size()
        found, offset = reader.trailer(size)
        line = reader.read(reader.line_before(offset), offset)
    end = protocol.parse_reply_end(json.loads(line))
    assert found.outcome == end.outcome
    return end, found


# --- the directory ------------------------------------------------------------------


def test_directory_and_files_are_for_the_dispatcher_alone(log, directory):
    log.create(make_record())
    for path in [directory, *directory.rglob("*")]:
        mode = path.stat().st_mode & 0o777
        assert mode == (0o700 if path.is_dir() else mode & 0o600), path
    assert names(directory)[0].endswith(".jsonl")


def test_second_dispatcher_on_a_directory_is_refused_and_told_who_has_it(
    log, directory
):
    with pytest.raises(LogInUse, match=f"process {os.getpid()}$"):
        open_log(directory)


def test_directory_of_a_dispatcher_that_has_ended_can_be_used(directory):
    open_log(directory).close()
    open_log(directory).close()


def test_lock_goes_with_a_process_that_is_killed(directory):
    code = (
        "import joblogs, sys, time; log = joblogs.open_log(sys.argv[1]);"
        "print('held', flush=True); time.sleep(60)"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), os.environ["PYTHONPATH"]]
        )
    }
    with subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdout=subprocess.PIPE,
        env=environment,
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LogInUse, match=f"process {holder.pid}$"):
            open_log(directory)
        holder.send_signal(signal.SIGKILL)
    open_log(directory).close()


@pytest.mark.parametrize("layout", [str(LAYOUT + 1), "", "x", "1.5"])
def test_directory_of_another_layout_is_refused_and_left_alone(directory, layout):
    open_log(directory).close()
    (directory / "format").write_text(layout + "\n")
    job_id = store(directory, b"garbage")
    with pytest.raises(StorageError, match="layout"):
        open_log(directory)
    assert (directory / "format").read_text() == layout + "\n"
    assert names(directory) == [f"{job_id}.jsonl"]


def test_crash_while_the_directory_is_made_does_no_harm(directory):
    directory.mkdir()
    (directory / "format.new").write_text("")
    open_log(directory).close()
    assert (directory / "format").read_text() == f"{LAYOUT}\n"


def test_new_directory_is_synced_before_it_is_used(directory, disk):
    open_log(directory, disk).close()
    assert disk.operations == ["create", "write", "sync", "rename", "sync_directory"]


@pytest.mark.parametrize(
    "operation", ["create", "write", "sync", "rename", "sync_directory"]
)
def test_directory_that_can_not_be_made_is_made_at_the_next_start(
    directory, disk, operation
):
    disk.fail(operation)
    with pytest.raises(StorageError, match=str(directory)):
        open_log(directory, disk)
    disk.mend()
    open_log(directory, disk).close()
    assert (directory / "format").read_text() == f"{LAYOUT}\n"


@pytest.mark.parametrize("obstacle", ["", "lock", "active"])
def test_directory_that_can_not_be_used_is_named(directory, obstacle):
    if obstacle:
        directory.mkdir()
        if obstacle == "lock":
            (directory / obstacle).mkdir()
        else:
            (directory / obstacle).write_text("a file")
    else:
        directory.write_text("a file")
    with pytest.raises(StorageError, match=str(directory / obstacle)):
        open_log(directory)


# --- one job ------------------------------------------------------------------------


def test_created_job_is_synced_before_it_gets_its_name(log, disk, directory):
    record = make_record()
    size = log.create(record)
    assert disk.operations == [
        "free",
        "create",
        "write",
        "sync",
        "rename",
        "sync_directory",
    ]
    assert active(directory, record.job_id).read_bytes() == record.encode()
    assert size == len(record.encode())
    assert log.record(record.job_id) == record


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize(
    "operation", ["free", "create", "write", "sync", "rename", "sync_directory"]
)
def test_job_that_can_not_be_stored_leaves_nothing(
    log, disk, directory, operation, code
):
    record = make_record()
    disk.fail(operation, code)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StorageError, match=str(directory)):
        log.create(record)
    assert names(directory) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert log.open_job(record.job_id) is None
    disk.mend()
    log.create(record)
    assert log.record(record.job_id) == record


def test_new_job_is_refused_when_only_the_reserve_is_free(directory):
    free = os.statvfs(directory.parent)
    log = open_log(directory, reserve=free.f_blocks * free.f_frsize + 1)
    try:
        with pytest.raises(StorageError, match="limits.reserve"):
            log.create(make_record())
        assert names(directory) == []
    finally:
        log.close()


def test_reserve_and_size_can_be_changed_while_it_is_open(log):
    record = make_record()
    size = log.create(record)
    settings = {"limits": {"reserve": 1 << 60, "job_size": size + 1}}
    log.apply(config.check(settings, config.DispatcherConfig, "test"))
    with pytest.raises(StorageError, match="limits.reserve"):
        log.create(make_record())
    writer = log.writer(record.job_id, size)
    with pytest.raises(StorageError, match="limits.job_size"):
        writer.append(START.encode(), sync=False)
    writer.close()
    log.apply(config.check({"limits": {"reserve": 1}}, config.DispatcherConfig, "test"))
    log.create(make_record())


def test_unknown_job_has_no_file(log):
    assert log.open_job(jobid.make()) is None
    with pytest.raises(FileGone):
        log.record(jobid.make())
    with pytest.raises(FileGone):
        log.writer(jobid.make(), 0)


def test_job_is_found_wherever_it_is(log, directory):
    record = make_record()
    size = log.create(record)
    writer = log.writer(record.job_id, size)
    writer.finish(END, trailer(0))
    writer.close()
    with log.open_job(record.job_id) as reader:
        log.archive(record.job_id)
        assert reader.record() == record
    assert names(directory) == []
    [hour] = names(directory, "done")
    assert names(directory, f"done/{hour}") == [f"{record.job_id}.jsonl"]
    assert end_of(log, record.job_id) == (END, trailer(0))


def test_ended_job_is_filed_under_the_hour_of_its_id(log, directory):
    record = make_record(jobid.make(1795456800000))
    log.create(record)
    log.archive(record.job_id)
    assert names(directory, "done") == ["2026-11-23T18"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_ended_job_that_can_not_be_moved_is_read_where_it_is(
    log, disk, directory, code
):
    record = make_record()
    writer = log.writer(record.job_id, log.create(record))
    writer.finish(END, trailer(0))
    writer.close()
    disk.fail("rename", code)
    log.archive(record.job_id)
    assert end_of(log, record.job_id)[0] == END
    disk.mend()
    assert recover(log) == []
    assert names(directory) == []
    assert end_of(log, record.job_id)[0] == END


def test_job_that_can_not_be_opened_is_a_storage_error(log, directory):
    job_id = jobid.make()
    active(directory, job_id).symlink_to(active(directory, job_id))
    with pytest.raises(StorageError, match=job_id):
        log.open_job(job_id)


# --- all jobs -----------------------------------------------------------------------


def test_job_ids_come_newest_first_from_everywhere(log):
    now = 1795456800000
    made = [jobid.make(now - age * HOUR // 4) for age in range(40)]
    for number, job_id in enumerate(made):
        log.create(make_record(job_id))
        if number % 3:
            log.archive(job_id)
    assert list(log.job_ids()) == made
    for number in (0, 1, 17, 39):
        assert list(log.job_ids(before=made[number])) == made[number + 1 :]
    assert list(log.job_ids(before=jobid.make(now + HOUR))) == made
    assert list(log.job_ids(before=jobid.make(0))) == []


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("2026-11-23T18", 1795456800),
        ("1970-01-01T00", 0),
        ("2028-02-29T23", 1835478000),
        ("2026-02-29T00", None),
        ("2026-13-01T00", None),
        ("2026-00-01T00", None),
        ("0000-01-01T00", None),
        ("2026-01-01T24", None),
        ("2026-1-01T00", None),
        ("2026-01-01T00\n", None),
        ("٢٠٢٦-01-01T00", None),
        ("x", None),
        ("", None),
    ],
)
def test_hour_of_a_directory_is_read_off_its_name(name, begin):
    assert begin_of_hour(name) == begin


def test_job_ids_of_a_full_directory_are_sorted_as_far_as_they_are_wanted(
    log, directory, monkeypatch
):
    monkeypatch.setattr(layout, "_SORTED_FIRST", 2)
    ids = sorted((jobid.make() for _ in range(50)), reverse=True)
    for job_id in ids:
        (directory / "active" / f"{job_id}.jsonl").touch()
    (directory / "active" / ids[7]).touch()
    assert list(log.job_ids()) == ids
    assert list(log.job_ids(before=ids[20], least=ids[40])) == ids[21:41]


def test_job_that_moves_while_they_are_listed_is_listed_once(log):
    made = [jobid.make(1795456800000 - age) for age in range(3)]
    for job_id in made:
        log.create(make_record(job_id))
    listing = log.job_ids()
    found = [next(listing)]
    for job_id in made:
        log.archive(job_id)
    found.extend(listing)
    assert found == made


def test_strange_files_are_not_listed(log, directory):
    record = make_record()
    log.create(record)
    for name in ("x.jsonl", "README", f"{jobid.make()}.txt", f".{jobid.make()}.new"):
        (directory / "active" / name).touch()
        (directory / "done" / name).touch()
    (directory / "done" / "2026-11-23T18").mkdir()
    (directory / "done" / "2026-11-23T18" / "x.jsonl").touch()
    assert list(log.job_ids()) == [record.job_id]


def test_directory_that_can_not_be_listed_is_a_storage_error(log, directory):
    (directory / "done").rmdir()
    with pytest.raises(StorageError, match="done"):
        list(log.job_ids())


# --- recovery -----------------------------------------------------------------------


def test_jobs_that_have_not_started_wait_in_order_of_submission(log, directory):
    now = 1795456800000
    orders = [5, 1, 4, 2, 3]
    made = {}
    for number, order in enumerate(orders):
        record = make_record(jobid.make(now + number), order)
        made[order] = store(directory, record=record)
    assert recover(log) == [made[order] for order in sorted(orders)]


def test_job_that_waits_keeps_its_queue_with_the_concurrency_that_applies(
    log, directory
):
    call = CALL._replace(queue=protocol.Queue({"a": 1}, 7))
    record = make_record(call=call, concurrency=2, order=9)
    store(directory, record=record)
    [waiting], _ = log.recover()
    assert waiting == (
        record.job_id,
        9,
        protocol.Queue({"a": 1}, 2),
        len(record.encode()),
    )


@pytest.mark.parametrize(
    ("lines", "ran", "packets"),
    [
        ([START.encode()], protocol.RAN_MAYBE, 0),
        ([START.encode(), packet(0), packet(1)], protocol.RAN_YES, 2),
    ],
)
def test_job_that_has_started_ends_missing_result(log, directory, lines, ran, packets):
    job_id = store(directory, *lines)
    assert recover(log) == []
    end, found = end_of(log, job_id)
    assert (end.value["type"], end.value["ran"]) == ("missing_result", ran)
    assert (found.start, found.packets) == (START.start, packets)
    assert names(directory) == []


def test_end_that_was_received_is_kept(log, directory):
    job_id = store(directory, START.encode(), packet(0), end_line())
    assert recover(log) == []
    assert end_of(log, job_id)[0] == END


def test_ended_job_is_filed_and_stays_as_it_is(log, directory):
    lines = [START.encode(), packet(0), end_line(), trailer(1).encode()]
    job_id = store(directory, *lines)
    before = active(directory, job_id).read_bytes()
    assert recover(log) == []
    assert names(directory) == []
    [path] = (directory / "done").rglob("*.jsonl")
    assert path.read_bytes() == before


@pytest.mark.parametrize("garbage", [b"\0" * 5000, b"garbage\n", b'{"packet":5'])
def test_garbage_behind_a_trailer_is_cut_off(log, directory, garbage):
    lines = [START.encode(), end_line(), trailer(0).encode(), garbage]
    job_id = store(directory, *lines)
    assert recover(log) == []
    assert end_of(log, job_id) == (END, trailer(0))


def test_recovery_of_a_recovered_directory_changes_nothing(log, directory):
    store(directory)
    store(directory, START.encode())
    waiting = recover(log)

    def snapshot():
        return {p: p.read_bytes() for p in directory.rglob("*.jsonl")}

    before = snapshot()
    assert recover(log) == waiting
    assert snapshot() == before


def test_files_that_never_got_their_name_are_removed(log, directory):
    record = make_record()
    new = directory / "active" / f".{record.job_id}.new"
    new.write_bytes(record.encode())
    assert recover(log) == []
    assert names(directory) == []


def test_job_that_has_ended_is_not_run_again_though_it_is_in_active(log, directory):
    record = make_record()
    writer = log.writer(record.job_id, log.create(record))
    writer.finish(END, trailer(0))
    writer.close()
    log.archive(record.job_id)
    store(directory, record=record)
    assert recover(log) == []
    assert names(directory) == []
    assert names(directory, "corrupt") == [f"{record.job_id}.jsonl"]
    assert end_of(log, record.job_id)[0] == END


def test_files_that_are_not_the_dispatchers_are_left_alone(log, directory):
    (directory / "active" / "notes.new").write_text("keep")
    (directory / "active" / ".x.new").mkdir()
    good = store(directory)
    assert recover(log) == [good]
    assert names(directory)[::2] == [".x.new", "notes.new"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, b"garbage\n", make_record().encode()[:-3], b"\xff" * 70_000],
    ids=["empty", "NULs", "garbage", "cut", "long"],
)
def test_file_without_a_record_is_set_aside_and_others_are_taken_up(
    log, directory, caplog, content
):
    bad = jobid.make()
    active(directory, bad).write_bytes(content)
    good = store(directory)
    assert recover(log) == [good]
    assert names(directory, "corrupt") == [f"{bad}.jsonl"]
    assert (directory / "corrupt" / f"{bad}.jsonl").read_bytes() == content
    assert bad in caplog.text
    with pytest.raises(StorageError, match="set aside"):
        log.open_job(bad)


def test_file_of_another_job_is_set_aside(log, directory):
    record = make_record()
    other = jobid.make()
    active(directory, other).write_bytes(record.encode())
    assert recover(log) == []
    assert names(directory, "corrupt") == [f"{other}.jsonl"]


def test_directory_in_place_of_a_file_does_not_stop_the_start(log, directory):
    active(directory, jobid.make()).mkdir()
    (directory / "active" / f".{jobid.make()}.new").mkdir()
    good = store(directory)
    assert recover(log) == [good]


def test_pipe_in_place_of_a_file_is_set_aside(log, directory):
    bad = jobid.make()
    os.mkfifo(active(directory, bad))
    good = store(directory)
    assert recover(log) == [good]
    assert names(directory, "corrupt") == [f"{bad}.jsonl"]


@pytest.mark.parametrize("operation", ["open", "write", "sync"])
def test_end_for_which_there_is_no_room_yet_is_returned(
    log, disk, directory, operation
):
    job_id = store(directory, START.encode(), packet(0), b"half a")
    disk.fail(operation, errno.ENOSPC)
    if operation == "sync":
        disk.fail("create", errno.ENOSPC)
    waiting, [found] = log.recover()
    assert waiting == []
    assert (found.job_id, found.start, found.packets) == (job_id, START.start, 1)
    assert found.end.value["type"] == "missing_result"
    assert names(directory) == [f"{job_id}.jsonl"]
    assert names(directory, "corrupt") == []
    disk.mend()
    writer = log.writer(job_id, found.size)
    writer.finish(found.end, trailer(1, protocol.ERROR))
    writer.close()
    assert end_of(log, job_id)[0] == found.end


def test_job_cut_at_any_byte_is_recovered(tmp_path, disk):
    lines = [START.encode(), packet(0), packet(1), end_line(), trailer(2).encode()]
    record = make_record()
    data = record.encode() + b"".join(lines)
    first = len(record.encode())
    started = first + len(lines[0])
    streamed = started + len(lines[1])
    received = data.index(lines[3]) + len(lines[3])
    for cut in range(len(data) + 1):
        directory = tmp_path / str(cut)
        log = open_log(directory)
        try:
            active(directory, record.job_id).write_bytes(data[:cut] + b"\0" * (cut % 3))
            waiting = recover(log)
            if cut < first:
                assert names(directory, "corrupt") and waiting == []
            elif cut < started:
                assert waiting == [record.job_id]
            else:
                end, found = end_of(log, record.job_id)
                if cut >= received:
                    assert end == END
                else:
                    ran = protocol.RAN_MAYBE if cut < streamed else protocol.RAN_YES
                    assert (end.value["type"], end.value["ran"]) == (
                        "missing_result",
                        ran,
                    )
        finally:
            log.close()


@pytest.mark.parametrize(
    "line",
    [
        b'{"stbrt"' + START.encode()[8:],
        START.encode().replace(b":", b";", 1),
        START.encode().replace(b"1000.5", b"1e300"),
        b"\0" * 50 + b"\n",
    ],
)
def test_job_whose_start_is_damaged_is_not_run_again(log, directory, line):
    job_id = store(directory, line)
    assert recover(log) == []
    end, _ = end_of(log, job_id)
    assert (end.value["type"], end.value["ran"]) == ("missing_result", "maybe")
