"""What the command line and the configuration file say together, and what a start
prepares with it."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import NamedTuple

from .. import accounts, hands, log
from ..config import ConfigError, DispatcherConfig, load, logs
from ..listener import DEFAULT_GROUP, Listener

_PATHS = (
    "admin_socket",
    "stream_directory",
    "hosts_script",
    "hosts_file",
    "hosts_cache",
    "known_certs_file",
    "ca_file",
    "certificate",
    "private_key",
    "password_file",
    "audit_file",
)
_DIRECTORY_MODE = 0o755
_LOG_DIRECTORY_MODE = 0o700


class Options(NamedTuple):
    """The command line of a dispatcher. Paths are absolute.

    :ivar config: file
    :ivar logging: where the log goes, as the configuration's key; None: as configured
    :ivar background: leave the terminal
    :ivar pidfile: None: none
    """

    config: str
    logging: str | None = None
    background: bool = False
    pidfile: str | None = None


def load_config(options: Options) -> DispatcherConfig:
    """Read the configuration; the command line goes before it. Paths in it are
    relative to its directory.

    :raises ConfigError: with every fault of the file
    """
    if not os.path.lexists(options.config):
        raise ConfigError(
            [f'{options.config}: does not exist; "harpcallerd setup" makes one']
        )
    config = load(options.config, DispatcherConfig)
    directory = os.path.dirname(options.config)
    changes: dict[str, object] = {}
    for field in _PATHS:
        path = getattr(config, field)
        if path is not None:
            changes[field] = os.path.join(directory, path)
    configured = config.logging if options.logging is None else options.logging
    changes["logging"] = logs.find(configured, directory, options.background)
    return dataclasses.replace(config, **changes)


def find_account(config: DispatcherConfig) -> accounts.Account | None:
    """Return the user that the dispatcher drops to; None: it stays what it is.

    :raises ConfigError: if there is no such user or group
    """
    if config.user is None:
        if config.group is not None:
            raise ConfigError(["group: needs user"])
        return None
    try:
        account = accounts.find(config.user, config.group)
    except LookupError as error:
        raise ConfigError(
            [f'user: {error.args[0]}; "harpcallerd setup" makes one']
        ) from None
    return account if os.geteuid() == 0 else None


def admin_group(config: DispatcherConfig) -> int | None:
    """Return the number of the group that may use the admin socket; None: none may.

    :raises ConfigError: if there is no such group
    """
    if config.admin_group is None:
        return None
    try:
        return accounts.group_number(config.admin_group)
    except LookupError as error:
        raise ConfigError([f"admin_group: {error.args[0]}"]) from None


def client_group(listener: Listener) -> int | None:
    """Return the number of the group that a listener's Unix socket is given to; None:
    our own.

    :raises OSError: if there is no such group
    """
    if not listener.is_unix:
        return None
    try:
        if listener.group is not None:
            return accounts.group_number(listener.group)
        number = accounts.group_number(DEFAULT_GROUP)
    except LookupError as error:
        if listener.group is None:
            return None
        raise OSError(errno.EINVAL, f"{listener}: {error.args[0]}") from None
    return number if may_give_to(number) else None


def may_give_to(group: int) -> bool:
    """Tell whether this process may give a socket to a group."""
    return os.geteuid() == 0 or group in (os.getegid(), *os.getgroups())


def make_directories(
    config: DispatcherConfig, account: accounts.Account | None
) -> None:
    """Make the directories that are missing, and the account's: those of the Unix
    sockets, which are gone after a boot, and that of the job log.

    :raises OSError: if one can't be made
    """
    sockets = [config.admin_socket]
    sockets += [entry.address.path for entry in config.listen if entry.address.path]
    for path in sockets:
        _make_directory(os.path.dirname(path), _DIRECTORY_MODE, account)
    _make_directory(config.stream_directory, _LOG_DIRECTORY_MODE, account)


def _make_directory(path: str, mode: int, account: accounts.Account | None) -> None:
    if os.path.isdir(path):
        return
    os.makedirs(path, mode)
    if account is not None:
        os.chown(path, account.uid, account.gid)


def check_hands(options: Options, config: DispatcherConfig) -> list[str]:
    """Say which files of a configuration are in the wrong hands. To be called as the
    user that the dispatcher is or will be, who will read them at a reload.

    :returns: a line for each fault, with key, file and mode
    """
    owner = os.geteuid()
    groups = {os.getegid(), *os.getgroups()}
    faults = hands.program_that_others_can_write(owner)
    for key, path, has_secret in (
        ("configuration", options.config, bool(config.users)),
        ("hosts.file", config.hosts_file, True),
        ("hosts.cache", config.hosts_cache, True),
        ("trust.known_certs_file", config.known_certs_file, False),
        ("trust.ca_file", config.ca_file, False),
        ("password_file", config.password_file, True),
        ("tls.key", config.private_key if _speaks_tls(config) else None, True),
    ):
        if path is not None:
            found = hands.who_can_write(path, owner)
            if has_secret:
                found += hands.who_can_read(path, owner, groups)
            faults += [f"{key}: {text}" for text in found]
    # They decide what the dispatcher runs.
    for key, path in (
        ("hosts.script", config.hosts_script),
        ("logging", config.logging if log.is_dictionary(config.logging) else None),
    ):
        if path is not None:
            found = hands.code_that_others_can_write(path, owner)
            faults += [f"{key}: {text}" for text in found]
    return faults


def _speaks_tls(config: DispatcherConfig) -> bool:
    return any(entry.tls for entry in config.listen)
