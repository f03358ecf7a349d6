"""What ``harpd -t`` does: all that a start would look at, without serving."""

from __future__ import annotations

import logging
import os
import time

from .. import accounts
from ..config import ConfigError, DaemonConfig, logs
from ..config.table import shown
from . import options
from .children import Children, ProceduresFailed
from .generation import Generation, spawner_settings

_STOP_SECONDS = 10.0


class _Collector(logging.Handler):
    """Keeps the texts of what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def find_faults(settings: options.Options, open_files: int) -> tuple[list[str], int]:
    """Check the files, each as the user that will read it.

    :param open_files: soft limit of descriptors that calls run with
    :returns: a line for each fault, and the number of procedures
    """
    path = settings.config
    try:
        config = options.load_config(settings)
    except ConfigError as error:
        return error.faults, 0  # the other files' names are not known
    faults = []
    account = None
    try:
        account = options.front_account(config)
    except ConfigError as error:
        faults += error.faults
    with accounts.acting_as(account):
        faults += _check_front(settings, config)
    faults = [shown(f"{path}: {text}") for text in faults]
    more, procedures = _check_procedures(config, open_files)
    return faults + more, procedures


def _check_front(settings: options.Options, config: DaemonConfig) -> list[str]:
    owner = os.getuid()
    faults = options.check_hands(settings.config, config, owner)
    options.use_python_path(config.python_path)
    collector = _Collector()
    log = logging.getLogger(__package__)
    log.addHandler(collector)
    log.propagate = False
    try:
        Generation(config, owner)
    except ConfigError as error:
        faults += error.faults
    finally:
        log.propagate = True
        log.removeHandler(collector)
    faults += collector.texts
    return faults + logs.check(config.logging)


def _check_procedures(config: DaemonConfig, open_files: int) -> tuple[list[str], int]:
    try:
        children = Children.start(spawner_settings(config, open_files))
        children.load(lambda: None)
    except (ProceduresFailed, OSError) as error:
        return str(error).splitlines(), 0
    children.close(time.monotonic() + _STOP_SECONDS)
    procedures = children.procedures.values()
    faults = [
        f"{config.procedures_file}: {one.name}: {one.account_fault}"
        for one in procedures
        if one.account_fault is not None
    ]
    return faults, len(procedures)
