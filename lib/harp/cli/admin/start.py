"""Runs the dispatcher in this process: in the foreground, or in the background."""

from __future__ import annotations

import argparse
import os

from harp import actions, kernel, log, service
from harp.config import ConfigError
from harp.dispatcher import life
from harp.dispatcher.disk import StorageError
from harp.dispatcher.joblog import LogInUse
from harp.dispatcher.options import Options
from harp.errors import reason
from harp.pidfile import AlreadyRunning

from .life import default_pidfile, log_target
from .say import NAME, fail, say


def run(options: argparse.Namespace) -> int:
    """Run the dispatcher; return the exit status."""
    background = service.Background()
    settings = _settings(options)
    if settings.background:
        background.enter()
    _prepare()
    try:
        return life.run(settings, background)
    except ConfigError as error:
        return fail(*error.faults, status=actions.EX_CONFIG)
    except (LogInUse, StorageError, AlreadyRunning) as error:
        return fail(str(error), status=actions.FAILED)
    except OSError as error:
        return fail(reason(error), status=actions.FAILED)


def check(options: argparse.Namespace) -> int:
    """Check all that the dispatcher would use; return the exit status."""
    from harp.dispatcher import check

    _prepare()
    settings = _settings(options)
    faults = check.find_faults(settings)
    if faults:
        return fail(*faults, status=actions.EX_CONFIG)
    say(f"{settings.config}: good")
    return actions.OK


def _settings(options: argparse.Namespace) -> Options:
    pidfile = options.pidfile
    if pidfile is None and options.daemon:
        pidfile = default_pidfile(options)
    where = options.logging
    return Options(
        config=os.path.abspath(options.config),
        logging=None if where is None else log_target(where),
        background=options.daemon,
        pidfile=None if pidfile is None else os.path.abspath(pidfile),
    )


def _prepare() -> None:
    log.to_stderr()
    kernel.set_process_name(NAME)  # by its interpreter nobody would find it
    service.raise_descriptor_limit()
