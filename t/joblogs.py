"""What tests of the job log share: records, files at every stage, a disk that fails."""

import errno
import os

from harp import jobid, protocol, wire
from harp.dispatcher.disk import Disk
from harp.dispatcher.jobfile import Record, Start, Trailer
from harp.dispatcher.joblog import JobLog
from harp.dispatcher.layout import hour_of

CALL = protocol.Call("web01", "restart", ["nginx", {"graceful": True}])
END = protocol.End(protocol.RESULT, {"pid": 4711})
START = Start(1000.5, "127.0.0.1", 4306)


def make_record(job_id=None, order=1, call=CALL, concurrency=None, by=None):
    return Record(
        job_id=job_id or jobid.make(),
        order=order,
        submit=999.25,
        timeout=600,
        max_exec_time=86400,
        concurrency=concurrency,
        submitted_by=by,
        call=call,
    )


def packet(number, data="x"):
    return wire.encode(protocol.build_packet(number, 1001.0 + number, data))


def trailer(packets, outcome=protocol.RESULT, start=1000.5):
    return Trailer(2000.75, start, outcome, packets)


def end_line(end=END):
    return wire.encode(protocol.build_end(end))


class FailingDisk(Disk):
    """A disk whose operations fail when they are told.

    :ivar faults: from an operation's name to how often it works before it fails, and
        with what; ``fail`` and ``mend`` set it
    :ivar operations: names of all operations, in order
    """

    def __init__(self):
        self.faults = {}
        self.operations = []

    def fail(self, operation, code=errno.EIO, after=0, times=10**9):
        self.faults[operation] = [after, times, code]

    def mend(self):
        self.faults.clear()

    def _do(self, operation):
        self.operations.append(operation)
        fault = self.faults.get(operation)
        if fault is None:
            return False
        if fault[0] > 0:
            fault[0] -= 1
            return False
        fault[1] -= 1
        return fault[1] >= 0

    def _check(self, operation):
        if self._do(operation):
            code = self.faults[operation][2]
            raise OSError(code, os.strerror(code))

    def create(self, path):
        self._check("create")
        return super().create(path)

    def open(self, path):
        self._check("open")
        return super().open(path)

    def write(self, fd, data):
        if self._do("write"):
            # As a real one that becomes full: a part is written.
            super().write(fd, bytes(data)[: len(data) // 2])
            code = self.faults["write"][2]
            raise OSError(code, os.strerror(code))
        super().write(fd, data)

    def sync(self, fd):
        self._check("sync")
        super().sync(fd)

    def sync_directory(self, path):
        self._check("sync_directory")
        super().sync_directory(path)

    def truncate(self, fd, size):
        self._check("truncate")
        super().truncate(fd, size)

    def rename(self, source, target):
        self._check("rename")
        super().rename(source, target)

    def remove(self, path):
        self._check("remove")
        super().remove(path)

    def free(self, path):
        self._check("free")
        return super().free(path)


def open_log(directory, disk=None, reserve=1, max_job_size=1 << 30):
    log = JobLog(
        str(directory), max_job_size=max_job_size, reserve=reserve, disk=disk
    )
    log.open()
    return log


def write_done_jobs(directory, times, **changes):
    """Write the files of jobs that have ended, as a dispatcher leaves them, without its
    cost; return their ids.

    :param directory: of the job log
    :param times: of their submission, seconds since the epoch
    :param changes: what their calls have beside :data:`CALL`; a function is called with
        a job's number
    """
    ids = []
    for number, submit in enumerate(times):
        job_id = jobid.make(int(submit * 1000))
        more = {
            key: value(number) if callable(value) else value
            for key, value in changes.items()
        }
        record = make_record(job_id, number, CALL._replace(**more))
        lines = record._replace(submit=submit).encode()
        lines += START._replace(start=submit).encode() + end_line()
        lines += Trailer(submit + 1, submit, END.outcome, 0).encode()
        path = os.path.join(directory, "done", hour_of(job_id), f"{job_id}.jsonl")
        try:
            file = open(path, "wb")
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o700)
            file = open(path, "wb")
        with file:
            file.write(lines)
        ids.append(job_id)
    return ids
