"""Runs the dispatcher in this process: in the foreground, or in the background."""

from __future__ import annotations

import argparse
import os
import sys

from harp import actions, kernel, log, service
from harp.config import ConfigError
from harp.dispatcher import life
from harp.dispatcher.disk import StorageError
from harp.dispatcher.joblog import LogInUse
from harp.dispatcher.options import Options
from harp.pidfile import AlreadyRunning

from .. import output
from .life import DEFAULT_PIDFILE, NAME, log_target


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
        return _complain(error.faults, actions.EX_CONFIG)
    except (LogInUse, StorageError, AlreadyRunning) as error:
        return _complain([str(error)], actions.FAILED)
    except OSError as error:
        return _complain([service.reason(error)], actions.FAILED)


def check(options: argparse.Namespace) -> int:
    """Check all that the dispatcher would use; return the exit status."""
    from harp.dispatcher import check

    _prepare()
    settings = _settings(options)
    faults = check.find_faults(settings)
    if faults:
        return _complain(faults, actions.EX_CONFIG)
    output.note(f"{NAME}: {settings.config}: good")
    return actions.OK


def _settings(options: argparse.Namespace) -> Options:
    pidfile = options.pidfile
    if pidfile is None and options.daemon:
        pidfile = DEFAULT_PIDFILE
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


def _complain(faults: list[str], status: int) -> int:
    for fault in faults:
        print(f"{NAME}: {output.one_line(fault)}", file=sys.stderr)
    return status
