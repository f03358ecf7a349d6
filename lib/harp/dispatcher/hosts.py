"""The hosts that calls can go to: read from a program's output or a file, kept fresh by
a thread of its own, replaced as a whole. All reading is done in that thread, so that
the program never runs twice at once: who asks for a refresh while one is under way gets
one that begins after it. The rules: doc/hosts.rst."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from ..config import DispatcherConfig
from ..log import fields
from ..protocol.hostadmin import Refreshed
from . import hostsource
from .hostlines import Host, parse_hosts
from .hostsource import HostsError

logger = logging.getLogger(__name__)

_FILE_CHECK_SECONDS = 1.0
_FEW = 2
"""So many hosts may be replaced by others in one go: a registry that small changes by
more than half with every machine."""
_NAMED = 10  # hosts that a message names
_LOGGED = 20  # lines that are no host, of a refresh


class Trouble(NamedTuple):
    """Why the hosts may be out of date.

    :ivar since: seconds since the epoch
    :ivar text: what is wrong, for people
    """

    since: float
    text: str


class _Order(NamedTuple):
    """A refresh that somebody waits for."""

    force: bool
    dry_run: bool
    future: concurrent.futures.Future


class Hosts:
    """The registry. Its methods may be called from any thread."""

    def __init__(self, config: DispatcherConfig) -> None:
        self._config = config
        self._hosts: Mapping[str, Host] = {}  # replaced, never changed
        self._trouble: Trouble | None = None  # replaced, too
        self._script = hostsource.Script()
        self._file_stamp: object = None
        self._thread = threading.Thread(target=self._work, name="hosts")
        self._loaded = threading.Event()
        # Guards the rest; notified at each order, change of configuration, and stop.
        self._changed = threading.Condition()
        self._orders: list[_Order] = []
        self._stopping = False

    def get(self, hostname: str) -> Host | None:
        return self._hosts.get(hostname)

    def count(self) -> int:
        """Return how many there are."""
        return len(self._hosts)

    def all(self) -> list[Host]:
        """Return all hosts, by name."""
        return sorted(self._hosts.values())

    def trouble(self) -> Trouble | None:
        """Return why the hosts may be out of date; None if nothing is wrong."""
        return self._trouble

    def start(self) -> None:
        """Read the hosts, and go on doing so. It returns when they have been read or
        can't be, or at once if another thread calls :meth:`stop` meanwhile."""
        self._thread.start()
        self._loaded.wait()

    def stop(self) -> None:
        """Kill a program that runs, and end. What was read last can still be asked
        for; who waits for a refresh is told. May be called at any time, and twice."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._script.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def apply(self, config: DispatcherConfig) -> None:
        """Use another configuration from now on, and read the hosts again soon. If
        they come from elsewhere now, no half of those before is guarded."""
        with self._changed:
            moved = _source(config) != _source(self._config)
            self._config = config
            self._order(_Order(moved, False, concurrent.futures.Future()))

    def refresh(
        self, force: bool = False, dry_run: bool = False
    ) -> concurrent.futures.Future:
        """Have the hosts read again, now or when a refresh that is under way is done.

        :param force: replace them whatever that removes
        :param dry_run: find out what that would do, and don't do it
        :returns: of :class:`Refreshed`; or it raises :class:`HostsError` if they can't
            be read, and stay as they are. Nobody has to wait for it.
        :raises HostsError: if the dispatcher stops
        """
        future: concurrent.futures.Future = concurrent.futures.Future()
        with self._changed:
            if self._stopping:
                raise HostsError("the dispatcher stops")
            self._order(_Order(force, dry_run, future))
        return future

    def _order(self, order: _Order) -> None:
        self._orders.append(order)
        self._changed.notify()

    # --- in the thread ---

    def _work(self) -> None:
        try:
            self._load()
        except Exception:
            logger.exception("fault in the dispatcher, there are no hosts")
        self._loaded.set()
        while True:
            with self._changed:
                self._changed.wait_for(self._is_wanted, self._interval())
                orders, self._orders = self._orders, []
                stopping = self._stopping
            if stopping:
                break
            try:
                self._carry_out(orders)
            except Exception:
                logger.exception("fault in the dispatcher, hosts stay as they are")
            finally:
                _drop(orders, "a fault in the dispatcher, see its log")
        _drop(orders, "the dispatcher stops")

    def _is_wanted(self) -> bool:
        return bool(self._orders) or self._stopping

    def _interval(self) -> float | None:
        if self._config.hosts_script is not None:
            return self._config.hosts_refresh
        return _FILE_CHECK_SECONDS if self._config.hosts_file is not None else None

    def _load(self) -> None:
        """Read the hosts for the first time. What there was before the start, as far
        as the cache tells, is guarded as at any refresh."""
        path = self._config.hosts_cache
        cached = fault_of_cache = None
        if self._config.hosts_script is not None and path is not None:
            try:
                cached = self._hosts = parse_hosts(hostsource.read_file(path)).hosts
            except HostsError as error:
                fault_of_cache = str(error)
        try:
            refresh = self._replace(*self._read(), force=False, dry_run=False)
            if refresh.applied:
                if refresh.before:  # or it has been said
                    logger.info("hosts read %s", fields(known=refresh.found))
                return
        except HostsError as error:
            fault = "there are no hosts for now, it is tried again"
            if cached is not None:
                fault = "hosts can't be read, it is tried again"
            self._note_failure(fault, error)
            if fault_of_cache is not None:
                logger.error(
                    "no hosts from the cache either %s", fields(error=fault_of_cache)
                )
        if cached is not None:
            logger.warning(
                "hosts are those of the cache %s",
                fields(path=path, written=_age(path), known=len(cached)),
            )

    def _carry_out(self, orders: list[_Order]) -> None:
        """Read the hosts once, for all who have asked."""
        if not orders:
            if not self._has_changed():
                return
            orders = [_Order(False, False, concurrent.futures.Future())]
        try:
            source, output = self._read()
        except HostsError as error:
            self._note_failure("hosts stay as they are", error)
            # Its frames hold all that was read, and these orders: a circle, which would
            # stay long.
            error.with_traceback(None)
            for order in orders:
                order.future.set_exception(error)
            return
        for order in orders:
            done = self._replace(source, output, order.force, order.dry_run)
            order.future.set_result(done)

    def _has_changed(self) -> bool:
        """Only running a program tells."""
        path = self._config.hosts_file
        return self._config.hosts_script is not None or (
            path is not None and hostsource.stamp(path) != self._file_stamp
        )

    def _read(self) -> tuple[str | None, bytes]:
        """Return where the lines come from, and the lines."""
        config = self._config
        if config.hosts_script is not None:
            output = self._script.run(config.hosts_script, config.hosts_timeout)
        elif config.hosts_file is not None:
            self._file_stamp = hostsource.stamp(config.hosts_file)
            output = hostsource.read_file(config.hosts_file)
        else:
            output = b""
        return _source(config), output

    def _replace(
        self, source: str | None, output: bytes, force: bool, dry_run: bool
    ) -> Refreshed:
        """Take the hosts that were read for the ones that there are, if that may be."""
        hosts, faults = parse_hosts(output)
        refresh = _compare(source, self._hosts, hosts, len(faults))
        if not force and _removes_too_many(refresh):
            refresh = refresh._replace(fault=_refusal(refresh))
        if dry_run:
            return refresh
        _log_faults(source, faults)
        if refresh.fault is not None:
            logger.error("hosts stay as they are %s", _as_fields(refresh))
            self._note_trouble(refresh.fault)
            return refresh
        self._hosts = hosts
        self._trouble = None
        if faults:
            line, text = faults[0]
            more = f", and so are {len(faults) - 1} more" if len(faults) > 1 else ""
            self._note_trouble(f"{source}: line {line} is skipped{more}: {text}")
        refresh = refresh._replace(applied=True)
        if not refresh.before:
            logger.info("hosts read %s", fields(source=source, known=refresh.found))
        elif refresh.came or refresh.went or refresh.changed:
            logger.info("hosts %s", _as_fields(refresh))
        if self._config.hosts_script == source and self._config.hosts_cache:
            hostsource.write_cache(self._config.hosts_cache, output)
        return refresh

    def _note_failure(self, message: str, error: HostsError) -> None:
        with self._changed:
            if self._stopping:
                return  # which is why
        logger.error("%s %s", message, fields(error=str(error)))
        self._note_trouble(str(error))

    def _note_trouble(self, text: str) -> None:
        since = time.time() if self._trouble is None else self._trouble.since
        self._trouble = Trouble(since, text)


def check(config: DispatcherConfig) -> list[str]:
    """Return what is wrong with where the hosts come from, as far as that can be told
    without running a program; a line for each fault."""
    script, file = config.hosts_script, config.hosts_file
    if script is not None:
        runs = os.access(script, os.X_OK, effective_ids=True)
        return [] if runs else [f"hosts.script: {script}: can't be run"]
    if file is None:
        return []
    try:
        _, faults = parse_hosts(hostsource.read_file(file))
    except HostsError as error:
        return [f"hosts.file: {error}"]
    return [f"hosts.file: {file}: line {line}: {text}" for line, text in faults]


def _source(config: DispatcherConfig) -> str | None:
    return config.hosts_script or config.hosts_file


def _drop(orders: list[_Order], reason: str) -> None:
    """Tell those who still wait that nothing comes."""
    for order in orders:
        if not order.future.done():
            order.future.set_exception(HostsError(reason))


def _compare(
    source: str | None,
    before: Mapping[str, Host],
    after: Mapping[str, Host],
    skipped: int,
) -> Refreshed:
    return Refreshed(
        source=source,
        before=len(before),
        found=len(after),
        came=sorted(after.keys() - before.keys()),
        went=sorted(before.keys() - after.keys()),
        changed=sorted(
            name for name in after.keys() & before.keys() if after[name] != before[name]
        ),
        skipped=skipped,
        applied=False,
        fault=None,
    )


def _removes_too_many(refresh: Refreshed) -> bool:
    """Tell whether it looks rather like an accident: more than half of the hosts would
    go, and not just one or two for others."""
    if refresh.before <= _FEW and refresh.found > 0:
        return False
    return 2 * len(refresh.went) > refresh.before


def _refusal(refresh: Refreshed) -> str:
    named = ", ".join(refresh.went[:_NAMED])
    if len(refresh.went) > _NAMED:
        named += f" and {len(refresh.went) - _NAMED} more"
    return (
        f"{refresh.source}: would remove {len(refresh.went)} of {refresh.before} hosts "
        f"({named}); if that is meant: harpcallerd hosts-refresh --force"
    )


def _log_faults(source: str | None, faults: list[tuple[int, str]]) -> None:
    for number, reason in faults[:_LOGGED]:
        logger.warning(
            "line of the hosts is skipped %s",
            fields(source=source, line=number, reason=reason),
        )
    if len(faults) > _LOGGED:
        logger.warning(
            "further lines of the hosts are skipped %s",
            fields(source=source, lines=len(faults)),
        )


def _as_fields(refresh: Refreshed) -> fields:
    return fields(
        error=refresh.fault,
        known=refresh.found if refresh.fault is None else refresh.before,
        came=refresh.came,
        went=refresh.went,
        changed=refresh.changed,
    )


def _age(path: str) -> str | None:
    try:
        written = os.stat(path).st_mtime
    except OSError:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(written))
