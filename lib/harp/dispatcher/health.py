"""How the dispatcher is: its status, what doesn't work as it should, its metrics. Keeps
nothing itself, asks the parts when it is asked. Called from any thread."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence

from .. import __version__, protocol
from ..certificate import date
from ..protocol.admin import Degraded, DispatcherStatus, Metric
from ..server import Server
from .audit import Audit
from .counters import Counters
from .disk import StorageError
from .hosts import Hosts
from .joblog import JobLog
from .jobs import Jobs
from .pruning import Pruning
from .queues import Queues
from .trust import Trust


class Health:
    """The parts that are asked.

    :param servers: those that accept connections, as soon as they do
    """

    def __init__(
        self,
        log: JobLog,
        queues: Queues,
        hosts: Hosts,
        trust: Trust,
        jobs: Jobs,
        pruning: Pruning,
        audit: Audit,
        servers: Sequence[Server],
    ) -> None:
        self._log = log
        self._queues = queues
        self._hosts = hosts
        self._trust = trust
        self._jobs = jobs
        self._pruning = pruning
        self._audit = audit
        self._servers = servers
        self._since = time.time()

    def status(self, stopping: bool) -> DispatcherStatus:
        """Return how it is.

        :param stopping: whether the dispatcher stops
        """
        queued, running = self._queues.counts()
        return DispatcherStatus(
            version=__version__,
            pid=os.getpid(),
            since=self._since,
            queued=queued,
            running=running,
            queues=len(self._queues.states()),
            connections=self._connections(),
            hosts=self._hosts.count(),
            free=self._free(),
            reserve=self._log.reserve,
            stopping=stopping,
            draining=self._queues.closed and not stopping,
            degraded=list(self.degraded()),
        )

    def _connections(self) -> int:
        return sum(server.connections for server in self._servers)

    def _free(self) -> int | None:
        try:
            return self._log.free()
        except StorageError:
            return None

    # --- what doesn't work ---

    def degraded(self) -> Iterator[Degraded]:
        """Yield what doesn't work as it should at the moment."""
        yield from self._storage_faults()
        yield from self._shortages()
        since = self._pruning.doubtful_since
        if since is not None:
            yield Degraded(
                "clock",
                since,
                "the clock was set forward; nothing is removed from the log for a day",
            )
        trouble = self._hosts.trouble()
        if trouble is not None:
            text = f"the hosts may be out of date: {trouble.text}"
            yield Degraded("hosts", trouble.since, text)
        ends = [
            (end, hostname)
            for hostname, end in self._trust.expiring().items()
            if self._hosts.get(hostname) is not None
        ]
        if ends:
            end, hostname = min(ends)
            yield Degraded(
                "certificates",
                None,
                f"{len(ends)} hosts have a certificate that ends soon or has ended, "
                f"first {hostname}: {date(end)}",
            )

    def _storage_faults(self) -> Iterator[Degraded]:
        free = self._free()
        self._log.look_again()
        since = self._log.refusing_since
        if free is None:
            yield Degraded("storage", since, "the job log's disk can't be asked")
        elif free < self._log.reserve:
            yield Degraded(
                "no_room",
                since,
                f"{free} bytes free, less than the reserve of {self._log.reserve}: "
                "calls are refused; make room, or lower limits.reserve",
            )
        elif since is not None:
            yield Degraded(
                "storage", since, "the last call could not be stored, see the log"
            )
        since = self._audit.failing_since
        if since is not None:
            text = "the audit log can't be written: calls are refused, see the log"
            yield Degraded("audit", since, text)
        count, since = self._jobs.unstored()
        if count:
            yield Degraded(
                "unstored_ends", since, f"{count} jobs whose end can't be stored"
            )

    def _shortages(self) -> Iterator[Degraded]:
        shortages = filter(None, [server.short_since for server in self._servers])
        since = min(shortages, default=None)
        if since is not None:
            yield Degraded(
                "resources",
                since,
                "out of descriptors, memory or threads: accepting connections pauses",
            )
        since = self._jobs.threads_refused_since()
        if since is not None:
            text = "no further thread can be started, jobs wait for one"
            yield Degraded("threads", since, text)

    # --- metrics ---

    def metrics(self) -> list[Metric]:
        """Return all figures."""
        return [*self._gauges(), *_counts(self._jobs.counters), *self._degraded()]

    def _gauges(self) -> Iterator[Metric]:
        queued, running = self._queues.counts()
        build = {"version": __version__, "python": platform.python_version()}
        yield _gauge("build_info", "Always 1; what runs.", 1, build)
        yield _gauge(
            "start_time_seconds", "When the dispatcher was started.", self._since
        )
        states = [
            ({"state": protocol.QUEUED}, queued),
            ({"state": protocol.RUNNING}, running),
        ]
        yield _metric("jobs", "gauge", "Jobs that have not ended, by state.", states)
        yield _gauge(
            "queues",
            "Queues with a name that have jobs.",
            len(self._queues.states()),
        )
        yield _gauge(
            "longest_wait_seconds",
            "How long the queued job that was submitted first has waited.",
            self._longest_wait(),
        )
        free = self._free()
        if free is not None:
            yield _gauge("log_free_bytes", "Room on the job log's disk.", free)
        yield _gauge(
            "log_reserve_bytes",
            "With less room than that, calls are refused.",
            self._log.reserve,
        )
        yield _gauge("connections", "Open connections.", self._connections())
        yield _gauge("hosts", "Hosts that are known.", self._hosts.count())
        yield _gauge("threads", "Threads of the process.", threading.active_count())

    def _longest_wait(self) -> float:
        job_id = self._queues.first()
        if job_id is None:
            return 0
        try:
            # The time inside the id is the client's.
            return max(0.0, time.time() - self._log.record(job_id).submit)
        except StorageError:
            return 0  # it has ended meanwhile

    def _degraded(self) -> Iterator[Metric]:
        yield _count(
            "jobs_pruned", "Jobs removed because of their age.", self._pruning.pruned
        )
        yield _metric(
            "degraded",
            "gauge",
            "What does not work as it should; nothing, if all does.",
            [({"what": entry.what}, 1) for entry in self.degraded()],
        )


def _counts(counters: Counters) -> Iterator[Metric]:
    counts = counters.counts()
    yield _count("jobs_submitted", "Jobs accepted.", counts.submitted)
    for name, help, label, values in (
        ("jobs_ended", "Jobs that ended, by outcome.", "outcome", counts.ended),
        ("job_errors", "Jobs that ended with an error.", "type", counts.errors),
        ("requests_refused", "Requests that were refused.", "type", counts.refused),
    ):
        samples = [({label: key}, value) for key, value in sorted(values.items())]
        yield _metric(f"{name}_total", "counter", help, samples)
    yield _count("packets", "Streamed values of jobs that ended.", counts.packets)
    yield _count("job_bytes", "Bytes of the files of jobs that ended.", counts.bytes)


def _metric(name: str, type: str, help: str, samples: list) -> Metric:
    return Metric(f"harpcaller_{name}", type, help, samples)


def _gauge(
    name: str, help: str, value: float, labels: dict[str, str] | None = None
) -> Metric:
    return _metric(name, "gauge", help, [(labels or {}, value)])


def _count(name: str, help: str, value: int) -> Metric:
    return _metric(f"{name}_total", "counter", help, [({}, value)])
