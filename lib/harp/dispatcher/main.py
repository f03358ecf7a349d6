"""The dispatcher: puts the parts together, starts and stops them."""

from __future__ import annotations

import logging
import signal
import sys
import time

from .. import __version__, log, service, wire
from ..address import Address
from ..config import DispatcherConfig
from ..log import fields
from ..server import Server
from ..service import reason
from .admin import Admin
from .call import Caller
from .disk import StorageError
from .hosts import Hosts
from .joblog import JobLog, LogInUse
from .jobs import Jobs
from .queues import Queues
from .requests import Requests
from .resolver import Resolver
from .trust import Trust

logger = logging.getLogger(__name__)

_STOP_SECONDS = 5.0  # for threads to end, beyond what they may wait for their peer
_CLIENT_MODE = 0o660
_ADMIN_MODE = 0o600
_ADMIN_CONNECTIONS = 100


class Dispatcher:
    """The parts of a dispatcher.

    :raises ConfigError: if a file that the configuration names can't be used
    """

    def __init__(self, settings: DispatcherConfig, signals: service.Signals) -> None:
        self._settings = settings
        self._log = JobLog(
            settings.stream_directory,
            max_job_size=settings.max_job_size,
            reserve=settings.reserve,
        )
        self._queues = Queues()
        self._hosts = Hosts(settings)
        caller = Caller(settings, self._hosts, Trust(settings), Resolver())
        self._jobs = Jobs(settings, self._log, self._queues, caller.run)
        admin = Admin(
            self._log, self._queues, self._hosts, self._connections, signals.stop
        )
        self._requests = Requests(
            settings, self._jobs, self._queues, self._hosts, admin
        )
        self._servers: list[Server] = []

    def start(self) -> list[str]:
        """Read the hosts, take up the log, let clients in; return where.

        :raises LogInUse: if another dispatcher has the log
        :raises StorageError: if the log can't be used
        :raises OSError: if an address can't be listened on
        """
        self._log.open()
        # Bound before any job starts: what can fail, fails first.
        for address in self._settings.listen:
            self._listen(address)
        self._listen_for_admin()
        self._hosts.start()
        waiting = self._jobs.recover()
        logger.info("log taken up %s", fields(queued=waiting))
        for server in self._servers:
            server.start()
        return [str(server.address) for server in self._servers[:-1]]

    def _listen(self, address: Address) -> None:
        if address.anonymous:
            logger.warning(
                "clients need not say who they are: every user of this machine can "
                "connect %s",
                fields(address=str(address)),
            )
        self._servers.append(
            Server(
                address,
                self._requests.serve_client,
                name="client",
                max_connections=self._settings.max_connections,
                mode=_CLIENT_MODE,
            )
        )

    def _listen_for_admin(self) -> None:
        self._servers.append(
            Server(
                Address(None, 0, self._settings.admin_socket),
                self._requests.serve_admin,
                name="admin",
                max_connections=_ADMIN_CONNECTIONS,
                mode=_ADMIN_MODE,
            )
        )

    def _connections(self) -> int:
        return sum(server.connections for server in self._servers)

    def stop(self) -> None:
        """Stop in this order: no new clients and calls; no job leaves its queue;
        running jobs are cut off, and their ends stored; clients that wait are told;
        last the log. Works on whatever was started."""
        for server in self._servers:
            server.stop_accepting()
        deadline = time.monotonic() + self._settings.cancel_grace + _STOP_SECONDS
        stuck = self._jobs.stop(deadline)
        self._requests.stop()
        deadline = time.monotonic() + wire.DISCARD_SECONDS + _STOP_SECONDS
        for server in self._servers:
            stuck += server.join(deadline)
        self._hosts.stop()
        if stuck:
            logger.error("threads don't end %s", fields(threads=stuck))
        else:
            self._requests.close()
        self._log.close()


def run(settings: DispatcherConfig) -> int:
    """Run the dispatcher in the foreground; return the exit status."""
    log.to_stderr()
    service.raise_descriptor_limit()
    with service.Signals() as signals:
        dispatcher = Dispatcher(settings, signals)
        try:
            addresses = dispatcher.start()
            logger.info("serving %s", fields(version=__version__, addresses=addresses))
            service.notify(READY="1", X_HARP_ADDRESS=" ".join(addresses))
            _wait_for_stop(signals)
            service.notify(STOPPING="1")
        except (LogInUse, StorageError, OSError) as error:
            text = reason(error) if isinstance(error, OSError) else error
            print(f"harpcallerd: {text}", file=sys.stderr)
            return 1
        finally:
            dispatcher.stop()
    logger.info("stopped")
    return 0


def _wait_for_stop(signals: service.Signals) -> None:
    while (number := signals.wait()) == signal.SIGHUP:
        logger.warning("nothing is reloaded, restart to apply a change")
    logger.info("stopping %s", fields(signal=number.name))

