"""What the admin socket can do beyond what clients can: ask how the dispatcher is, and
stop it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from .. import __version__
from ..protocol import admin as protocol
from .disk import StorageError
from .hosts import Hosts
from .joblog import JobLog
from .queues import Queues


class Admin:
    """Administration of a running dispatcher. Called from any thread.

    :param connections: returns the number of connections
    :param stop: asks the dispatcher to stop, at once
    """

    def __init__(
        self,
        log: JobLog,
        queues: Queues,
        hosts: Hosts,
        connections: Callable[[], int],
        stop: Callable[[], None],
    ) -> None:
        self._log = log
        self._queues = queues
        self._hosts = hosts
        self._connections = connections
        self._request_stop = stop
        self._since = time.time()
        self._stopping = False

    def answer(self, request) -> dict:
        """Return the reply to a request of the admin socket.

        :param request: as parsed by :data:`harp.protocol.admin.ADMIN_PARSERS`
        :raises Refusal: if it can't be done
        """
        return _OPERATIONS[type(request)](self, request)

    def _status(self, request: protocol.GetDispatcherStatus) -> dict:
        queued, running = self._queues.counts()
        try:
            free = self._log.free()
        except StorageError:
            free = None
        return protocol.build_dispatcher_status(
            version=__version__,
            pid=os.getpid(),
            since=self._since,
            queued=queued,
            running=running,
            queues=len(self._queues.states()),
            connections=self._connections(),
            hosts=len(self._hosts.all()),
            free=free,
            stopping=self._stopping,
        )

    def _stop(self, request: protocol.Stop) -> dict:
        self._stopping = True
        self._request_stop()
        return protocol.build_stopping(os.getpid())


_OPERATIONS = {
    protocol.GetDispatcherStatus: Admin._status,
    protocol.Stop: Admin._stop,
}
