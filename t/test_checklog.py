"""check-log: every fault of a job log is found, with its place, and nothing changes."""

import contextlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from dispatchers import (
    HARPCALLERD,
    Daemon,
    Dispatcher,
    harpcallerd,
    host_entry,
)
from harp import jobid, protocol
from harp.dispatcher.checklog import LogCheck
from harp.dispatcher.layout import LAYOUT, hour_of
from joblogs import (
    CALL,
    START,
    end_line,
    make_record,
    open_log,
    packet,
    trailer,
)
from terminals import run_on_terminal

RECORD = make_record(jobid.make(1795456800000))
WHOLE = [
    RECORD.encode(),
    START.encode(),
    packet(0),
    packet(1),
    packet(2),
    end_line(),
    trailer(3).encode(),
]


@pytest.fixture
def directory(tmp_path):
    """A job log with nothing in it."""
    path = tmp_path / "jobs"
    open_log(path).close()
    return path


def faults_of(directory, **options):
    """Faults by path below the directory."""
    return [
        (str(Path(path).relative_to(directory)), offset, text)
        for path, offset, text in LogCheck(str(directory), **options).faults()
    ]


def put(path, data):
    path.parent.mkdir(0o700, exist_ok=True)
    path.touch(0o600)
    path.write_bytes(data)
    return path


def put_done(directory, lines, record=RECORD):
    job_id = record.job_id
    return put(
        directory / "done" / hour_of(job_id) / f"{job_id}.jsonl", b"".join(lines)
    )


def put_active(directory, lines, record=RECORD):
    return put(directory / "active" / f"{record.job_id}.jsonl", b"".join(lines))


def offset_of(lines, number):
    return sum(map(len, lines[:number]))


def snapshot(directory):
    found = {}
    for path in [directory, *directory.rglob("*")]:
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[path] = (stat.st_mode, stat.st_mtime_ns, stat.st_ctime_ns, content)
    return found


# --- what is no fault ---------------------------------------------------------------


def ended(outcome, value):
    return end_line(protocol.End(outcome, value))


ERROR = {"type": "timeout", "message": "too late", "ran": "yes"}


@pytest.mark.parametrize(
    "lines",
    [
        WHOLE,
        [*WHOLE[:2], end_line(), trailer(0).encode()],
        [*WHOLE[:2], ended("error", ERROR), trailer(0, "error").encode()],
        # Never started; taken from the queue, or not.
        [WHOLE[0], ended("error", ERROR), trailer(0, "error").encode()],
        [WHOLE[0], ended("cancelled", True), trailer(0, "cancelled", None).encode()],
    ],
)
def test_whole_file_has_no_fault(directory, lines):
    put_done(directory, lines)
    assert faults_of(directory) == []


@pytest.mark.parametrize("count", range(1, len(WHOLE) + 1))
def test_job_may_be_anywhere_between_two_lines_in_active(directory, count):
    put_active(directory, WHOLE[:count])
    expected = ["no trailer behind the end"] if count == len(WHOLE) - 1 else []
    assert [text for _, _, text in faults_of(directory)] == expected


def test_job_with_a_queue_has_no_fault(directory):
    call = CALL._replace(queue=protocol.Queue({"a": 1}, 7))
    record = make_record(call=call, concurrency=2)
    put_active(directory, [record.encode()], record)
    assert faults_of(directory) == []


def test_file_that_has_no_name_yet_is_no_fault(directory):
    put(directory / "active" / f".{RECORD.job_id}.new", b"half a rec")
    put(directory / "format.new", b"")
    assert faults_of(directory) == []


# --- faults inside a file -----------------------------------------------------------

BROKEN = [
    # name, lines, number of the line at fault, text
    ("first line missing", WHOLE[1:], 0, "first line can't be read"),
    ("first line garbage", [b"garbage\n", *WHOLE[1:]], 0, "first line is damaged"),
    ("first line NULs", [b"\0" * 300 + b"\n", *WHOLE[1:]], 0, "300 NUL bytes"),
    (
        "another job's",
        [make_record().encode(), *WHOLE[1:]],
        0,
        "first line is of another job",
    ),
    (
        "a newer format",
        [WHOLE[0].replace(b'"harpcaller_job":1', b'"harpcaller_job":2')],
        0,
        "format 2 is newer than this program",
    ),
    (
        "concurrency, no queue",
        [WHOLE[0].replace(b'"concurrency":null', b'"concurrency":2'), *WHOLE[1:]],
        0,
        "a queue or a concurrency",
    ),
    ("second start", [*WHOLE[:2], *WHOLE[1:]], 2, "start in the wrong place"),
    ("packet lost", [*WHOLE[:3], *WHOLE[4:]], 3, "packet 2 where 1 should be"),
    ("packet twice", [*WHOLE[:4], *WHOLE[3:]], 4, "packet 1 where 2 should be"),
    (
        "first packet lost",
        [*WHOLE[:2], *WHOLE[3:]],
        2,
        "packet 1 where 0 should be",
    ),
    (
        "packet of another form",
        [*WHOLE[:3], b'{"packet":1,"data":5}\n', *WHOLE[4:]],
        3,
        "packet 1 is not as it should be",
    ),
    (
        "packet with its number behind",
        [*WHOLE[:3], b'{"data":5,"time":1,"packet":1}\n', *WHOLE[4:]],
        3,
        "packet without a number in front",
    ),
    ("not JSON", [*WHOLE[:3], b'{"packet":1,\n', *WHOLE[4:]], 3, "not JSON"),
    (
        "not UTF-8",
        [*WHOLE[:3], packet(1, "xx").replace(b"xx", b"x\xff"), *WHOLE[4:]],
        3,
        "not UTF-8 at byte",
    ),
    ("NULs", [*WHOLE[:3], b"\0" * 4096 + b"\n", *WHOLE[4:]], 3, "4096 NUL bytes"),
    ("empty line", [*WHOLE[:3], b"\n", *WHOLE[3:]], 3, "not JSON"),
    (
        "duplicate key",
        [*WHOLE[:3], b'{"packet":1,"packet":1}\n', *WHOLE[4:]],
        3,
        "duplicate key",
    ),
    (
        "unknown line",
        [*WHOLE[:2], b'{"x":1}\n', *WHOLE[2:]],
        2,
        "line is nothing that is known",
    ),
    ("packet before the start", [WHOLE[0], *WHOLE[2:]], 1, "packet before the start"),
    (
        "result without a start",
        [WHOLE[0], end_line(), trailer(0).encode()],
        1,
        "result without a start",
    ),
    (
        "packet behind the end",
        [*WHOLE[:4], WHOLE[5], WHOLE[4], WHOLE[6]],
        5,
        "packet behind the end",
    ),
    ("second end", [*WHOLE[:6], *WHOLE[5:]], 6, "second end"),
    ("no end", [*WHOLE[:5], WHOLE[6]], 5, "trailer without an end"),
    ("behind the trailer", [*WHOLE, packet(3)], 7, "line behind the trailer"),
    (
        "packets of the trailer",
        [*WHOLE[:6], trailer(4).encode()],
        6,
        "trailer says 4 packets, there are 3",
    ),
    (
        "outcome of the trailer",
        [*WHOLE[:6], trailer(3, "error").encode()],
        6,
        "trailer says 'error', the end is result",
    ),
    (
        "start of the trailer",
        [*WHOLE[:6], trailer(3, start=1.5).encode()],
        6,
        "trailer says started 1.5, the start 1000.5",
    ),
    ("trailer of another form", [*WHOLE[:6], b'{"end":1}\n'], 6, "trailer can't be"),
]


@pytest.mark.parametrize(
    ("lines", "number", "text"),
    [case[1:] for case in BROKEN],
    ids=[case[0] for case in BROKEN],
)
def test_fault_in_a_file_is_found_with_its_place(directory, lines, number, text):
    path = put_done(directory, lines)
    found = faults_of(directory)
    # Each once, and none is made up because of it.
    [(name, offset, found_text)] = found
    assert name == str(path.relative_to(directory))
    assert offset == offset_of(lines, number)
    assert text in found_text


def test_each_of_several_faults_is_found(directory):
    lines = [*WHOLE[:3], b"x\n", packet(2), packet(7), b"y\n", *WHOLE[5:]]
    put_done(directory, lines)
    assert [(offset, text[:8]) for _, offset, text in faults_of(directory)] == [
        (offset_of(lines, 3), "not JSON"),
        (offset_of(lines, 5), "packet 7"),
        (offset_of(lines, 6), "not JSON"),
    ]


@pytest.mark.parametrize("behind", [b"", b"\0" * 5000, b'{"packet":9'])
@pytest.mark.parametrize("count", range(len(WHOLE)))
def test_file_in_done_that_is_cut_off_is_found(directory, count, behind):
    lines = [*WHOLE[:count], behind]
    put_done(directory, lines)
    found = faults_of(directory)
    assert found
    if behind:
        assert found[0][1] == offset_of(lines, count)
        assert found[0][2].startswith(f"last line is not whole: {len(behind)} bytes")
    else:
        assert found[-1][1] == offset_of(lines, count)


def test_file_cut_at_any_byte_is_found(directory):
    data = b"".join(WHOLE)
    for cut in range(len(data)):
        put_done(directory, [data[:cut]])
        assert faults_of(directory), cut
    put_done(directory, [data])
    assert faults_of(directory) == []


def test_line_that_is_too_long_is_reported_and_the_rest_is_checked(directory):
    lines = [*WHOLE[:3], packet(1, "x" * 5000), packet(2), packet(2), *WHOLE[5:]]
    put_done(directory, lines)
    assert [(offset, text) for _, offset, text in faults_of(directory, most=2000)] == [
        (offset_of(lines, 3), "line of more than 2000 bytes; not looked into"),
        (offset_of(lines, 5), "packet 2 where 3 should be"),
    ]


# --- faults of the directory --------------------------------------------------------


def test_job_in_the_wrong_hour_is_found(directory):
    name = f"{RECORD.job_id}.jsonl"
    put(directory / "done" / "2026-11-23T19" / name, b"".join(WHOLE))
    assert faults_of(directory) == [
        (f"done/2026-11-23T19/{name}", None, "is of the hour 2026-11-23T18")
    ]


def test_job_in_active_and_done_is_found(directory):
    put_active(directory, WHOLE)
    put_done(directory, WHOLE)
    [(name, offset, text)] = faults_of(directory)
    assert (name, text) == (f"active/{RECORD.job_id}.jsonl", "is in done as well")


@pytest.mark.parametrize(
    "name",
    ["x", "active/x.jsonl", "active/README", "done/x", "done/2026-11-23T18/x.jsonl"]
    + [f"done/2026-11-23T18/.{RECORD.job_id}.new", f"active/{RECORD.job_id}.json"],
)
def test_unknown_name_is_found(directory, name):
    put(directory / name, b"")
    assert faults_of(directory) == [(name, None, "unknown name")]


def test_file_that_was_set_aside_is_found(directory):
    put(directory / "corrupt" / f"{RECORD.job_id}.jsonl", b"")
    [(name, _, text)] = faults_of(directory)
    assert name.startswith("corrupt/") and "was set aside" in text


@pytest.mark.parametrize(
    ("name", "mode"),
    [("lock", 0o644), ("active", 0o755), ("done", 0o500), ("corrupt", 0o770)]
    + [(f"done/2026-11-23T18/{RECORD.job_id}.jsonl", 0o640)]
    + [("done/2026-11-23T18", 0o711), ("", 0o750)],
)
def test_wrong_mode_is_found(directory, name, mode):
    put_done(directory, WHOLE)
    path = directory / name
    right = path.stat().st_mode & 0o777
    path.chmod(mode)
    [(found, offset, text)] = faults_of(directory)
    assert (found, offset) == (name or ".", None)
    assert text == f"mode is {mode:04o}, should be {right:04o}"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_file_of_another_owner_is_found(directory):
    path = put_done(directory, WHOLE)
    os.chown(path, 12345, -1)
    [(_, _, text)] = faults_of(directory)
    assert text == "owner is 12345, that of the directory 0"


def make_directory(path):
    path.mkdir(0o700)


@pytest.mark.parametrize(
    "make",
    [
        make_directory,
        os.mkfifo,
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to(path),
    ],
    ids=["directory", "pipe", "link", "loop"],
)
@pytest.mark.parametrize("part", ["active", "done"])
def test_what_is_no_file_is_found_and_not_opened(directory, part, make):
    path = (put_done if part == "done" else put_active)(directory, WHOLE)
    path.unlink()
    make(path)
    assert faults_of(directory) == [
        (str(path.relative_to(directory)), None, "is no regular file")
    ]


@pytest.mark.parametrize("name", ["active", "done", "corrupt"])
def test_missing_directory_is_found(directory, name):
    (directory / name).rmdir()
    [(found, _, text)] = faults_of(directory)
    assert (found, text) == (name, "No such file or directory")


@pytest.mark.parametrize("name", ["active", "done", "corrupt"])
def test_file_in_place_of_a_directory_is_found(directory, name):
    (directory / name).rmdir()
    put(directory / name, b"")
    assert faults_of(directory) == [(name, None, "is no directory")]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.parametrize("name", ["format", "active", "done/2026-11-23T18"])
def test_what_can_not_be_read_is_a_fault(directory, name):
    put_done(directory, WHOLE)
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, 12345, -1)
    os.chown(directory / name, 0, 0)
    # From there, because the way there may not be open to others.
    code = (
        "import codecs, os; from harp.dispatcher.checklog import LogCheck;"
        "codecs.lookup('ascii');"  # while the library may still be read
        "os.setgid(12345); os.setuid(12345);"
        "print(*LogCheck('.').faults(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert f"'./{name}', offset=None, text='Permission denied'" in done.stdout


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (f"{LAYOUT + 1}\n", "is newer than this program"),
        ("x", "layout 'x' is unknown"),
        ("", "layout '' is unknown"),
        (None, "this is no job log"),
    ],
)
def test_directory_of_another_layout_is_not_looked_into(directory, layout, text):
    put(directory / "active" / "x", b"")
    if layout is None:
        (directory / "format").unlink()
    else:
        (directory / "format").write_text(layout)
    [(name, _, found)] = faults_of(directory)
    assert name == "format" and text in found


# --- the command --------------------------------------------------------------------


def test_clean_log_exits_0_and_says_nothing_on_stdout(directory):
    put_done(directory, WHOLE)
    done = harpcallerd("check-log", directory)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"harpcallerd: {directory}: 1 jobs, 0 faults\n"


def test_faults_exit_1_and_are_lines_of_json(directory):
    path = put_done(directory, WHOLE[:-1])
    done = harpcallerd("check-log", directory)
    assert done.returncode == 1
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"path": str(path), "offset": path.stat().st_size, "text": text}
        for text in ("no trailer behind the end", "is in done, but has not ended")
    ]


def test_faults_are_lines_for_people_on_a_terminal(directory):
    path = put_done(directory, WHOLE[:-1])
    path.chmod(0o644)
    command = [*HARPCALLERD, "check-log", directory]
    assert run_on_terminal(command, status=1).splitlines() == [
        f"{path}: mode is 0644, should be 0600",
        f"{path}: byte {path.stat().st_size}: no trailer behind the end",
        f"{path}: byte {path.stat().st_size}: is in done, but has not ended",
    ]
    assert json.loads(
        run_on_terminal([*command, "--json"], status=1).splitlines()[0]
    ) == {"path": str(path), "offset": None, "text": "mode is 0644, should be 0600"}


def test_without_a_name_the_configured_log_is_checked(directory, tmp_path):
    config = tmp_path / "harpcaller.toml"
    config.write_text(f'stream_directory = "{directory}"\n')
    assert harpcallerd("-c", config, "check-log").returncode == 0
    missing = harpcallerd("-c", tmp_path / "missing.toml", "check-log")
    assert missing.returncode == 78 and "missing.toml" in missing.stderr
    # A log that is named needs no configuration: it may be another machine's.
    named = harpcallerd("-c", tmp_path / "missing.toml", "check-log", directory)
    assert named.returncode == 0


def test_what_is_no_directory_is_named(tmp_path):
    done = harpcallerd("check-log", tmp_path / "none")
    assert done.returncode == 4
    assert f"{tmp_path}/none: No such file" in done.stderr


def test_nothing_is_changed(directory):
    put_active(directory, [*WHOLE[:3], b"half a li"])
    put(directory / "active" / f".{jobid.make()}.new", b"")
    put_done(directory, WHOLE[3:])
    put(directory / "done" / "x", b"")
    before = snapshot(directory)
    assert harpcallerd("check-log", directory).returncode == 1
    assert snapshot(directory) == before


def test_reader_that_leaves_gets_no_traceback(directory):
    for _ in range(5000):
        put(directory / "active" / f"{os.urandom(8).hex()}", b"")
    with subprocess.Popen(
        [*HARPCALLERD, "check-log", directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_running_dispatcher_is_no_fault(tmp_path, server_context, certificate):
    """Jobs that run, wait and have ended, in the log of a dispatcher at work."""
    with contextlib.ExitStack() as stack:
        daemon = Daemon(server_context)
        stack.callback(daemon.stop)
        host = host_entry(daemon.address, cert_sha256=certificate.sha256)
        dispatcher = Dispatcher(tmp_path, [host])
        stack.callback(dispatcher.stop)
        dispatcher.start()
        queue = {"name": {"q": 1}}
        jobs = [dispatcher.call("wait", queue=queue) for _ in range(3)]
        ended = dispatcher.call("count", 1000)
        dispatcher.result(ended)
        dispatcher.done_path(ended)
        # As if it were writing at this moment.
        with open(dispatcher.path(jobs[1]), "ab") as file:
            file.write(b'{"pack')
        done = harpcallerd("check-log", dispatcher.jobs)
        assert (done.returncode, done.stdout) == (0, "")
        assert f"process {dispatcher.pid}, is at work there" in done.stderr
        # And it doesn't stand in anybody's way.
        for job in reversed(jobs):
            dispatcher.cancel(job)
        dispatcher.stop()
        assert "is at work" not in harpcallerd("check-log", dispatcher.jobs).stderr


def test_memory_is_bounded_whatever_the_size(directory):
    """A long stream, and a long line that isn't JSON at all, in 150 MiB of address
    space beyond what the interpreter takes."""
    count = 200_000
    with open(put_done(directory, WHOLE[:2]), "ab") as file:
        for begin in range(0, count, 1000):
            numbers = range(begin, begin + 1000)
            file.write(b"".join(packet(number, "x" * 300) for number in numbers))
        file.write(end_line() + trailer(count).encode())
    other = make_record()
    with open(put_active(directory, [other.encode()], other), "ab") as file:
        file.truncate(400 << 20)  # a hole: reads as NULs
    limit = 400 << 20
    done = harpcallerd(
        "check-log",
        directory,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 1
    [line] = done.stdout.splitlines()
    assert "line of more than 67108864 bytes" in line
