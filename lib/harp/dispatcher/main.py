"""The dispatcher: puts the parts together, starts and stops them. Called by the main
thread, but for the start and :meth:`Dispatcher.apply`, which have threads of their
own."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable

from .. import wire
from ..address import Address
from ..config import ConfigError, DispatcherConfig, collect
from ..listener import Listener
from ..log import fields
from ..server import Server
from . import options
from .access import Access
from .admin import Admin
from .audit import Audit
from .call import Caller
from .connecting import Connector
from .health import Health
from .hosts import Hosts
from .joblog import JobLog
from .jobs import Jobs
from .orders import Reloading, StopOrders
from .procedures import Procedures
from .pruning import Pruning
from .queues import Queues
from .requests import Requests
from .resolver import Resolver
from .trust import Trust

logger = logging.getLogger(__name__)

_STOP_SECONDS = 5.0  # for threads to end, beyond what they may wait for their peer
_ADMIN_MODE = 0o600
_GROUP_MODE = 0o660
_ADMIN_CONNECTIONS = 100


class Dispatcher:
    """The parts of a dispatcher.

    :raises ConfigError: if files that the configuration names can't be used
    """

    def __init__(
        self, config: DispatcherConfig, stops: StopOrders, reloading: Reloading
    ) -> None:
        self._config = config
        self._use_files()
        self._log = JobLog(
            config.stream_directory,
            max_job_size=config.max_job_size,
            reserve=config.reserve,
        )
        self._servers: list[Server] = []
        self._queues = Queues()
        self._hosts = Hosts(config)
        self._connector = Connector(config, self._hosts, self._trust, Resolver())
        self._caller = Caller(config, self._connector)
        self._jobs = Jobs(config, self._log, self._queues, self._caller.run)
        self._pruning = Pruning(self._log, config)
        health = Health(
            self._log,
            self._queues,
            self._hosts,
            self._trust,
            self._jobs,
            self._pruning,
            self._audit,
            self._servers,
        )
        admin = Admin(
            health,
            self._hosts,
            self._queues,
            self._jobs,
            self._pruning,
            stops,
            reloading,
        )
        self._procedures = Procedures(self._connector)
        self._requests = Requests(
            config,
            self._jobs,
            self._queues,
            self._hosts,
            admin,
            self._audit,
            self._procedures,
        )
        self._draining: threading.Thread | None = None

    def _use_files(self) -> None:
        """Make those parts that something in the configuration may be wrong for."""
        faults: list[str] = []
        self._admin_group = collect(faults, options.admin_group, self._config)
        self._trust = collect(faults, Trust, self._config)
        self._access = collect(faults, Access, self._config)
        self._audit = collect(faults, Audit, self._config)
        if faults:
            raise ConfigError(faults)

    def start(self) -> list[str]:
        """Read the hosts, take up the log, let clients in; return where.

        :raises LogInUse: if another dispatcher has the log
        :raises StorageError: if the log can't be used
        :raises OSError: if an address can't be listened on
        """
        self._log.open()
        # Bound before any job starts: what can fail, fails first.
        for listener in self._config.listen:
            self._listen(listener)
        self._listen_for_admin()
        self._hosts.start()
        waiting = self._jobs.recover()
        logger.info("log taken up %s", fields(queued=waiting))
        self._pruning.start()
        for server in self._servers:
            server.start()
        return [str(server.address) for server in self._servers[:-1]]

    def _listen(self, listener: Listener) -> None:
        door = self._access.door(listener)
        door.warn()
        self._servers.append(
            Server(
                listener.address,
                functools.partial(self._requests.serve_client, door),
                name="client",
                max_connections=self._config.max_connections,
                mode=listener.mode,
                group=options.client_group(listener),
                gate=door.gate,
            )
        )

    def _listen_for_admin(self) -> None:
        self._servers.append(
            Server(
                Address(None, 0, self._config.admin_socket),
                self._requests.serve_admin,
                name="admin",
                max_connections=_ADMIN_CONNECTIONS,
                mode=_ADMIN_MODE if self._admin_group is None else _GROUP_MODE,
                group=self._admin_group,
            )
        )

    def discard(self) -> None:
        """To be called instead of :meth:`start` and :meth:`stop`."""
        self._requests.close()

    def interrupt_start(self) -> None:
        """Make :meth:`start` come to its end soon; no job runs then. From another
        thread; :meth:`stop` is still to be called, when it has."""
        self._queues.close()
        self._hosts.stop()

    # --- while it serves ---

    def apply(self, config: DispatcherConfig) -> None:
        """Go on with another configuration. What it says of the addresses and the
        job log's directory is for the next start.

        :raises ConfigError: if it can't be used; all stays as it was
        """
        # What can fail, fails before anything is changed.
        faults: list[str] = []
        prepared = [
            (part, collect(faults, part.prepare, config))
            for part in (self._trust, self._access, self._audit)
        ]
        if faults:
            raise ConfigError(faults)
        for part, found in prepared:
            part.apply(found)
        self._config = config
        for part in (
            self._log,
            self._hosts,
            self._connector,
            self._caller,
            self._jobs,
            self._pruning,
            self._requests,
        ):
            part.apply(config)
        for server in self._servers[:-1]:
            server.allow(config.max_connections)

    def running(self) -> int:
        """Return how many jobs run."""
        return self._queues.counts()[1]

    def drain(self, drained: Callable[[], None]) -> None:
        """Start no job any more; those that run go on, and calls are still accepted.

        :param drained: called from another thread when none runs any more
        """
        self._queues.close()

        def wait() -> None:
            self._jobs.join(time.monotonic() + threading.TIMEOUT_MAX / 2)
            drained()

        self._draining = threading.Thread(target=wait, name="drain", daemon=True)
        self._draining.start()

    @property
    def is_drained(self) -> bool:
        """Whether no job runs any more after :meth:`drain`."""
        return self._draining is not None and self.running() == 0

    # --- stop ---

    def stop(self) -> None:
        """Stop in this order: no new clients and calls; no job leaves its queue;
        running jobs are cut off, and their ends stored; clients that wait are told;
        last the log. Works on whatever was started."""
        for server in self._servers:
            server.stop_accepting()
        deadline = time.monotonic() + self._config.cancel_grace + _STOP_SECONDS
        stuck = self._jobs.stop(deadline)
        if self._draining is not None:
            # It has nothing more to wait for, or is stuck as the others are.
            self._draining.join(max(0.0, deadline - time.monotonic()))
        self._pruning.stop()
        self._hosts.stop()
        self._requests.stop()
        deadline = time.monotonic() + wire.DISCARD_SECONDS + _STOP_SECONDS
        for server in self._servers:
            stuck += server.join(deadline)
        self._procedures.stop()
        if stuck:
            logger.error("threads don't end %s", fields(threads=stuck))
        else:
            self._requests.close()
        self._log.close()
