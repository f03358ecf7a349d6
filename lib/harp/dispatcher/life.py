"""The life of a dispatcher's process: what it prepares, start, signals, reload, drain,
stop. Everything here is done by the main thread, but for the start itself and the
reload, which may take their time and must not keep a signal waiting."""

from __future__ import annotations

# Some of these are imported when first used elsewhere; by then we may be a user who
# can't read the library.
import concurrent.futures.thread  # noqa: F401
import copy  # noqa: F401
import dataclasses
import encodings.idna  # noqa: F401
import ipaddress  # noqa: F401
import logging.config
import logging.handlers  # noqa: F401
import os
import signal
import threading
import time

from .. import __version__, accounts, config as configuration, listener, service
from ..config import ConfigError, DispatcherConfig, collect, logs
from ..log import fields
from ..pidfile import take_pidfile
from ..protocol.admin import Stop
from . import options
from .main import Dispatcher
from .options import Options
from .orders import Reloaded, Reloading, StopOrder, StopOrders

logger = logging.getLogger(__name__)

_STOP_SECONDS = 60  # what the service manager must grant beyond the time for draining
_LONGEST_DRAIN_SECONDS = 366 * 86400  # told to it where nobody has set a limit


def run(settings: Options, background: service.Background) -> int:
    """Run a dispatcher until it is told to stop; return the exit status.

    :param background: told when it serves
    :raises ConfigError: if the configuration can't be used
    :raises AlreadyRunning: if another process has the pid file
    :raises LogInUse: if another dispatcher has the log
    :raises StorageError: if the log can't be used
    :raises OSError: if an address can't be listened on, and the like
    """
    with service.Signals() as signals:
        config = options.load_config(settings)
        try:
            account = options.find_account(config)
        except ConfigError as error:
            raise error.within(settings.config) from None
        options.make_directories(config, account)
        pidfile = take_pidfile(settings.pidfile)
        try:
            if account is not None:
                accounts.become(account)
            return _Life(settings, config, signals, background).run()
        finally:
            if pidfile is not None:
                pidfile.release()


def prepare(settings: Options, config: DispatcherConfig) -> logs.Log:
    """Check what a configuration names, and send the log where it says.

    :returns: where that is
    :raises ConfigError: with every fault
    """
    faults = options.check_hands(settings, config)
    log = collect(faults, logs.start, config.logging, "harpcallerd")
    if faults:
        raise ConfigError(faults)
    return log


class _Life:
    """From the end of the preparations to the exit."""

    def __init__(
        self,
        settings: Options,
        config: DispatcherConfig,
        signals: service.Signals,
        background: service.Background,
    ) -> None:
        self._options = settings
        self._config = config
        self._signals = signals
        self._background = background
        self._stops = StopOrders(signals.wake)
        self._reloading = Reloading(self._reload)
        self._addresses: list[str] | None = None
        self._start_error: Exception | None = None
        try:
            self._log = prepare(settings, config)
            self._dispatcher = Dispatcher(config, self._stops, self._reloading)
        except ConfigError as error:
            raise error.within(settings.config) from None

    def run(self) -> int:
        if os.geteuid() == 0:
            logger.warning("the dispatcher runs as root; see the key user")
        try:
            if self._start():
                self._reloading.start()
                self._serve()
        finally:
            service.notify(STOPPING="1")
            self._reloading.close()
            self._dispatcher.stop()
        logger.info("stopped")
        return 0

    # --- start ---

    def _start(self) -> bool:
        """Start the dispatcher; False: a signal has ended that."""
        starting = threading.Thread(target=self._start_parts, name="start")
        starting.start()
        stopped_by = None
        while self._addresses is None and self._start_error is None:
            number = self._signals.wait()
            if number == signal.SIGHUP:
                self._reloading.want()
            elif number is not None:
                stopped_by = number.name
                logger.info("stopping during the start %s", fields(by=stopped_by))
                self._dispatcher.interrupt_start()
                break
        starting.join()
        if stopped_by is not None:
            return False
        if self._start_error is not None:
            raise self._start_error
        logger.info(
            "serving %s", fields(version=__version__, addresses=self._addresses)
        )
        service.notify(READY="1", X_HARP_ADDRESS=" ".join(self._addresses))
        self._background.serving()
        return True

    def _start_parts(self) -> None:
        try:
            self._addresses = self._dispatcher.start()
        except Exception as error:  # raised again by the main thread
            self._start_error = error
        self._signals.wake()

    # --- until the stop ---

    def _serve(self) -> None:
        """Return when it is time to stop."""
        draining = False
        deadline = None
        while True:
            order = self._stops.take()
            if order is None:
                number = self._signals.wait(deadline)
                if number == signal.SIGHUP:
                    self._reloading.want()
                elif number is not None:
                    order = self._order_of(number, draining)
            if order is not None and order.stop.drain:
                deadline = self._drain(order, draining)
                draining = True
            elif order is not None:
                logger.info("stopping %s", fields(by=order.by, draining=draining))
                return
            if draining and self._is_drained(deadline):
                return

    def _order_of(self, number: signal.Signals, draining: bool) -> StopOrder:
        stop = Stop()
        if number == signal.SIGTERM and not draining:
            stop = self._config.on_sigterm
        return StopOrder(stop, number.name)

    def _drain(self, order: StopOrder, draining: bool) -> float | None:
        """Start nothing new, or change how long that may last; return until when."""
        seconds = order.stop.seconds
        logger.info(
            "draining, no job is started any more %s",
            fields(by=order.by, seconds=seconds, running=self._dispatcher.running()),
        )
        service.notify(STOPPING="1", STATUS="draining")
        granted = _LONGEST_DRAIN_SECONDS if seconds is None else seconds
        usec = int((granted + _STOP_SECONDS) * 1_000_000)
        service.notify(EXTEND_TIMEOUT_USEC=str(usec))
        if not draining:
            self._dispatcher.drain(self._signals.wake)
        return None if seconds is None else time.monotonic() + seconds

    def _is_drained(self, deadline: float | None) -> bool:
        if self._dispatcher.is_drained:
            logger.info("stopping: drained, no job runs any more")
            return True
        if deadline is not None and time.monotonic() >= deadline:
            logger.info(
                "stopping: the time for draining is over %s",
                fields(running=self._dispatcher.running()),
            )
            return True
        return False

    # --- reload, in its thread ---

    def _reload(self) -> Reloaded:
        """Go on with what the files hold now; if one is at fault, as before."""
        service.notify_reloading()
        old = self._config
        try:
            new, restart = self._load_anew(old)
        except ConfigError as error:
            for fault in error.faults:
                logger.error("reload failed, all stays as it was: %s", fault)
            return Reloaded(error.faults, [])
        finally:
            service.notify(READY="1")
        self._config = new
        for key in restart:
            logger.warning("%s changes at the next start only", key)
        logger.info("reloaded %s", fields(restart=restart))
        return Reloaded([], restart)

    def _load_anew(self, old: DispatcherConfig) -> tuple[DispatcherConfig, list[str]]:
        config = options.load_config(self._options)
        # Beside these, what listener.merge says of "listen".
        changed = {
            field: key
            for field, key in configuration.at_start(DispatcherConfig).items()
            if getattr(config, field) != getattr(old, field)
        }
        listen, waiting = listener.merge(old.listen, config.listen)
        # Compared with at the next reload too: a start still has to apply them.
        config = dataclasses.replace(
            config, listen=listen, **{field: getattr(old, field) for field in changed}
        )
        try:
            log = prepare(self._options, config)
            self._dispatcher.apply(config)
        except ConfigError as error:
            self._log.go_on()
            raise error.within(self._options.config) from None
        self._log = log
        restart = [f"listen ({one})" for one in waiting]
        return config, restart + [*changed.values()]
