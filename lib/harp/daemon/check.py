"""What ``harpd -t`` does: all that a start would look at, without serving."""

from __future__ import annotations

import os
import time

from .. import accounts, log
from ..config import ConfigError, DaemonConfig, collect, logs
from ..errors import reason
from . import options
from .children import Children, ProceduresFailed
from .generation import Generation
from .settings import for_start

_STOP_SECONDS = 10.0


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
    faults: list[str] = []
    account = collect(faults, options.front_account, config)
    with accounts.acting_as(account):
        faults += _check_front(settings, config)
    faults = ConfigError(faults).within(path).faults
    more, procedures = _check_procedures(config, open_files)
    return faults + more, procedures


def _check_front(settings: options.Options, config: DaemonConfig) -> list[str]:
    owner = os.getuid()
    faults = options.check_hands(settings.config, config, owner)
    options.use_python_path(config.python_path)
    with log.kept() as skipped:  # lines of the password file
        collect(faults, Generation, config, owner)
    return faults + skipped + logs.check(config.logging)


def _check_procedures(config: DaemonConfig, open_files: int) -> tuple[list[str], int]:
    try:
        children = Children.start(for_start(config, open_files))
        children.load(lambda: None)
    except ProceduresFailed as error:
        return str(error).splitlines(), 0
    except OSError as error:
        return [f"can't start a spawner: {reason(error)}"], 0
    children.close(time.monotonic() + _STOP_SECONDS)
    procedures = children.procedures.values()
    faults = [
        f"{config.procedures_file}: {one.name}: {one.account_fault}"
        for one in procedures
        if one.account_fault is not None
    ]
    return faults, len(procedures)
