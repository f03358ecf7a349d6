"""The daemon as a whole: start, signals, reload, stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

from .. import accounts, actions, service
from ..config import ConfigError, DaemonConfig, at_start, collect, logs
from ..errors import reason
from ..log import fields
from ..pidfile import take_pidfile
from ..server import Server
from . import options
from .children import Children, ProceduresFailed
from .front import Front
from .generation import Generation
from .settings import for_start

logger = logging.getLogger(__name__)

_WITHOUT_CALL = 256  # connections that have authenticated and have no call (yet)
_STOP_SECONDS = 10  # for everything after the calls have had their grace


class Daemon:
    """The daemon as a whole.

    :param settings: the command line
    :param open_files: soft limit of descriptors that calls run with
    :param background: told when the daemon serves
    :raises ConfigError: if the configuration can't be used
    """

    def __init__(
        self,
        settings: options.Options,
        open_files: int,
        background: service.Background,
    ) -> None:
        self._options = settings
        self._open_files = open_files
        self._background = background
        # Remembered, because the front may become another user.
        self._owner = os.getuid()
        self._generation = self._make_first_generation()
        self._started_with = self._generation.config
        self._front = Front(self._generation)
        self._servers: list[Server] = []
        self._signals = service.Signals()
        self._failed = False
        self._stopping = False
        self._reload_wanted = threading.Event()
        # Replaced by the reloading thread, read by the stop.
        self._retiring: list[threading.Thread] = []

    def _make_first_generation(self) -> Generation:
        config = options.load_config(self._options)
        try:
            self._account = options.front_account(config)
        except ConfigError as error:
            raise error.within(self._options.config) from None
        # Who reads the files at a reload must be able to do so now.
        with accounts.acting_as(self._account):
            generation = self._make_generation(config)
            try:
                self._logging = logs.start(config.logging, "harpd")
            except ConfigError as error:
                raise error.within(self._options.config) from None
        return generation

    def _make_generation(
        self, config: DaemonConfig, old: DaemonConfig | None = None
    ) -> Generation:
        """Return what a configuration makes, which is still to be started."""
        faults = options.check_hands(self._options.config, config, self._owner)
        options.use_python_path(config.python_path, old.python_path if old else ())
        generation = collect(faults, Generation, config, self._owner)
        if faults:
            raise ConfigError(faults).within(self._options.config)
        return generation

    def run(self) -> int:
        """Serve until a signal ends it; return the exit status.

        :raises AlreadyRunning: if another process has the pid file
        :raises OSError: if it can't listen or start a process
        :raises ProceduresFailed: if the procedures don't load
        """
        self._remember_early_signals()
        pidfile = take_pidfile(self._options.pidfile)
        try:
            self._begin()
            with self._signals:
                return self._serve()
        finally:
            if pidfile is not None:
                pidfile.release()

    def _begin(self) -> None:
        """Do what may fail and needs root."""
        try:
            self._listen()
            self._generation.start(self._start_spawner, self._lose_spawner)
            _warn(self._generation)
            self._drop_root()
        except BaseException:
            for server in self._servers:
                server.server_close()
            raise

    def _start_spawner(self) -> Children:
        config = self._generation.config
        return Children.start(for_start(config, self._open_files, self._options))

    def _remember_early_signals(self) -> None:
        """From the pid file on others may signal us, although we can't serve yet."""
        signal.signal(signal.SIGHUP, lambda *_: self._reload_wanted.set())
        signal.signal(signal.SIGUSR1, lambda *_: None)

    def _drop_root(self) -> None:
        """Give up root, which the spawner alone needs from now on."""
        if self._account is not None:
            accounts.become(self._account)
        elif os.getuid() == 0:
            logger.warning("what speaks with callers is root; see front.user")

    def _serve(self) -> int:
        for server in self._servers:
            server.start()
        addresses = " ".join(str(server.address) for server in self._servers)
        logger.info(
            "serving %s",
            fields(
                addresses=addresses,
                procedures=len(self._generation.children.procedures),
            ),
        )
        service.notify(READY="1", X_HARP_ADDRESS=addresses)
        self._background.serving()
        threading.Thread(
            target=self._reload_when_wanted, name="reload", daemon=True
        ).start()
        while self._signals.wait() == signal.SIGHUP:
            self._reload_wanted.set()
        self._stop()
        return 1 if self._failed else 0

    def _listen(self) -> None:
        config = self._generation.config
        for address in config.listen:
            self._servers.append(
                Server(
                    address,
                    self._front.serve,
                    name="call",
                    max_connections=_most_connections(config),
                    gate=self._front.gate,
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
            service.notify_reloading()
            try:
                faults = self._reload()
            except Exception as error:
                logger.exception("reload failed")
                faults = [f"{type(error).__name__}: {error}"]
            if self._options.pidfile is not None:
                actions.answer_reload(self._options.pidfile, faults)
            if not self._stopping:
                service.notify(READY="1")

    def _reload(self) -> list[str]:
        """Go on with what the files hold now; if one is at fault, as before.

        :returns: the faults
        """
        path = list(sys.path)
        try:
            new = self._load_anew(self._generation)
        except ConfigError as error:
            faults = error.faults
        except ProceduresFailed as error:
            faults = str(error).splitlines()
        except OSError as error:
            faults = [f"can't start a spawner: {reason(error)}"]
        else:
            return self._take_over(self._generation, new)
        sys.path[:] = path
        for fault in faults:
            logger.error("reload failed, all stays as it was: %s", fault)
        return faults

    def _load_anew(self, old: Generation) -> Generation:
        config = options.load_config(self._options)
        new = self._make_generation(config, old.config)
        new.start(old.children.start_successor, self._lose_spawner)
        try:
            self._logging = logs.start(config.logging, "harpd")
        except ConfigError as error:
            self._logging.go_on()
            new.children.close(time.monotonic() + _STOP_SECONDS)
            raise error.within(self._options.config) from None
        _warn(new)
        return new

    def _take_over(self, old: Generation, new: Generation) -> list[str]:
        if self._stopping:
            new.children.close(time.monotonic() + _STOP_SECONDS)
            return ["the daemon stops"]
        for field, key in at_start(DaemonConfig).items():
            if getattr(new.config, field) != getattr(self._started_with, field):
                logger.warning("%s changes at the next start only", key)
        self._front.replace(new)
        for server in self._servers:
            server.allow(_most_connections(new.config))
        self._generation = new
        logger.info("reloaded %s", fields(procedures=len(new.children.procedures)))
        retiring = threading.Thread(
            target=self._retire, args=(old,), name="retire", daemon=True
        )
        retiring.start()
        left = [thread for thread in self._retiring if thread.is_alive()]
        self._retiring = [*left, retiring]
        return []

    def _retire(self, generation: Generation) -> None:
        generation.children.retire()
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


def _most_connections(config: DaemonConfig) -> int:
    return config.max_calls + config.max_unauthenticated + _WITHOUT_CALL


def _warn(generation: Generation) -> None:
    """Log what can't be called, and if nobody can call."""
    config, procedures = generation.config, generation.children.procedures
    if not procedures:
        logger.warning(
            "nothing can be called: no @procedure %s",
            fields(path=config.procedures_file),
        )
    if not (config.users or config.password_file or config.auth_backends):
        logger.warning("nobody can call: no users, no password_file")
    for description in procedures.values():
        if description.account_fault is not None:
            logger.warning(
                "no call of this procedure will run %s",
                fields(procedure=description.name, reason=description.account_fault),
            )
