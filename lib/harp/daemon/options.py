"""What the command line and the configuration file say together."""

from __future__ import annotations

import dataclasses

# These two are imported when first used elsewhere; by then we may be a user who can't
# read the library.
import ipaddress  # noqa: F401
import json
import logging.config
import logging.handlers  # noqa: F401
import os
import sys
from typing import NamedTuple

from .. import accounts, hands, log
from ..config import ConfigError, DaemonConfig, load, logs
from ..errors import reason

# Both go to the spawner in one message, with what takes little.
_MAX_ENVIRONMENT = 16 * 1024
_MAX_PROCEDURES = 8 * 1024
# The daemon sets these for each call itself.
_OWN_VARIABLES = ("HARP_JOB_ID", "HOME", "LOGNAME", "USER")

_PATHS = ("certificate", "private_key", "password_file", "procedures_file")


class Options(NamedTuple):
    """The command line of a daemon. Paths are absolute.

    :ivar config: file
    :ivar procedures: file or directory, None: as configured
    :ivar logging: where the log goes, as the configuration's key; None: as configured
    :ivar user: that procedures run as by default, None: as configured
    :ivar group: theirs, None: as configured
    :ivar background: leave the terminal
    :ivar pidfile: None: none
    """

    config: str
    procedures: str | None = None
    logging: str | None = None
    user: str | int | None = None
    group: str | int | None = None
    background: bool = False
    pidfile: str | None = None


def load_config(options: Options) -> DaemonConfig:
    """Read the configuration; the command line goes before it. Paths in it are
    relative to its directory, as the daemon leaves the one that it was started in.

    :raises ConfigError: with every fault of the file
    """
    if not os.path.lexists(options.config):
        raise ConfigError(
            [f'{options.config}: does not exist; "harpd setup" makes one']
        )
    config = load(options.config, DaemonConfig)
    changes: dict[str, object] = {
        "procedures_file": options.procedures,
        "logging": options.logging,
        "procedures_user": options.user,
        "procedures_group": options.group,
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    if options.user is not None and options.group is None:
        changes["procedures_group"] = None  # which is that of the user configured
    directory = os.path.dirname(options.config)
    for field in _PATHS:
        path = changes.get(field, getattr(config, field))
        if path is not None:
            changes[field] = os.path.join(directory, path)
    configured = changes.get("logging", config.logging)
    changes["logging"] = logs.find(configured, directory, options.background)
    changes["python_path"] = tuple(
        os.path.join(directory, path) for path in config.python_path
    )
    config = dataclasses.replace(config, **changes)
    faults = _find_faults(config)
    if faults:
        raise ConfigError(faults).within(options.config)
    return config


def _find_faults(config: DaemonConfig) -> list[str]:
    """Say what the spawner can't be told, and what can't be in an environment."""
    faults = [
        f"environment.{name}: {fault}"
        for name, value in config.environment.items()
        if (fault := _fault_of_variable(name, value))
    ]
    if len(json.dumps(dict(config.environment))) > _MAX_ENVIRONMENT:
        faults.append(f"environment: more than {_MAX_ENVIRONMENT} bytes")
    names = config.procedures_file, config.procedures_user, config.procedures_group
    if len(json.dumps([*names, *config.python_path])) > _MAX_PROCEDURES:
        faults.append(
            "procedures: file, user, group and python_path are more than "
            f"{_MAX_PROCEDURES} bytes"
        )
    return faults


def _fault_of_variable(name: str, value: str) -> str:
    if name in _OWN_VARIABLES:
        return "harpd sets it for each call"
    if not name or "=" in name or "\0" in name + value:
        return "can't be in an environment"
    return ""


def front_account(config: DaemonConfig) -> accounts.Account | None:
    """Return the user that the front drops to; None: it stays what it is.

    :raises ConfigError: if there is no such user or group
    """
    if config.front_user is None:
        if config.front_group is not None:
            raise ConfigError(["front.group: needs front.user"])
        return None
    try:
        account = accounts.find(config.front_user, config.front_group)
    except LookupError as error:
        raise ConfigError([f"front.user: {error.args[0]}"]) from None
    return account if os.geteuid() == 0 else None


def check_hands(path: str, config: DaemonConfig, owner: int) -> list[str]:
    """Say which files of a configuration are in the wrong hands; not the procedures,
    which the spawner looks at. To be called as the user that the front is or will be,
    who will read them at a reload.

    :param path: of the configuration
    :param owner: number of the user who has started the daemon
    :returns: a line for each fault, with key, file and mode
    """
    groups = _reading_groups(config)
    faults = hands.program_that_others_can_write(owner)
    try:
        with open(path, "rb"):
            pass
    except OSError as error:  # root has read it before
        faults.append(f"front.user: can't read {reason(error)}")
    faults += [f"configuration: {text}" for text in hands.who_can_write(path, owner)]
    if config.users:
        found = hands.who_can_read(path, owner, groups)
        faults += [f"users: {text}" for text in found]
    for key, secret in (
        ("tls.key", config.private_key),
        ("password_file", config.password_file),
    ):
        if secret is not None:
            found = hands.who_can_write(secret, owner)
            found += hands.who_can_read(secret, owner, groups)
            faults += [f"{key}: {text}" for text in found]
    # They decide what the front runs.
    for key, paths in (
        ("procedures.python_path", config.python_path),
        ("logging", (config.logging,) if log.is_dictionary(config.logging) else ()),
    ):
        for one in paths:
            found = hands.code_that_others_can_write(one, owner)
            faults += [f"{key}: {text}" for text in found]
    return faults


def _reading_groups(config: DaemonConfig) -> set[int]:
    """Return the groups that the front has, or would have if root started it."""
    groups = {0, os.getegid(), *os.getgroups()}
    if config.front_user is not None:
        try:
            groups.update(
                accounts.find(config.front_user, config.front_group).groups
            )
        except LookupError:
            pass  # which is said elsewhere
    return groups


def use_python_path(new: tuple[str, ...], old: tuple[str, ...] = ()) -> None:
    """Look for modules in those directories first, no longer in the old ones."""
    sys.path[:] = [*new, *(path for path in sys.path if path not in {*new, *old})]
