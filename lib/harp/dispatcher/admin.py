"""What the admin socket can be asked beyond what clients can: how the dispatcher is; to
read its files again, remove old jobs, stop; about queues and hosts as a whole. The log
tells who has changed something."""

from __future__ import annotations

import concurrent.futures
import logging
import os
from collections.abc import Callable
from typing import NamedTuple

from .. import log
from ..errors import INVALID_REQUEST, Refusal
from ..kinds import LEAST_AGE
from ..log import fields
from ..protocol import admin as messages
from ..protocol import canonical, hostadmin, queueadmin
from .health import Health
from .hosts import Hosts, HostsError
from .jobs import Jobs
from .orders import Reloading, StopOrders
from .pruning import Pruning
from .queues import Queues

logger = logging.getLogger(__name__)


class Asker(NamedTuple):
    """Who asks.

    :ivar name: system user and process, for the log
    :ivar wait: returns the result of a future; raises if its client has gone
    """

    name: str
    wait: Callable[[concurrent.futures.Future], object]


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

    def answer(self, request, asker: Asker) -> dict:
        """Return the reply to a request of the admin socket.

        :param request: as parsed by :data:`harp.protocol.admin.ADMIN_PARSERS`
        :raises Refusal: if it can't be done
        """
        return _OPERATIONS[type(request)](self, request, asker)

    def _status(self, request: messages.GetDispatcherStatus, asker: Asker) -> dict:
        return messages.build_dispatcher_status(self._health.status(self._stopping))

    def _metrics(self, request: messages.GetMetrics, asker: Asker) -> dict:
        return messages.build_metrics(self._health.metrics())

    def _prune(self, request: messages.Prune, asker: Asker) -> dict:
        age = self._pruning.max_age if request.age is None else request.age
        if age is None:
            raise Refusal(INVALID_REQUEST, 'max_age is "never": say which age')
        if age < LEAST_AGE:
            raise Refusal(
                INVALID_REQUEST,
                "age must be at least a day: a younger job may be submitted again",
            )
        logger.info("removing old jobs %s", fields(by=asker.name, age=age))
        return messages.build_pruned(*self._pruning.prune(age, request.since))

    def _stop(self, request: messages.Stop, asker: Asker) -> dict:
        if not request.drain:
            self._stopping = True
        self._stops.give(request, f"harpcallerd stop by {asker.name}")
        return messages.build_stopping(os.getpid())

    def _reload(self, request: messages.Reload, asker: Asker) -> dict:
        logger.info("reload is wanted %s", fields(by=asker.name))
        return messages.build_reloaded(*self._reloading.wait(self._reloading.want()))

    def _reopen_logs(self, request: messages.ReopenLogs, asker: Asker) -> dict:
        faults = log.reopen()
        logger.info("log files opened again %s", fields(by=asker.name))
        return messages.build_reopened(faults)

    def _refresh_hosts(self, request: hostadmin.RefreshHosts, asker: Asker) -> dict:
        if not request.dry_run:
            logger.info(
                "refresh of the hosts is wanted %s",
                fields(by=asker.name, force=request.force or None),
            )
        try:
            # It takes as long as a program does, and goes on if the client leaves.
            done = asker.wait(self._hosts.refresh(request.force, request.dry_run))
        except HostsError as error:
            known = self._hosts.count()
            done = hostadmin.Refreshed(
                None, known, known, [], [], [], 0, False, str(error)
            )
        return hostadmin.build_refreshed(done)

    def _list_queue(self, request: queueadmin.ListQueue, asker: Asker) -> dict:
        running, waiting = self._queues.members(canonical(request.name))
        return queueadmin.build_queue_jobs(
            [job.id for job in running], [job.id for job in waiting]
        )

    def _cancel_queue(self, request: queueadmin.CancelQueue, asker: Asker) -> dict:
        key = canonical(request.name)
        logger.info("cancelling a queue %s", fields(by=asker.name, queue=key))
        return queueadmin.build_queue_cancelled(*self._jobs.cancel_queue(key))

    def _get_host(self, request: hostadmin.GetHost, asker: Asker) -> dict:
        host = self._hosts.get(request.hostname)
        return hostadmin.build_host(None if host is None else host.public())


_OPERATIONS = {
    messages.GetDispatcherStatus: Admin._status,
    messages.GetMetrics: Admin._metrics,
    messages.Prune: Admin._prune,
    messages.Stop: Admin._stop,
    messages.Reload: Admin._reload,
    messages.ReopenLogs: Admin._reopen_logs,
    hostadmin.RefreshHosts: Admin._refresh_hosts,
    hostadmin.GetHost: Admin._get_host,
    queueadmin.ListQueue: Admin._list_queue,
    queueadmin.CancelQueue: Admin._cancel_queue,
}
