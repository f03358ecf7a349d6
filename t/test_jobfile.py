"""The file of a job: format, writer, reader, and what can be told of a damaged one."""

import errno
import json
import os

import pytest
from harp import jobid, protocol, wire
from harp.dispatcher.disk import FileGone, StorageError
from harp.dispatcher.jobfile import (
    Reader,
    Trailer,
    Writer,
    decode_record,
    decode_start,
    decode_trailer,
    packet_number,
)
from harp.dispatcher.recovery import Tail, end_of_cut_off
from joblogs import (
    CALL,
    END,
    START,
    FailingDisk,
    end_line,
    make_record,
    packet,
    trailer,
)

MOST = 1 << 30
RECORD = make_record()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / f"{RECORD.job_id}.jsonl")


@pytest.fixture
def disk():
    return FailingDisk()


@pytest.fixture
def new_writer(path, disk):
    """``new_writer()``: of a file that holds the record."""
    opened = []

    def make(most=MOST):
        with open(path, "wb") as file:
            file.write(RECORD.encode())
        opened.append(Writer(disk, path, os.path.getsize(path), most))
        return opened[-1]

    yield make
    for writer in opened:
        writer.close()


def content(path):
    with open(path, "rb") as file:
        return file.read()


# --- the lines ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        protocol.Call("h", "p", {}),
        protocol.Call("h\udce9", "p\n", {"a": [1, 2.5, None]}, info={"x": "é\u2028"}),
        protocol.Call("h", "p", [], 5, 7, protocol.Queue({"a": 1}, 3), [], None, "g"),
        protocol.Call("h", "p", [], on_behalf_of="me", secret=("a", 0)),
    ],
)
def test_record_is_read_as_it_was_written(call):
    record = make_record(call=call, concurrency=3, by="www-data")
    line = record.encode()
    assert decode_record(line[:-1]) == record
    assert line.count(b"\n") == 1 and line.endswith(b"\n")


@pytest.mark.parametrize(
    "change",
    [
        {"harpcaller_job": 2},
        {"order": "x"},
        {"submit": None},
        {"timeout": []},
        {"request": {"harpcaller": 1, "cancel": "x"}},
        {"request": {"harpcaller": 1}},
        {"request": 5},
    ],
)
def test_record_that_is_not_as_it_should_be_is_refused(change):
    fields = json.loads(RECORD.encode()) | change
    with pytest.raises(StorageError, match="first line can't be read"):
        decode_record(wire.encode(fields)[:-1])


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"\0" * 100, b"[]", RECORD.encode()[:-2], b'{"packet":0}']
)
def test_what_is_no_record_is_refused(line):
    with pytest.raises(StorageError):
        decode_record(line)


def test_record_without_a_field_is_refused():
    for field in json.loads(RECORD.encode()):
        fields = json.loads(RECORD.encode())
        del fields[field]
        with pytest.raises(StorageError):
            decode_record(wire.encode(fields)[:-1])


@pytest.mark.parametrize("start", [None, 5.5])
@pytest.mark.parametrize("outcome", protocol.OUTCOMES)
def test_trailer_is_read_as_it_was_written(start, outcome):
    written = Trailer(6.25, start, outcome, 12)
    assert decode_trailer(written.encode()[:-1]) == written


def test_start_is_read_as_it_was_written():
    assert decode_start(START.encode()) == START


@pytest.mark.parametrize(
    "line",
    [
        b'{"end":"x","start":null,"outcome":"result","packets":0}',
        b'{"end":1}',
        b'{"end":1',
        b"",
        b'{"start":1,"address":"a","port":"x"}',
        b'{"start":1}',
        b'{"start":',
    ],
)
def test_what_is_no_trailer_and_no_start_is_neither(line):
    assert decode_trailer(line) is None
    assert decode_start(line) is None


@pytest.mark.parametrize("number", [0, 9, 10, 12345678901234])
def test_packet_number_is_read_from_the_beginning_of_its_line(number):
    assert packet_number(packet(number, "a" * 100)[:64]) == number


@pytest.mark.parametrize(
    "line",
    [b"", b'{"packet":', b'{"packet":12', b'{"packet":x,', b'{"packet":-1,', b"\0" * 64]
    + [b'{"packet":' + b"1" * 30 + b",", b'{"result":1}'],
)
def test_what_is_no_packet_has_no_number(line):
    with pytest.raises(StorageError, match="no packet"):
        packet_number(line)


# --- the writer ---------------------------------------------------------------------


def test_writer_appends_whole_lines_and_knows_the_size(new_writer, path):
    writer = new_writer()
    writer.append(START.encode(), sync=True)
    writer.append(packet(0) + packet(1), sync=False)
    writer.finish(END, trailer(2))
    assert content(path) == (
        RECORD.encode()
        + START.encode()
        + packet(0)
        + packet(1)
        + end_line()
        + trailer(2).encode()
    )
    assert writer.size == os.path.getsize(path)


def test_writer_cuts_off_what_is_behind_its_size(path, disk):
    with open(path, "wb") as file:
        file.write(RECORD.encode() + b'{"packet":0,"ti')
    writer = Writer(disk, path, len(RECORD.encode()), MOST)
    writer.append(packet(0), sync=False)
    writer.close()
    assert content(path) == RECORD.encode() + packet(0)


def test_end_is_synced_and_packets_are_as_asked(new_writer, disk):
    writer = new_writer()
    writer.append(packet(0), sync=False)
    assert "sync" not in disk.operations
    writer.append(packet(1), sync=True)
    assert disk.operations[-1] == "sync"
    disk.operations.clear()
    writer.finish(END, trailer(2))
    assert disk.operations == ["write", "sync"]


def test_file_that_would_grow_beyond_its_limit_stays_as_it_is_but_can_end(
    new_writer, path
):
    writer = new_writer(most=len(RECORD.encode()) + len(packet(0)))
    writer.append(packet(0), sync=False)
    with pytest.raises(StorageError, match="limits.job_size"):
        writer.append(packet(1), sync=False)
    assert content(path) == RECORD.encode() + packet(0)
    writer.finish(END, trailer(1))
    assert content(path).endswith(trailer(1).encode())


def test_writer_of_no_file_says_that_it_is_gone(disk, path):
    with pytest.raises(FileGone, match=path):
        Writer(disk, path, 0, MOST)


def test_writer_that_can_not_open_its_file_says_which(disk, path, new_writer):
    new_writer()
    disk.fail("open", errno.EMFILE)
    with pytest.raises(StorageError, match=f"{path}: Too many open files"):
        Writer(disk, path, 0, MOST)


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_write_that_fails_half_way_leaves_the_file_as_it_was(
    new_writer, disk, path, sync, code
):
    writer = new_writer()
    disk.fail("write", code)
    with pytest.raises(StorageError, match=path):
        writer.append(packet(0), sync)
    assert content(path) == RECORD.encode()
    disk.mend()
    writer.append(packet(0, "again"), sync)
    assert content(path) == RECORD.encode() + packet(0, "again")


def test_half_a_line_that_can_not_be_cut_off_is_cut_off_before_the_next(
    new_writer, disk, path
):
    writer = new_writer()
    disk.fail("write")
    disk.fail("truncate")
    with pytest.raises(StorageError):
        writer.append(packet(0), False)
    assert content(path) != RECORD.encode()
    assert writer.size == len(RECORD.encode())
    with pytest.raises(StorageError):
        writer.append(packet(0), False)
    disk.mend()
    writer.append(packet(0, "again"), False)
    assert content(path) == RECORD.encode() + packet(0, "again")


# --- a failed sync ------------------------------------------------------------------


def test_file_whose_sync_fails_is_replaced_by_a_synced_copy(new_writer, disk, path):
    writer = new_writer()
    writer.append(START.encode() + packet(0), sync=False)
    before = os.stat(path).st_ino
    disk.operations.clear()
    disk.fail("sync", times=1)
    writer.append(packet(1), sync=True)
    assert os.stat(path).st_ino != before
    assert content(path) == RECORD.encode() + START.encode() + packet(0) + packet(1)
    assert disk.operations[-3:] == ["sync", "rename", "sync_directory"]
    writer.append(packet(2), sync=True)
    writer.finish(END, trailer(3))
    assert content(path).endswith(packet(2) + end_line() + trailer(3).encode())
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
def test_copy_that_fails_leaves_the_file_as_it_was(new_writer, disk, path, operation):
    writer = new_writer()
    writer.append(packet(0), sync=False)
    disk.fail("sync", times=1)
    disk.fail(operation, errno.ENOSPC, after={"write": 1}.get(operation, 0))
    with pytest.raises(StorageError):
        writer.append(packet(1), sync=True)
    assert content(path) == RECORD.encode() + packet(0)
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
    disk.mend()
    writer.append(packet(1, "again"), sync=True)
    assert content(path) == RECORD.encode() + packet(0) + packet(1, "again")


def test_file_whose_sync_has_failed_is_trusted_only_as_a_copy(new_writer, disk, path):
    writer = new_writer()
    disk.fail("sync", times=1)
    disk.fail("create", times=1)
    with pytest.raises(StorageError):
        writer.append(packet(0), sync=True)
    before = os.stat(path).st_ino
    writer.append(packet(0, "again"), sync=False)
    assert os.stat(path).st_ino != before
    assert content(path) == RECORD.encode() + packet(0, "again")


def test_copy_stays_the_file_if_its_directory_can_not_be_synced(new_writer, disk, path):
    writer = new_writer()
    disk.fail("sync", times=1)
    disk.fail("sync_directory", times=1)
    with pytest.raises(StorageError):
        writer.append(packet(0), sync=True)
    assert content(path) == RECORD.encode()
    writer.append(packet(0, "again"), sync=False)
    writer.finish(END, trailer(1))
    assert content(path) == (
        RECORD.encode() + packet(0, "again") + end_line() + trailer(1).encode()
    )


def test_reader_of_the_old_file_reads_on_in_the_copy(new_writer, disk, path):
    writer = new_writer()
    writer.append(packet(0), sync=False)
    with Reader(path) as reader:
        first = len(RECORD.encode())
        assert reader.read(first, writer.size) == packet(0)
        disk.fail("sync", times=1)
        disk.fail("sync_directory", times=1)
        with pytest.raises(StorageError):
            writer.append(packet(1, "comes to nothing"), sync=True)
        writer.append(packet(1, "instead") + packet(2), sync=True)
        assert reader.read(first, writer.size) == (
            packet(0) + packet(1, "instead") + packet(2)
        )


def test_file_that_somebody_has_shortened_is_not_copied_for_ever(
    new_writer, disk, path
):
    writer = new_writer()
    writer.append(packet(0, "x" * 1000), sync=False)
    disk.fail("sync", times=1)
    disk.truncate = lambda fd, size: os.ftruncate(fd, 10)
    writer._whole = False
    with pytest.raises(StorageError, match="shorter"):
        writer.append(packet(1), sync=True)


# --- the reader ---------------------------------------------------------------------


def test_reader_opens_the_first_file_there_is(tmp_path):
    (tmp_path / "b").write_bytes(b"b\n")
    with Reader(str(tmp_path / "a"), str(tmp_path / "b")) as reader:
        assert reader.read(0, 2) == b"b\n"


def test_reader_of_no_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        Reader(str(tmp_path / "a"), str(tmp_path / "b"))


def test_reader_finds_record_start_and_trailer(new_writer, path):
    writer = new_writer()
    with Reader(path) as reader:
        assert reader.record() == RECORD
        assert reader.start_line() is None
        assert reader.trailer(writer.size) is None
        writer.append(START.encode(), True)
        assert reader.start_line() == START.encode()
        assert reader.stream_offset() == writer.size
        writer.append(packet(0), False)
        offset = writer.size
        assert reader.trailer(writer.size) is None
        writer.finish(END, trailer(1))
        assert reader.trailer(writer.size) == (
            trailer(1),
            offset + len(end_line()),
        )
        assert reader.line_before(offset + len(end_line())) == offset


def test_reader_of_a_file_that_ends_too_early_says_so(new_writer, path):
    writer = new_writer()
    with Reader(path) as reader:
        with pytest.raises(StorageError, match="ends before byte"):
            reader.read(0, writer.size + 1)


def test_reader_of_a_directory_says_which(tmp_path):
    with Reader(str(tmp_path)) as reader:
        with pytest.raises(StorageError, match=str(tmp_path)):
            reader.record()


def test_result_that_looks_like_a_trailer_is_none(path):
    # A tail of just the size that is read begins with what looks like one.
    fake = '{"end":1.0,"start":null,"outcome":"result","packets":0}'
    line = wire.encode({"result": fake + "x" * 5000})
    with open(path, "wb") as file:
        file.write(RECORD.encode() + line)
    size = os.path.getsize(path)
    with Reader(path) as reader:
        assert reader.trailer(size) is None


LENGTHS = {
    "short": lambda number: 1,
    "growing": lambda number: number,
    "one huge": lambda number: 200_000 if number == 50 else 3,
    "huge": lambda number: 70_000,
    "uneven": lambda number: (number * 7919) % 500,
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("count", [0, 1, 2, 120])
def test_every_packet_is_found_by_its_number(new_writer, path, lengths, count):
    writer = new_writer()
    writer.append(START.encode(), True)
    begin = writer.size
    offsets = []
    for number in range(count):
        offsets.append(writer.size)
        writer.append(packet(number, "\n{" * LENGTHS[lengths](number)), False)
    end = writer.size
    writer.finish(END, trailer(count))
    with Reader(path) as reader:
        found = [reader.packet_offset(n, begin, end) for n in range(count)]
        assert found == offsets
        assert reader.packet_offset(count, begin, end) == end
        assert reader.packet_offset(10**30, begin, end) == end


def test_packet_among_lines_that_are_none_is_a_storage_error(path):
    with open(path, "wb") as file:
        file.write(RECORD.encode() + packet(0) + b"garbage\n" * 50 + packet(99))
    with Reader(path) as reader:
        with pytest.raises(StorageError, match="no packet"):
            reader.packet_offset(50, reader.stream_offset(), os.path.getsize(path))


# --- what the end of a file says ----------------------------------------------------

STAGES = {
    "record": (b"", None),
    "start": (START.encode(), protocol.RAN_MAYBE),
    "packets": (START.encode() + packet(0) + packet(1), protocol.RAN_YES),
}


def tail_of(path, data):
    with open(path, "wb") as file:
        file.write(data)
    with Reader(path) as reader:
        return Tail(reader)


@pytest.mark.parametrize("stage", STAGES)
def test_file_of_each_stage_is_told_from_the_others(path, stage):
    behind, ran = STAGES[stage]
    tail = tail_of(path, RECORD.encode() + behind)
    assert tail.has_started == (ran is not None)
    assert tail.trailer is None and tail.cut == 0
    assert tail.size == len(RECORD.encode() + behind)
    if ran is not None:
        end = end_of_cut_off(tail)
        assert end.value["type"] == "missing_result"
        assert end.value["ran"] == ran


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b"\0" * 5000,
        b"\n",
        b"garbage",
        b"garbage\n",
        b"\xff\xfe\n" * 30,
        b"{}\n",
        b'{"result":',
        b'{"cancelled":false}\n',
        b'{"error":5}\n',
        b'{"packet":x,"data":1}\n',
        b'{"packet":7,"data":\n',
        b'{"end":1}\n',
        b"\0" * 70_000 + b"\n",
    ],
    ids=lambda garbage: repr(garbage[:22]),
)
def test_garbage_behind_a_file_is_not_counted(path, stage, garbage):
    behind, _ = STAGES[stage]
    whole = RECORD.encode() + behind
    tail = tail_of(path, whole + garbage)
    clean = tail_of(path, whole)
    assert tail.cut == len(garbage)
    assert tail.size == len(whole)
    assert (tail.start, tail.packets, tail.end) == (
        clean.start,
        clean.packets,
        clean.end,
    )


@pytest.mark.parametrize("garbage", [b"", b"\0" * 5000, b"garbage\n", b"x" * 70_000])
def test_garbage_behind_a_trailer_is_not_counted(path, garbage):
    whole = RECORD.encode() + START.encode() + end_line() + trailer(0).encode()
    tail = tail_of(path, whole + garbage)
    assert tail.trailer == trailer(0)
    assert tail.size == len(whole) and tail.cut == len(garbage)


def test_end_without_its_trailer_is_the_end_all_the_same(path):
    whole = RECORD.encode() + START.encode() + packet(0)
    tail = tail_of(path, whole + end_line() + trailer(1).encode()[:-5])
    assert tail.trailer is None
    assert end_of_cut_off(tail) == END
    assert tail.packets == 1
    assert tail.size == len(whole)


def test_packets_without_a_start_that_can_be_read_tell_that_the_job_ran(path):
    start = b"\0" * (len(START.encode()) - 1) + b"\n"
    tail = tail_of(path, RECORD.encode() + start + packet(0))
    assert tail.has_started
    assert end_of_cut_off(tail).value["ran"] == protocol.RAN_YES


@pytest.mark.parametrize("damage", [b"\0", b"}", b'"', b"\xff"])
def test_start_that_can_not_be_read_tells_that_the_job_may_have_run(path, damage):
    start = START.encode()
    for place in range(len(b'{"start":'), len(start) - 1):
        damaged = start[:place] + damage + start[place + 1 :]
        tail = tail_of(path, RECORD.encode() + damaged)
        assert tail.has_started
        assert end_of_cut_off(tail).value["ran"] == protocol.RAN_MAYBE


def test_file_cut_at_any_byte_is_worth_its_whole_lines(path):
    lines = [RECORD.encode(), START.encode(), packet(0), packet(1, "é" * 50)]
    lines += [end_line(), trailer(2).encode()]
    data = b"".join(lines)
    ends = [len(b"".join(lines[: n + 1])) for n in range(len(lines))]
    for cut in range(ends[0], len(data) + 1):
        for garbage in (b"", b"\0" * 100):
            tail = tail_of(path, data[:cut] + garbage)
            assert (tail.start is not None) == (cut >= ends[1])
            assert (tail.trailer is not None) == (cut == ends[5])
            if tail.trailer is None:
                assert tail.packets == (cut >= ends[2]) + (cut >= ends[3])
                assert (tail.end is not None) == (cut >= ends[4])
                # Up to the packets: the end is written again.
                assert tail.size == max(end for end in ends[:4] if end <= cut)


HUGE = "1" + "0" * 400


@pytest.mark.parametrize("key", ["order", "submit", "timeout", "max_exec_time"])
@pytest.mark.parametrize("value", [HUGE, "-1", "1e300", "true", '"5"', "null"])
def test_record_with_a_number_that_can_not_be_is_refused(key, value):
    record = json.loads(make_record().encode())
    line = json.dumps(record | {key: "?"}, separators=(",", ":"))
    with pytest.raises(StorageError, match="first line can't be read"):
        decode_record(line.replace('"?"', value).encode())


@pytest.mark.parametrize("value", [HUGE, "-1", "1e300", "true", '"5"'])
def test_start_and_trailer_with_a_time_that_can_not_be_are_none(value):
    line = START.encode().replace(b"1000.5", value.encode())
    assert decode_start(line) is None
    line = trailer(0).encode().replace(b"1000.5", value.encode())
    assert decode_trailer(line) is None


def test_record_of_another_job_is_refused(tmp_path):
    path = tmp_path / f"{jobid.make()}.jsonl"
    path.write_bytes(RECORD.encode())
    with Reader(str(path)) as reader:
        with pytest.raises(StorageError, match=f"is of job '{RECORD.job_id}'"):
            reader.record()
