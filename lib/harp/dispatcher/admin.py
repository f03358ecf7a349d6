"""What the admin socket can do beyond what clients can: ask how the dispatcher is, and
stop it."""

from __future__ import annotations

import os

from .. import log
from ..errors import INVALID_REQUEST, Refusal
from ..kinds import LEAST_AGE, Stop
from ..protocol import admin as protocol
from ..protocol import canonical, hostadmin, queueadmin
from .health import Health
from .hosts import Hosts, HostsError
from .jobs import Jobs
from .orders import Reloading, StopOrders
from .pruning import Pruning
from .queues import Queues


class Admin:
    """Administration of a running dispatcher. Called from any thread.

    :param stops: takes orders to stop
    :param reloading: reloads
    """

    def __init__(
        self,
        health: Health,
        hosts: Hosts,
        queues: Queues,
        jobs: Jobs,
        pruning: Pruning,
        stops: StopOrders,
        reloading: Reloading,
    ) -> None:
        self._health = health
        self._hosts = hosts
        self._queues = queues
        self._jobs = jobs
        self._pruning = pruning
        self._stops = stops
        self._reloading = reloading
        self._stopping = False

    def answer(self, request, user: str | None) -> dict:
        """Return the reply to a request of the admin socket.

        :param request: as parsed by :data:`harp.protocol.admin.ADMIN_PARSERS`
        :param user: name of who asks, None: unknown
        :raises Refusal: if it can't be done
        """
        if isinstance(request, protocol.Stop):
            return self._stop(request, user)
        return _OPERATIONS[type(request)](self, request)

    def _status(self, request: protocol.GetDispatcherStatus) -> dict:
        return self._health.status(self._stopping)

    def _metrics(self, request: protocol.GetMetrics) -> dict:
        return protocol.build_metrics(self._health.metrics())

    def _prune(self, request: protocol.Prune) -> dict:
        age = self._pruning.max_age if request.age is None else request.age
        if age is None:
            raise Refusal(INVALID_REQUEST, 'max_age is "never": say which age')
        if age < LEAST_AGE:
            raise Refusal(
                INVALID_REQUEST,
                "age must be at least a day: a younger job may be submitted again",
            )
        return protocol.build_pruned(*self._pruning.prune(age, request.since))

    def _stop(self, request: protocol.Stop, user: str | None) -> dict:
        if not request.drain:
            self._stopping = True
        self._stops.give(
            Stop(request.drain, request.seconds),
            f"harpcallerd stop by {user or 'an unknown user'}",
        )
        return protocol.build_stopping(os.getpid())

    def _reload(self, request: protocol.Reload) -> dict:
        return protocol.build_reloaded(*self._reloading.wait(self._reloading.want()))

    def _reopen_logs(self, request: protocol.ReopenLogs) -> dict:
        return protocol.build_reopened(log.reopen())

    def _refresh_hosts(self, request: hostadmin.RefreshHosts) -> dict:
        try:
            done = self._hosts.refresh(request.force, request.dry_run)
        except HostsError as error:
            known = self._hosts.count()
            done = hostadmin.Refreshed(
                None, known, known, [], [], [], 0, False, str(error)
            )
        return hostadmin.build_refreshed(done)

    def _list_queue(self, request: queueadmin.ListQueue) -> dict:
        running, waiting = self._queues.members(canonical(request.name))
        return queueadmin.build_queue_jobs(
            [job.id for job in running], [job.id for job in waiting]
        )

    def _cancel_queue(self, request: queueadmin.CancelQueue) -> dict:
        key = canonical(request.name)
        return queueadmin.build_queue_cancelled(*self._jobs.cancel_queue(key))

    def _get_host(self, request: hostadmin.GetHost) -> dict:
        host = self._hosts.get(request.hostname)
        return hostadmin.build_host(None if host is None else host.public())


_OPERATIONS = {
    protocol.GetDispatcherStatus: Admin._status,
    protocol.GetMetrics: Admin._metrics,
    protocol.Prune: Admin._prune,
    protocol.Reload: Admin._reload,
    protocol.ReopenLogs: Admin._reopen_logs,
    hostadmin.RefreshHosts: Admin._refresh_hosts,
    hostadmin.GetHost: Admin._get_host,
    queueadmin.ListQueue: Admin._list_queue,
    queueadmin.CancelQueue: Admin._cancel_queue,
}
