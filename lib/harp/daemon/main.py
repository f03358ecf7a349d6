"""The command ``harpd``: start, signals, reload, stop."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import resource
import signal
import sys
import threading
import time

from .. import log, service
from ..config import ConfigError, DaemonConfig, load
from ..log import fields
from ..server import Server
from . import kernel
from .children import Children, ProceduresFailed
from .front import Front
from .generation import Generation

logger = logging.getLogger(__name__)

_DEFAULT_CONFIG = "/etc/harpd/harpd.toml"
_WITHOUT_CALL = 256  # connections that may be open beside those with a call
_STOP_SECONDS = 10  # for everything after the calls have had their grace
_EX_CONFIG = 78  # sysexits.h: something is wrong with the configuration


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon in the foreground.

    :param arguments: of the command line; None: those of this process
    :returns: exit status
    """
    options = _parse(arguments)
    log.to_stderr()
    kernel.set_process_name("harpd")  # by its interpreter nobody would find it
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    service.raise_descriptor_limit()
    try:
        daemon = Daemon(options, open_files)
    except ConfigError as error:
        return _complain(error.faults, _EX_CONFIG)
    try:
        return daemon.run()
    except ProceduresFailed as error:
        return _complain([str(error)], 1)
    except OSError as error:
        return _complain([service.reason(error)], 1)
    except KeyboardInterrupt:  # before signals are handled in order
        return _complain(["interrupted"], 1)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="harpd", description="Calls procedures on behalf of remote callers."
    )
    parser.add_argument(
        "-c",
        "--config",
        default=_DEFAULT_CONFIG,
        metavar="FILE",
        help="configuration (default: %(default)s)",
    )
    parser.add_argument(
        "-r",
        "--procedures",
        metavar="FILE",
        help="the procedures, instead of the file that the configuration names",
    )
    return parser.parse_args(arguments)


def _complain(faults: list[str], status: int) -> int:
    for fault in faults:
        print(f"harpd: {fault}", file=sys.stderr)
    return status


class Daemon:
    """The daemon as a whole.

    :param options: of the command line
    :param open_files: soft limit of descriptors that calls run with
    :raises ConfigError: if the configuration can't be used
    """

    def __init__(self, options: argparse.Namespace, open_files: int) -> None:
        self._options = options
        self._open_files = open_files
        self._generation = self._make_generation()
        self._front = Front(self._generation)
        self._servers: list[Server] = []
        self._signals = service.Signals()
        self._failed = False
        self._stopping = False
        self._reload_wanted = threading.Event()
        # Appended to by the reloading thread, read by the stop.
        self._retiring: list[threading.Thread] = []

    def _make_generation(self) -> Generation:
        path = self._options.config
        config = load(path, DaemonConfig)
        if self._options.procedures is not None:
            config = dataclasses.replace(
                config, procedures_file=self._options.procedures
            )
        try:
            return Generation(config)
        except ConfigError as error:
            raise ConfigError([f"{path}: {fault}" for fault in error.faults]) from None

    def run(self) -> int:
        """Serve until a signal ends it; return the exit status.

        :raises OSError: if it can't listen or start a process
        :raises ProceduresFailed: if the procedures don't load
        """
        self._listen()
        self._generation.start(Children.start, self._open_files, self._lose_spawner)
        with self._signals:
            for server in self._servers:
                server.start()
            threading.Thread(
                target=self._reload_when_wanted, name="reload", daemon=True
            ).start()
            addresses = " ".join(str(server.address) for server in self._servers)
            logger.info(
                "serving %s",
                fields(
                    addresses=addresses,
                    procedures=len(self._generation.children.procedures),
                ),
            )
            service.notify(READY="1", X_HARP_ADDRESS=addresses)
            while self._signals.wait() == signal.SIGHUP:
                self._reload_wanted.set()
            self._stop()
        return 1 if self._failed else 0

    def _listen(self) -> None:
        for address in self._generation.config.listen:
            self._servers.append(
                Server(
                    address,
                    self._front.serve,
                    name="call",
                    max_connections=self._generation.config.max_calls + _WITHOUT_CALL,
                )
            )

    def _lose_spawner(self) -> None:
        self._failed = True
        self._signals.stop()

    # --- reload ---

    def _reload_when_wanted(self) -> None:
        while True:
            self._reload_wanted.wait()
            self._reload_wanted.clear()
            service.notify(
                RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000)
            )
            self._reload()
            if not self._stopping:
                service.notify(READY="1")

    def _reload(self) -> None:
        """Go on with what the files hold now; if one is at fault, as before."""
        old = self._generation
        try:
            new = self._make_generation()
            new.start(
                old.children.start_successor, self._open_files, self._lose_spawner
            )
        except ConfigError as error:
            return self._keep_old(error.faults)
        except (ProceduresFailed, OSError) as error:
            return self._keep_old([str(error)])
        if self._stopping:
            new.children.close(time.monotonic() + _STOP_SECONDS)
            return
        if new.config.listen != old.config.listen:
            logger.warning("addresses to listen on change at the next start only")
        self._front.replace(new)
        self._generation = new
        logger.info("reloaded %s", fields(procedures=len(new.children.procedures)))
        retiring = threading.Thread(
            target=self._retire, args=(old,), name="retire", daemon=True
        )
        retiring.start()
        self._retiring.append(retiring)

    def _keep_old(self, faults: list[str]) -> None:
        for fault in faults:
            logger.error("reload failed, all stays as it was: %s", fault)

    def _retire(self, generation: Generation) -> None:
        self._front.wait_until_unused(generation)
        generation.children.close(time.monotonic() + _STOP_SECONDS)

    # --- stop ---

    def _stop(self) -> None:
        """No new calls, running ones end, then their processes' parent."""
        self._stopping = True
        logger.info("stopping")
        service.notify(STOPPING="1")
        for server in self._servers:
            server.stop_accepting()
        grace = self._generation.config.kill_grace
        deadline = time.monotonic() + grace + _STOP_SECONDS
        self._front.stop()
        for server in self._servers:
            for name in server.join(deadline):
                logger.error("still busy %s", fields(thread=name))
        for thread in self._retiring:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not self._generation.children.close(deadline + grace):
            logger.error("spawner doesn't end, some process can't be killed")
            self._failed = True
        logger.info("stopped")
