"""The file of a job: its format, writing it and reading it.

Lines of JSON, in this order (doc/joblog.rst is the format's text):

- the record: what was submitted, by whom and when; without it there is no job;
- the start: when the job left its queue and where it went, written just before the
  request is sent; absent if it never came so far;
- packets, exactly as clients get them;
- the end, exactly as clients get it, and the trailer. The job has ended when the
  trailer is whole.

A file is written by one thread at a time and only ever appended to. Readers have
descriptors of their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .. import protocol, wire
from ..errors import Refusal
from . import layout
from .disk import Disk, FileGone, StorageError

FORMAT = 1

_BLOCK = 64 * 1024
_RECORD_PREFIX = b'{"harpcaller_job":'
_START_PREFIX = b'{"start":'
_TRAILER_PREFIX = b'{"end":'
_MAX_TRAILER = 4096
_MOST_ORDER = 2**63 - 1
_LAST_TIME = 253_402_300_799  # the end of the year 9999


class Record(NamedTuple):
    """The first line.

    :ivar order: of the submissions; that of a later one is higher as long as the
        earlier one hasn't ended, also across restarts
    :ivar submit: seconds since the epoch
    :ivar timeout: seconds, as it applies
    :ivar max_exec_time: seconds, as it applies
    :ivar concurrency: of its queue, as it applies; None: no queue
    :ivar submitted_by: verified name of the client, None for an anonymous one
    :ivar call: as it was requested
    """

    job_id: str
    order: int
    submit: float
    timeout: int
    max_exec_time: int
    concurrency: int | None
    submitted_by: str | None
    call: protocol.Call

    def encode(self) -> bytes:
        return wire.encode(
            {
                "harpcaller_job": FORMAT,
                "job_id": self.job_id,
                "order": self.order,
                "submit": self.submit,
                "timeout": self.timeout,
                "max_exec_time": self.max_exec_time,
                "concurrency": self.concurrency,
                "submitted_by": self.submitted_by,
                "request": protocol.build_call(self.call),
            }
        )


class Trailer(NamedTuple):
    """The last line.

    :ivar end: seconds since the epoch
    :ivar start: when the job left its queue; None if it never did
    :ivar outcome: one of :data:`harp.protocol.OUTCOMES`
    :ivar packets: how many there are
    """

    end: float
    start: float | None
    outcome: str
    packets: int

    def encode(self) -> bytes:
        return wire.encode(self._asdict())


class Start(NamedTuple):
    """The second line, once the job is about to be sent to its host."""

    start: float
    address: str
    port: int

    def encode(self) -> bytes:
        return wire.encode(self._asdict())


def decode_record(line: bytes) -> Record:
    """Raises StorageError if ``line`` isn't a record that can be read."""
    try:
        if not line.startswith(_RECORD_PREFIX):
            raise ValueError("no record")
        fields = wire.decode(line)
        if fields["harpcaller_job"] != FORMAT:
            raise ValueError(f"format {fields['harpcaller_job']!r} is unknown")
        call = protocol.parse_request(protocol.field(fields, "request", dict))
        if not isinstance(call, protocol.Call):
            raise ValueError("holds no call")
        return Record(
            protocol.field(fields, "job_id", str),
            _whole(fields["order"], 0, _MOST_ORDER),
            _time(fields["submit"]),
            _whole(fields["timeout"], 1, protocol.MAX_SECONDS),
            _whole(fields["max_exec_time"], 1, protocol.MAX_SECONDS),
            _or_none(fields["concurrency"], _concurrency),
            _or_none(fields["submitted_by"], _text),
            call,
        )
    except (Refusal, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"first line can't be read: {error}") from None


def decode_trailer(line: bytes) -> Trailer | None:
    """Return None if ``line`` isn't a trailer."""
    if not line.startswith(_TRAILER_PREFIX):
        return None
    try:
        fields = wire.decode(line)
        return Trailer(
            _time(fields["end"]),
            _or_none(fields["start"], _time),
            _text(fields["outcome"]),
            _whole(fields["packets"], 0, _MOST_ORDER),
        )
    except (Refusal, KeyError, TypeError, ValueError):
        return None


def decode_start(line: bytes) -> Start | None:
    """Return None if ``line`` isn't a start."""
    if not line.startswith(_START_PREFIX):
        return None
    try:
        fields = wire.decode(line)
        return Start(
            _time(fields["start"]),
            _text(fields["address"]),
            _whole(fields["port"], 0, 65535),
        )
    except (Refusal, KeyError, TypeError, ValueError):
        return None


def _time(value: object) -> float:
    """Return a time in seconds since the epoch that can be written as a date."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"no time: {value!r}")
    if not 0 <= value <= _LAST_TIME:
        raise ValueError("no time: out of range")
    return float(value)


def _whole(value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"no integer: {value!r}")
    if not least <= value <= most:
        raise ValueError(f"no integer from {least} to {most}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r}")
    return value


def _concurrency(value: object) -> int:
    return _whole(value, 1, protocol.MAX_CONCURRENCY)


def _or_none(value: object, parse: Callable[[object], Any]) -> Any:
    return None if value is None else parse(value)


def packet_number(line: bytes) -> int:
    """Return the number in the beginning of a packet's line.

    :raises StorageError: if it isn't one
    """
    prefix = len(protocol.PACKET_PREFIX)
    digits, comma, _ = line[prefix : prefix + 24].partition(b",")
    if not (line.startswith(protocol.PACKET_PREFIX) and comma and digits.isdigit()):
        raise StorageError(f"no packet where one should be: {line[:40]!r}")
    return int(digits)


class Writer:
    """Appends whole lines to a job's file, or nothing.

    :param path: of the file, which exists
    :param size: of its whole lines; whatever is behind them is cut off
    :param most: bytes that the file may have, but for its end
    :raises StorageError: if the file can't be opened
    """

    def __init__(self, disk: Disk, path: str, size: int, most: int) -> None:
        self._disk = disk
        self._path = path
        self._most = most
        self.size = size
        # Set after a failed sync: the kernel may have dropped what it couldn't write
        # and called it clean, so that another sync would succeed and mean nothing.
        # Only a copy can be trusted then.
        self._suspect = False
        try:
            self._fd = disk.open(path)
        except FileNotFoundError as error:
            raise FileGone(f"{path}: {error.strerror}") from None
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from None
        self._whole = os.fstat(self._fd).st_size == size

    def append(self, lines: bytes, sync: bool) -> None:
        """Append packets or the start.

        :raises StorageError: if they aren't in the file, or, with ``sync``, may not be
            on the disk; the file is as it was
        """
        if self.size + len(lines) > self._most:
            raise StorageError(
                f"{self._path}: would grow beyond {self._most} bytes (limits.job_size)"
            )
        self._append(lines, sync)

    def finish(self, end: protocol.End, trailer: Trailer) -> None:
        """Append the end and the trailer, and sync. Errors as for :meth:`append`."""
        self._append(wire.encode(protocol.build_end(end)) + trailer.encode(), True)

    def close(self) -> None:
        os.close(self._fd)

    def _append(self, lines: bytes, sync: bool) -> None:
        try:
            if not self._suspect:
                self._write(lines, sync)
            if self._suspect:
                self._rewrite(lines)
        except OSError as error:
            self._try_to_cut_back()
            raise StorageError(f"{self._path}: {error.strerror}") from None
        self.size += len(lines)
        self._whole = True

    def _write(self, lines: bytes, sync: bool) -> None:
        self._cut_back()
        self._whole = False
        self._disk.write(self._fd, lines)
        if sync:
            try:
                self._disk.sync(self._fd)
            except OSError:
                self._suspect = True

    def _cut_back(self) -> None:
        if not self._whole:
            self._disk.truncate(self._fd, self.size)
            self._whole = True

    def _try_to_cut_back(self) -> None:
        try:
            self._cut_back()
        except OSError:
            pass  # done before the next write

    def _rewrite(self, lines: bytes) -> None:
        """Put a synced copy with ``lines`` in the file's place."""
        # A reader that has the old file open must not find there what comes to nothing.
        self._cut_back()
        directory, name = os.path.split(self._path)
        path = os.path.join(directory, layout.new_name(layout.job_of(name)))
        copy = self._disk.create(path)
        try:
            self._copy(copy)
            self._disk.write(copy, lines)
            self._disk.sync(copy)
            self._disk.rename(path, self._path)
        except BaseException:
            os.close(copy)
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        # The copy is the file from now on, even if that isn't on the disk yet.
        os.close(self._fd)
        self._fd = copy
        self._whole = False
        self._disk.sync_directory(directory)
        self._suspect = False

    def _copy(self, copy: int) -> None:
        with open(self._path, "rb") as old:
            remaining = self.size
            while remaining:
                block = old.read(min(_BLOCK, remaining))
                if not block:
                    raise OSError(errno.EIO, "is shorter than what was written")
                self._disk.write(copy, block)
                remaining -= len(block)


class Reader:
    """A job's file, read by one thread. Offsets are in bytes; whoever reads a file
    that grows knows from the job how far its lines are whole.

    :param paths: where it may be; the first that exists is opened
    :raises FileNotFoundError: if there is no such file
    """

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._fd = self._open()
        self._record_line: bytes | None = None

    def _open(self) -> int:
        for path in self._paths:
            try:
                # Not to wait for the writer of a pipe, if somebody has put one there.
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            self.path = path
            return fd
        raise FileNotFoundError(errno.ENOENT, "no such file", self._paths[-1])

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def file_size(self) -> int:
        return os.fstat(self._fd).st_size

    def modified(self) -> float:
        """Return when something was last added to it, in seconds since the epoch."""
        return os.fstat(self._fd).st_mtime

    def record(self) -> Record:
        """Raises StorageError if the first line can't be read, or is of another job."""
        try:
            record = decode_record(self._first_line()[:-1])
        except StorageError as error:
            raise StorageError(f"{self.path}: {error}") from None
        if os.path.basename(self.path) != layout.file_name(record.job_id):
            raise StorageError(f"{self.path}: is of job {record.job_id[:100]!a}")
        return record

    def _first_line(self) -> bytes:
        if self._record_line is None:
            self._record_line = self._line_at(0)
        return self._record_line

    def record_holds(self, texts: Iterable[bytes]) -> bool:
        """Tell whether all of some bytes are in the first line. That is had for much
        less than the record."""
        line = self._first_line()
        return all(text in line for text in texts)

    def record_size(self) -> int:
        """Return the bytes of the first line."""
        return len(self._first_line())

    def second_line(self) -> bytes:
        """Return what is behind the record, with its newline if it is whole."""
        return self._line_at(len(self._first_line()))

    def start_line(self) -> bytes | None:
        """Return the second line if it is a start."""
        line = self.second_line()
        return line if line.startswith(_START_PREFIX) else None

    def stream_offset(self) -> int:
        """Return where the packets begin; to be asked when the job has started."""
        return len(self._first_line()) + len(self.start_line() or b"")

    def trailer(self, size: int) -> tuple[Trailer, int] | None:
        """Return the trailer and its offset; None if the job hasn't ended.

        :param size: of the file
        """
        tail = self.read(max(0, size - _MAX_TRAILER), size)
        before = tail.rfind(b"\n", 0, -1)
        if before < 0 or not tail.endswith(b"\n"):
            return None
        line = tail[before + 1 : -1]
        trailer = decode_trailer(line)
        return None if trailer is None else (trailer, size - len(line) - 1)

    def line_before(self, offset: int) -> int:
        """Return the offset of the line that ends just before ``offset``."""
        end = offset - 1  # its newline
        while end > 0:
            begin = max(0, end - _BLOCK)
            newline = self.read(begin, end).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
        return 0

    def packet_offset(self, number: int, begin: int, end: int) -> int:
        """Return the offset of a packet, or ``end`` if it isn't there yet.

        :param begin: where the packets begin
        :param end: where they end, for now
        :raises StorageError: if something else is found between
        """
        # Invariant: packets before `begin` are below `number`, from `end` they aren't.
        while begin < end:
            middle = self._line_start((begin + end) // 2, begin)
            head = self.read(middle, min(middle + 64, end))
            if packet_number(head) < number:
                begin = middle + len(self._line_at(middle))
            else:
                end = middle
        return end

    def _line_start(self, offset: int, least: int) -> int:
        """The beginning of the line in which ``offset`` lies."""
        return max(least, self.line_before(offset + 1))

    def read(self, begin: int, end: int) -> bytes:
        """Return the bytes of a range, which the caller knows to be there.

        :raises StorageError: if they aren't
        """
        data = self._read(begin, end)
        if len(data) < end - begin:
            # After a failed sync the writer has put a copy in the file's place, and
            # this descriptor is still that of the old one.
            self._open_again()
            data = self._read(begin, end)
        if len(data) < end - begin:
            raise StorageError(f"{self.path}: ends before byte {end}")
        return data

    def _open_again(self) -> None:
        try:
            fd = self._open()
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}") from None
        os.close(self._fd)
        self._fd = fd

    def _read(self, begin: int, end: int) -> bytes:
        parts = []
        while begin < end:
            part = self._pread(min(end - begin, 1 << 20), begin)
            if not part:
                break
            parts.append(part)
            begin += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _line_at(self, offset: int) -> bytes:
        """The line that begins at ``offset``, with its newline if it has one."""
        parts = []
        while True:
            block = self._pread(_BLOCK, offset)
            newline = block.find(b"\n")
            if newline >= 0 or not block:
                parts.append(block[: newline + 1])
                return b"".join(parts)
            parts.append(block)
            offset += len(block)

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}") from None
