"""Calls through a dispatcher::

    rpc = HarpCaller("localhost")
    job = rpc.web01.restart_service("nginx")
    job.get()

Threads may share all objects of this module, and a forked process may go on with them;
an iterator belongs to one thread. They may be pickled, without their connections.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from . import protocol, settings
from .calls import RemoteCall, make_call
from .connections import IDLE_TIME, MAX_KEPT, Connections
from .errors import CommunicationError
from .exchange import Exchange
from .secret import split_arguments

# For type checkers only, which know the name: it costs what ``import harp`` must not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .groups import Group, RemoteServers


class HarpCaller:
    """A dispatcher. Its attributes are hosts: ``rpc.web01``, or ``rpc("web-01")`` for
    names that Python's aren't like or that are those of methods.

    Connections are made when they are needed, kept and used again; a context manager
    that closes those that are kept.

    :param host: ``harp://[USER@]HOST[:PORT]`` for TCP, ``harps://…`` for TLS,
        ``unix:/path`` for a Unix socket; or a name or address alone, or ``HOST:PORT``,
        for TCP. None: what the environment's HARPCALLER_URL says, else
        /etc/harpcaller/client.toml, else the socket /run/harpcaller/client
    :param port: TCP port, if ``host`` names none
    :param user: who to be, where the dispatcher asks for it; goes with a password
    :param password: that user's. A pickled HarpCaller holds it; ``password_file``
        leaves it where it is
    :param password_file: file whose first line is the password
    :param ca_file: for TLS, file of the authorities to trust instead of the system's
    :param cert_sha256: for TLS, fingerprint of the dispatcher's certificate, in hex:
        this one is trusted, and no other
    :param connect_timeout: seconds that connecting may take, the TLS handshake
        included; None: 10
    :param reply_timeout: seconds that a reply may take that needn't wait for a call;
        None: 60
    :param retry_for: seconds for which a dispatcher that isn't there, or goes away
        before it replies, is tried again; None: 2
    :param resume_for: the same for what is worth more: a call that may have been
        accepted, a stream or a wait for a result that had begun; None: 30
    :param max_kept: connections that are kept while unused
    :param idle_time: seconds that one is kept unused
    :raises ValueError: for what is no address, or makes no sense together; a password
        goes over TLS, a Unix socket or the loopback interface only
    :raises ConfigurationError: if the environment or a file is at fault
    """

    def __init__(
        self,
        host: str | None = None,
        port: int = protocol.CLIENT_PORT,
        *,
        user: str | None = None,
        password: str | None = None,
        password_file: str | os.PathLike | None = None,
        ca_file: str | os.PathLike | None = None,
        cert_sha256: str | None = None,
        connect_timeout: float | None = None,
        reply_timeout: float | None = None,
        retry_for: float | None = None,
        resume_for: float | None = None,
        max_kept: int = MAX_KEPT,
        idle_time: float = IDLE_TIME,
    ) -> None:
        self._start(
            (host, port),
            {
                "user": user,
                "password": password,
                "password_file": password_file,
                "ca_file": ca_file,
                "cert_sha256": cert_sha256,
                "connect_timeout": connect_timeout,
                "reply_timeout": reply_timeout,
                "retry_for": retry_for,
                "resume_for": resume_for,
            },
            (max_kept, idle_time),
        )

    def _start(self, place: tuple, options: dict, keeping: tuple) -> None:
        self._arguments = (place, options, keeping)
        self._settings = settings.find(*place, options)
        self._connections = Connections(self._settings, *keeping)
        self._exchange = Exchange(self._settings, self._connections)

    def __getstate__(self) -> tuple:
        return self._arguments

    def __setstate__(self, state: tuple) -> None:
        self._start(*state)

    def __repr__(self) -> str:
        return f"<HarpCaller {self._settings}>"

    def __getattr__(self, name: str) -> RemoteServer:
        # Names that Python itself looks for, when copying for example, are no hosts.
        if name.startswith("_"):
            raise AttributeError(name)
        return self.host(name)

    def __call__(self, host: str) -> RemoteServer:
        """Return a host, also one whose name is none in Python."""
        return self.host(host)

    def __enter__(self) -> HarpCaller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept. It may be used further on, and makes new
        ones then."""
        self._connections.close()

    # --- to call ---

    def host(
        self,
        name: str,
        queue: dict | None = None,
        concurrency: int | None = None,
        timeout: int | None = None,
        max_exec_time: int | None = None,
        info: object = None,
        group: str | None = None,
        on_behalf_of: str | None = None,
    ) -> RemoteServer:
        """Return a host, with options for the calls there.

        :param name: as in the dispatcher's list of hosts
        :param queue: name of the queue that calls wait in, any JSON object; None: they
            start at once
        :param concurrency: how many calls of that queue may run at a time, for the
            first call in it; None: one
        :param timeout: seconds, longest gap between two messages of a call; None: as
            configured in the dispatcher
        :param max_exec_time: seconds that a call may run as a whole; None: as
            configured in the dispatcher
        :param info: anything JSON, kept with the call's status
        :param group: your name for calls that belong together; see :meth:`group`
        :param on_behalf_of: the person for whom this is done, to be recorded
        :raises ValueError: for a concurrency without a queue
        """
        if concurrency is not None and queue is None:
            raise ValueError("concurrency is a queue's, and there is no queue")
        options = {
            "queue": queue,
            "concurrency": concurrency,
            "timeout": timeout,
            "max_exec_time": max_exec_time,
            "info": info,
            "group": group,
            "on_behalf_of": on_behalf_of,
        }
        return RemoteServer(self, name, options)

    def hosts(
        self, names: Iterable[str], at_a_time: int | None = None, **options: object
    ) -> RemoteServers:
        """Return several hosts, to call the same procedure on all of them::

            group = rpc.hosts(["web01", "web02"], at_a_time=1).restart_service("nginx")

        :param names: as in the dispatcher's list of hosts; one that stands there twice
            counts once
        :param at_a_time: on so many of them at a time, in this order, by a queue of
            their own; None: on all at once
        :param options: those of :meth:`host`; without ``group``, a name is made
        :raises ValueError: for no host at all, and for ``at_a_time`` beside ``queue``
        """
        from .groups import RemoteServers  # here, because most calls are for one host

        return RemoteServers(self, names, at_a_time, options)

    def request(self, message: dict, timeout: float | None = None) -> dict:
        """Send a request as it stands in the protocol and return the reply, of a
        stream its first line. It is sent once, on a connection of its own.

        :param timeout: seconds that the reply may take; None: for ever
        :raises RemoteError: if it is refused
        :raises CommunicationError: if there is no reply
        """
        return self._exchange.ask_raw(message, timeout)

    # --- to look ---

    def job(self, job_id: str) -> RemoteCall:
        """Return the call with that id. Nothing is asked yet."""
        return RemoteCall(self, job_id)

    def group(self, group_id: str) -> Group:
        """Return the calls that were submitted under that group. Nothing is asked
        yet."""
        from .groups import Group

        return Group(self, group_id)

    def jobs(
        self, *, limit: int | None = None, before: str | None = None, **filters: object
    ) -> Iterator[dict]:
        """Iterate over the status of calls, newest first, as in the protocol
        (``get_status``); long arguments are cut.

        :param limit: so many at most; None: all
        :param before: id of a call; only those that were submitted before it
        :param filters: ``host``, ``procedure``, ``state``, ``outcome``, ``queue``,
            ``group``, ``submitted_by``, ``ids`` (a list), ``from_`` and ``to`` (times
            of submission, in seconds since the epoch)
        """
        while limit is None or limit > 0:
            page = protocol.LIST_LIMIT if limit is None else limit
            request = protocol.build_list_jobs(
                **filters, before=before, limit=min(page, protocol.LIST_LIMIT)
            )
            found, next_before = self._exchange.ask(request, protocol.parse_job_list)
            yield from found
            if next_before is None:
                return
            if before is not None and next_before >= before:
                raise self._endless("jobs")
            before = next_before
            if limit is not None:
                limit -= len(found)

    def queues(self) -> list[dict]:
        """Return the queues that there are, as in the protocol (``list_queues``)."""
        queues = []
        after = None
        while True:
            request = protocol.build_list_queues(after)
            found, following = self._exchange.ask(request, protocol.parse_queue_list)
            queues += found
            if following is None:
                return queues
            if following == after:
                raise self._endless("queues")
            after = following

    def _endless(self, what: str) -> CommunicationError:
        return CommunicationError(
            f"{self._settings}: reply is not the protocol: the list of {what} goes on "
            "where it began"
        )

    def procedures(self, host: str) -> list[dict]:
        """Return what may be called on a host: a dict for each procedure with its
        ``name``, ``doc``, ``parameters``, and more, as in the protocol
        (``list_procedures``). The dispatcher asks that host.

        :raises RemoteError: if it can't be asked; types as for a call's end
        """
        return self._exchange.ask(
            protocol.build_list_host_procedures(host), protocol.parse_host_procedures
        )


class RemoteServer:
    """A host, with options for the calls there. Its attributes are procedures:
    ``rpc.web01.uptime()``, or ``rpc.web01["disk-usage"]()`` for names that Python's
    aren't like. Its text is the host's name."""

    def __init__(self, caller: HarpCaller, host: str, options: dict) -> None:
        self._caller = caller
        self._host = host
        self._options = options

    def __str__(self) -> str:
        return self._host

    def __repr__(self) -> str:
        return f"<RemoteServer {self._host}>"

    def __call__(self, **options: object) -> RemoteServer:
        """Return the same host with some options changed: those of
        :meth:`HarpCaller.host`, by name."""
        return self._caller.host(self._host, **(self._options | options))

    def __getattr__(self, name: str) -> RemoteProcedure:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> RemoteProcedure:
        return RemoteProcedure(self._caller, self._host, name, self._options)

    __iter__ = None  # or Python would count through the procedures 0, 1, 2, …
    __contains__ = None


class RemoteProcedure:
    """A procedure on a host. Called, it submits a call and returns at once."""

    def __init__(
        self, caller: HarpCaller, host: str, procedure: str, options: dict
    ) -> None:
        self._caller = caller
        self._host = host
        self._procedure = procedure
        self._options = options

    def __repr__(self) -> str:
        return f"<RemoteProcedure {self._procedure} on {self._host}>"

    def procedure(self) -> str:
        """Return the procedure's name."""
        return self._procedure

    def host(self) -> str:
        """Return the host's name."""
        return self._host

    def __call__(self, /, *positional: object, **named: object) -> RemoteCall:
        """Submit a call, with positional arguments or with named ones; those that
        are a :class:`Secret` are shown to nobody.

        :raises TypeError: for both kinds at once, and for what is not JSON
        :raises ValueError: for numbers and structures that JSON can't hold
        :raises RequestRefused: if the dispatcher refuses it
        :raises ConnectFailed: if the dispatcher can't be reached
        :raises SubmissionLost: if its answer was lost, again and again
        """
        arguments, secret = split_arguments(positional, named)
        call = make_call(
            self._host, self._procedure, arguments, secret, self._options
        )
        return RemoteCall(self._caller, self._caller._exchange.submit(call))
