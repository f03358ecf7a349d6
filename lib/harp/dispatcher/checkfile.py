"""Whether the file of a job is as doc/joblog.rst says, line by line, in the memory that
its longest line takes. Damage in the middle, which a start doesn't look for, is found
here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from .. import protocol, wire
from ..errors import Refusal
from .disk import StorageError
from .jobfile import (
    FORMAT,
    Record,
    Start,
    decode_record,
    decode_start,
    decode_trailer,
    packet_number,
)

# What the lines of a file have been so far.
_NOTHING, _RECORD, _START, _END, _TRAILER = range(5)


class FileCheck:
    """One look at one file.

    :param size: bytes to look at; a line that begins before is read to its end
    :param most: bytes that a line may have
    """

    def __init__(self, file: BinaryIO, size: int, job_id: str, most: int) -> None:
        self._file = file
        self._size = size
        self._job_id = job_id
        self._most = most
        self._offset = 0
        self._stage = _NOTHING
        self._start: Start | None = None
        self._end: protocol.End | None = None
        # Number of the next packet; None: behind damage, so that nobody knows.
        self._next: int | None = 0
        self._last = -1  # number of the last packet
        self._damaged = False  # whether there was a line that could not be read

    @property
    def is_unended(self) -> bool:
        """Whether it was read to its end, and was not that of a job that has ended."""
        return self._stage not in (_NOTHING, _TRAILER)

    def faults(self, may_grow: bool) -> Iterator[tuple[int, str]]:
        """Yield each fault, with the offset of its line.

        :param may_grow: somebody may be writing: the end of the file is no fault
        """
        for offset, line in self._lines():
            if line is None:
                self._note_damage()
                yield offset, f"line of more than {self._most} bytes; not looked into"
            elif not line.endswith(b"\n"):
                if not may_grow:
                    yield offset, _describe_cut(line)
                return
            else:
                for text in self._take(line[:-1]):
                    yield offset, text
                if self._stage == _NOTHING:
                    return  # of another format: nothing more can be told
        if self._stage == _NOTHING:
            yield 0, "file is empty"
        elif self._stage == _END and not may_grow:
            yield self._offset, "no trailer behind the end"

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield each line with its offset; None for one that is too long."""
        while self._offset < self._size:
            begin = self._offset
            line = self._file.readline(self._most)
            if not line:
                return
            self._offset += len(line)
            if len(line) < self._most or line.endswith(b"\n"):
                yield begin, line
                continue
            while line and not line.endswith(b"\n"):
                line = self._file.readline(1 << 20)
                self._offset += len(line)
            yield begin, None

    def _note_damage(self) -> None:
        if self._stage == _NOTHING:
            self._stage = _RECORD
        self._damaged = True
        self._next = None

    def _take(self, line: bytes) -> Iterator[str]:
        if self._stage == _TRAILER:
            yield "line behind the trailer"
            return
        if self._stage == _NOTHING:
            yield from self._take_record(line)
            return
        try:
            message = wire.decode(line)
        except Refusal as refusal:
            self._note_damage()
            yield _describe_damage(line, refusal)
            return
        if "packet" in message:
            yield from self._take_packet(line, message)
        elif "end" in message:
            yield from self._take_trailer(line)
        elif "start" in message:
            yield from self._take_start(line)
        else:
            yield from self._take_end(message)

    def _take_record(self, line: bytes) -> Iterator[str]:
        try:
            number = wire.decode(line).get("harpcaller_job")
            if isinstance(number, int) and number > FORMAT:
                yield (
                    f"format {number} is newer than this program, which knows "
                    f"{FORMAT}; not looked into"
                )
                return
        except Refusal as refusal:
            self._note_damage()
            yield f"first line is damaged: {_describe_damage(line, refusal)}"
            return
        self._stage = _RECORD
        try:
            yield from self._compare_record(decode_record(line))
        except StorageError as error:
            self._damaged = True  # it may have been another line
            yield str(error)

    def _compare_record(self, record: Record) -> Iterator[str]:
        if record.job_id != self._job_id:
            yield f"first line is of another job: {record.job_id!a}"
        if (record.concurrency is None) != (record.call.queue is None):
            yield "first line has a queue or a concurrency, but not both"

    def _take_start(self, line: bytes) -> Iterator[str]:
        if self._stage != _RECORD or self._last >= 0:
            yield "start in the wrong place"
        self._stage = max(self._stage, _START)
        self._start = decode_start(line)
        if self._start is None:
            yield "start can't be read"

    def _take_packet(self, line: bytes, message: dict) -> Iterator[str]:
        if self._stage == _END:
            yield "packet behind the end"
        elif self._stage == _RECORD and not self._damaged:
            yield "packet before the start"
        self._stage = max(self._stage, _START)
        try:
            number = packet_number(line)
        except StorageError:
            self._next = None
            yield "packet without a number in front"
            return
        if self._next not in (None, number):
            yield f"packet {number} where {self._next} should be"
        if list(message) != _PACKET_KEYS or not isinstance(message["time"], _NUMBER):
            yield f"packet {number} is not as it should be"
        self._last = number
        self._next = number + 1

    def _take_end(self, message: dict) -> Iterator[str]:
        try:
            end = protocol.parse_reply_end(message)
        except Refusal as refusal:
            self._note_damage()
            yield f"line is nothing that is known: {refusal.message}"
            return
        if self._stage == _END:
            yield "second end"
        elif self._stage == _RECORD and end.outcome in _RETURNED and not self._damaged:
            yield f"{end.outcome} without a start"
        self._stage = _END
        self._end = end

    def _take_trailer(self, line: bytes) -> Iterator[str]:
        if self._stage != _END and not self._damaged:
            yield "trailer without an end before it"
        self._stage = _TRAILER
        trailer = decode_trailer(line)
        if trailer is None:
            yield "trailer can't be read"
            return
        if self._end is not None and trailer.outcome != self._end.outcome:
            yield f"trailer says {trailer.outcome!a}, the end is {self._end.outcome}"
        elif trailer.outcome not in protocol.OUTCOMES:
            yield f"trailer says {trailer.outcome!a}, which is no outcome"
        packets = self._last + 1
        if self._next is not None and trailer.packets != packets:
            yield f"trailer says {trailer.packets} packets, there are {packets}"
        # Not whether the end is later: the clock may have been set meanwhile.
        if self._start is not None and trailer.start != self._start.start:
            yield f"trailer says started {trailer.start}, the start {self._start.start}"


_PACKET_KEYS = list(protocol.build_packet(0, 0, None))
_NUMBER = (int, float)
_RETURNED = (protocol.RESULT, protocol.EXCEPTION)


def _describe_damage(line: bytes, refusal: Refusal) -> str:
    nuls = line.count(b"\0")
    return f"{nuls} NUL bytes" if nuls else refusal.message


def _describe_cut(line: bytes) -> str:
    nuls = line.count(b"\0")
    behind = f", {nuls} of them NUL" if nuls else ""
    return f"last line is not whole: {len(line)} bytes without a newline{behind}"
