"""A client's connection: reads requests, one after the other, and replies. Runs in the
connection's thread; the same for clients and for administration."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import socket
import threading
import time

from .. import protocol, wire
from ..config import DispatcherConfig
from ..errors import (
    INVALID_JOBID,
    INVALID_REQUEST,
    OVERLOADED,
    SHUTDOWN,
    STORAGE_ERROR,
    Refusal,
    reason,
)
from ..log import fields
from ..protocol.admin import ADMIN_PARSERS
from ..protocol.queueadmin import CancelQueue
from .access import Administrator, Door, Guest
from .admin import Admin, Asker
from .audit import Audit
from .disk import StorageError
from .explain import Explaining
from .hosts import Hosts
from .job import Job
from .jobfile import Reader, Record
from .jobs import Jobs
from .listing import list_jobs, list_queues
from .procedures import Procedures
from .queues import Queues
from .reading import Extent, Reading

logger = logging.getLogger(__name__)

_CHUNK = 256 * 1024  # bytes read from a file at a time
_PIECE = 16 * 1024  # bytes that a client must take in one send_timeout
_UNSENT = 64 * 1024
"""What the kernel may hold for a client that is slow to read, beside what is under way.
By itself it takes megabytes, and asks for more only when much of that has gone."""
_PAUSE_FOR_EACH = 0.0002  # s, of a follower for each other one of its job
_LONGEST_PAUSE = 0.1


class Requests:
    """Serves clients.

    :param admin: what the admin socket can do more
    :param audit: where calls and cancels are noted
    :param procedures: asks hosts what they offer
    """

    def __init__(
        self,
        config: DispatcherConfig,
        jobs: Jobs,
        queues: Queues,
        hosts: Hosts,
        admin: Admin,
        audit: Audit,
        procedures: Procedures,
    ) -> None:
        self._config = config
        self._jobs = jobs
        self._queues = queues
        self._hosts = hosts
        self._admin = admin
        self._audit = audit
        self._procedures = procedures
        self._explaining = Explaining(jobs, queues, lambda: self._config.max_running)
        self._stopping = False
        self._stop = wire.Waker()

    def apply(self, config: DispatcherConfig) -> None:
        """Use another configuration from now on; what is said of a line's length, for
        new connections."""
        self._config = config

    @property
    def _max_line(self) -> int:
        # A call carries arguments and info, each of the limit's size.
        return 2 * self._config.max_arguments + wire.WRAPPING_BYTES

    def serve_client(self, door: Door, sock: socket.socket, address: object) -> None:
        self._serve(sock, door.guest(sock, address))

    def serve_admin(self, sock: socket.socket, address: object) -> None:
        self._serve(sock, Administrator(sock))

    def stop(self) -> None:
        """Make all connections end: those that wait for a job are told why."""
        self._stopping = True
        self._stop.wake()

    def close(self) -> None:
        """To be called when the connections' threads have ended."""
        self._stop.close()

    def _serve(self, sock: socket.socket, guest: Guest) -> None:
        try:
            waker = wire.Waker()
        except OSError as error:
            # Out of descriptors: there was one left for this socket, and no more.
            message = protocol.build_refusal(OVERLOADED, reason(error))
            if not guest.speaks_tls:
                with contextlib.suppress(OSError):
                    sock.sendall(wire.encode(message))
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        wakers = (self._stop, waker, *guest.wakers)
        connection = wire.Connection(sock, self._max_line, wakers)
        client = _Client(self, connection, waker, guest)
        try:
            client.serve()
        except (OSError, wire.EndOfStream, wire.DeadlineExceeded, wire.Woken):
            pass  # the client has gone, takes nothing, or we stop: nobody to be told
        finally:
            connection.close()
            waker.close()


class _Client:
    """One connection."""

    def __init__(
        self,
        requests: Requests,
        connection: wire.Connection,
        waker: wire.Waker,
        guest: Guest,
    ) -> None:
        self._requests = requests
        self._jobs = requests._jobs
        self._connection = connection
        self._waker = waker
        self._guest = guest
        is_admin = isinstance(guest, Administrator)
        self._more_operations = ADMIN_PARSERS if is_admin else None
        self._within_line = False  # what was sent last ends in the middle of a line

    @property
    def _config(self) -> DispatcherConfig:
        return self._requests._config

    def serve(self) -> None:
        try:
            if self._guest.enter(self._connection):
                self._serve_requests()
        except Refusal as refusal:
            self._refuse_last(refusal)
        except wire.Woken:
            # Either we stop, or this one has to give way to others.
            refusal = self._guest.refusal_of_displaced()
            if refusal is not None:
                self._connection.send_some(_refusal_line(refusal))

    def _serve_requests(self) -> None:
        line = self._next_request(is_first=True)
        while line is not None:
            try:
                message = wire.decode(line)
                self._guest.identify(message, self._connection)
                request = protocol.parse_request(message, self._more_operations)
                self._carry_out(request)
            except Refusal as refusal:
                if refusal.closes or not self._guest.is_known:
                    raise
                self._refuse(refusal)
            except StorageError as error:
                logger.error("job can't be read %s", fields(error=str(error)))
                if self._within_line:
                    return
                self._refuse(Refusal(STORAGE_ERROR, str(error)))
            line = self._next_request(is_first=False)

    def _carry_out(self, request) -> None:
        # Calls and cancels are checked where their refusal is noted, too.
        if not isinstance(request, (protocol.Call, protocol.Cancel)):
            self._guest.check(request)
        if (operation := _OPERATIONS.get(type(request))) is not None:
            operation(self, request)
        else:
            self._reply(self._administer(request))

    def _next_request(self, is_first: bool) -> bytes | None:
        """The next line; None if no more is to come, and the client has been told."""
        patience = self._config.request_timeout
        try:
            if not is_first:
                idle = self._config.idle_timeout
                self._connection.wait_for_input(time.monotonic() + idle)
            return self._connection.readline(time.monotonic() + patience)
        except Refusal as refusal:
            fault = refusal
        except wire.DeadlineExceeded:
            if not is_first and not self._connection.has_partial_line:
                return None  # a word now could be taken for the next reply
            fault = Refusal(INVALID_REQUEST, f"no whole request in {patience} s")
        except wire.EndOfStream as end:
            if not end.partial:
                return None
            fault = Refusal(INVALID_REQUEST, "incomplete request: no newline")
        self._refuse_last(fault)
        return None

    def _administer(self, request) -> dict:
        def answer() -> dict:
            asker = Asker(self._guest.name, self._wait_for)
            return self._requests._admin.answer(request, asker)

        if isinstance(request, CancelQueue):
            audit = self._requests._audit
            return audit.cancel_queue(self._guest, request.name, answer)
        return answer()

    # --- operations ---

    def _call(self, request: protocol.Call) -> None:
        def submit() -> str:
            self._guest.check(request)
            return self._jobs.submit(request, self._guest.user)

        job_id = self._requests._audit.call(self._guest, request, submit)
        self._reply(protocol.build_job_id(job_id))

    def _cancel(self, request: protocol.Cancel) -> None:
        def cancel() -> Job | bool:
            self._guest.check(request)
            found = self._exists(request.job_id) and self._jobs.request_cancel(
                request.job_id
            )
            if found:
                logger.info(
                    "cancelled %s", fields(job=request.job_id, by=self._guest.name)
                )
            return found

        job = self._requests._audit.cancel(self._guest, request, cancel)
        if isinstance(job, bool):
            self._reply(protocol.build_cancelled(job))
            return
        while not job.has_ended:
            if job.unstored:
                raise Refusal(STORAGE_ERROR, "the job's end can't be stored for now")
            self._wait_for_news(job, None)
        _, _, outcome, _ = job.status()
        self._reply(protocol.build_cancelled(outcome == protocol.CANCELLED))

    def _get_result(self, request: protocol.GetResult) -> None:
        job, reader = self._open(request.job_id)
        with reader:
            reading = Reading(job, reader)
            while (extent := reading.extent()).trailer is None:
                if not request.wait:
                    self._reply(protocol.build_no_result())
                    return
                self._wait_for_news(job, None)
            self._send_range(reading, extent.until, extent.trailer_offset)

    def _get_status(self, request: protocol.GetStatus) -> None:
        job, reader = self._open(request.job_id)
        with reader:
            self._reply(Reading(job, reader).status(self._config.secret_arguments))

    def _follow_stream(self, request: protocol.FollowStream) -> None:
        job, reader = self._open(request.job_id)
        with reader:
            reading = Reading(job, reader)
            extent = reading.extent()
            since = _first_wanted(request, extent)
            offset = None
            while True:
                if extent.packets > since:
                    if offset is None:
                        offset = reading.packet_offset(since, extent)
                    self._send_range(reading, offset, extent.until)
                    offset = extent.until
                if extent.trailer is not None:
                    self._send_range(reading, extent.until, extent.trailer_offset)
                    return
                self._wait_for_packets(job, extent.size)
                extent = reading.extent()

    def _read_stream(self, request: protocol.ReadStream) -> None:
        job, reader = self._open(request.job_id)
        with reader:
            reading = Reading(job, reader)
            extent = reading.extent()
            since = _first_wanted(request, extent)
            until = extent.packets
            if request.limit is not None:
                until = min(until, since + request.limit)
            self._send_range(
                reading,
                reading.packet_offset(since, extent),
                reading.packet_offset(until, extent),
            )
            if extent.trailer is None or until < extent.packets:
                self._reply(protocol.build_continue())
            else:
                self._send_range(reading, extent.until, extent.trailer_offset)

    def _list_jobs(self, request: protocol.ListJobs) -> None:
        may_see = self._may_see if self._guest.rights.are_limited else None
        if self._guest.rights.own_jobs:
            request = request.only_of(self._guest.user)
        secret_names = self._config.secret_arguments
        self._reply(list_jobs(self._jobs, request, secret_names, may_see))

    def _explain(self, request: protocol.Explain) -> None:
        job, reader = self._open(request.job_id)
        with reader:
            self._reply(self._requests._explaining.explain(job, reader, self._may_see))

    def _list_procedures(self, request: protocol.ListHostProcedures) -> None:
        reply = self._requests._procedures.ask(request.host, self._wait_for)
        if self._guest.rights.are_limited:
            allowed = self._guest.rights.allow_procedure
            reply = protocol.keep_procedures(reply, allowed)
        self._reply(reply)

    def _list_queues(self, request: protocol.ListQueues) -> None:
        states = self._requests._queues.states()
        allow = self._guest.rights.allow_queue
        self._reply(list_queues(states, request, allow, self._may_name))

    def _list_hosts(self, request: protocol.ListHosts) -> None:
        hosts = [
            protocol.build_host_entry(host.hostname, host.address, host.port)
            for host in self._requests._hosts.all()
            if self._guest.rights.allow_host(host.hostname)
        ]
        self._reply(protocol.build_host_list(hosts))

    # --- which jobs there are ---

    def _open(self, job_id: object) -> tuple[Job | None, Reader]:
        """Return a job and its file, as :meth:`Jobs.open`: one that this client may
        know of."""
        job, reader = self._jobs.open(job_id)
        if not self._guest.rights.are_limited:
            return job, reader
        try:
            if self._may_see(reader.record()):
                return job, reader
        except BaseException:
            reader.close()
            raise
        reader.close()
        raise Refusal(INVALID_JOBID, f"there is no job {job_id}")

    def _may_see(self, record: Record) -> bool:
        """Tell whether this client may know of a job."""
        queue = record.call.queue
        return self._guest.sees(
            record.call.host,
            record.call.procedure,
            queue and queue.name,
            record.submitted_by,
        )

    def _exists(self, job_id: object) -> bool:
        """Tell whether this client may know of a job.

        :raises Refusal: ``storage_error`` if that can't be found out
        """
        if not self._guest.rights.are_limited:
            return True
        try:
            self._open(job_id)[1].close()
        except Refusal as refusal:
            if refusal.type != INVALID_JOBID:
                raise
            return False
        except StorageError as error:
            raise Refusal(STORAGE_ERROR, str(error)) from None
        return True

    def _may_name(self, job_id: str) -> bool:
        """As :meth:`_exists`; not if that can't be found out."""
        try:
            return self._exists(job_id)
        except Refusal:
            return False

    # --- replies ---

    def _reply(self, message: dict) -> None:
        self._send(wire.encode(message))

    def _refuse(self, refusal: Refusal) -> None:
        self._jobs.counters.count_refused(refusal.type)
        self._send(_refusal_line(refusal))

    def _refuse_last(self, refusal: Refusal) -> None:
        self._refuse(refusal)
        self._connection.close_after_reading()

    def _send_range(self, reading: Reading, begin: int, end: int) -> None:
        while begin < end:
            data = reading.reader.read(begin, min(end, begin + _CHUNK))
            self._send(data)
            begin += len(data)

    def _send(self, data: bytes) -> None:
        self._within_line = True
        view = memoryview(data)
        while view:
            # In pieces: one who is slow, but takes something, is not dropped.
            deadline = time.monotonic() + self._config.send_timeout
            self._connection.send(view[:_PIECE], deadline)
            view = view[_PIECE:]
        self._within_line = not data.endswith(b"\n")

    def _wait_for_packets(self, job: Job, size: int) -> None:
        """Wait as :meth:`_wait_for_news`, and among many followers a moment more, until
        some packets are together: woken for each of them, they would take the
        processor from the job's own thread."""
        job.count_follower(1)
        try:
            self._wait_for_news(job, size)
            others = job.followers - 1
            if others and not job.has_ended:
                time.sleep(min(others * _PAUSE_FOR_EACH, _LONGEST_PAUSE))
        finally:
            job.count_follower(-1)

    def _wait_for_news(self, job: Job, size: int | None) -> None:
        """Wait until a job goes on or the client leaves.

        :raises Refusal: ``shutdown`` if the dispatcher stops meanwhile
        """
        if not job.watch(size, self._waker):
            return
        try:
            # News that came before the stop, an end above all, is not withheld.
            self._wait()
        finally:
            job.unwatch(self._waker)
            self._waker.clear()

    def _wait_for(self, future: concurrent.futures.Future) -> object:
        """Return the result of what another thread does. Errors as for
        :meth:`_wait_for_news`, and those of the future."""
        told = threading.Event()

        def tell(_) -> None:
            self._waker.wake()
            told.set()

        future.add_done_callback(tell)
        while not future.done():
            self._wait()
        # Or the waker would be set after this, and taken for something else.
        told.wait()
        self._waker.clear()
        return future.result()

    def _wait(self) -> None:
        """Wait for the waker, or until the client leaves, and clear it. Errors as for
        :meth:`_wait_for_news`."""
        if self._requests._stopping:
            raise Refusal(
                SHUTDOWN, "the dispatcher stops; ask again later", closes=True
            )
        self._connection.wait_until_woken(None)
        self._waker.clear()


_OPERATIONS = {
    protocol.Call: _Client._call,
    protocol.Cancel: _Client._cancel,
    protocol.GetResult: _Client._get_result,
    protocol.GetStatus: _Client._get_status,
    protocol.FollowStream: _Client._follow_stream,
    protocol.ReadStream: _Client._read_stream,
    protocol.ListJobs: _Client._list_jobs,
    protocol.ListQueues: _Client._list_queues,
    protocol.ListHosts: _Client._list_hosts,
    protocol.ListHostProcedures: _Client._list_procedures,
    protocol.Explain: _Client._explain,
}


def _first_wanted(request, extent: Extent) -> int:
    if request.since is not None:
        return request.since
    return max(0, extent.packets - request.recent)


def _refusal_line(refusal: Refusal) -> bytes:
    return wire.encode(protocol.build_refusal(refusal.type, refusal.message))
