"""What ``harpcallerd -t`` does: all that a start would look at, as the user it runs as,
without serving."""

from __future__ import annotations

import os
import socket

from .. import accounts, log
from ..config import ConfigError, DispatcherConfig, collect, logs
from ..listener import Listener
from . import hosts, layout, options
from .main import Dispatcher
from .orders import Reloaded, Reloading, StopOrders

_NOT_MADE = "hosts.cache"  # a start makes the directories of the others
_LONGEST_SOCKET = 107  # bytes of its path; see unix(7)


def find_faults(settings: options.Options) -> list[str]:
    """Check the configuration and the files it names.

    :returns: a line for each fault
    """
    try:
        config = options.load_config(settings)
    except ConfigError as error:
        return error.faults  # the other files' names are not known
    faults: list[str] = []
    account = collect(faults, options.find_account, config)
    if os.geteuid() != 0:  # else they are made before root becomes another user
        faults += _missing_directories(config)
    with accounts.acting_as(account):
        faults += _check_files(settings, config)
    return ConfigError(faults).within(settings.config).faults


def _check_files(settings: options.Options, config: DispatcherConfig) -> list[str]:
    faults = _unusable_directories(config)
    faults += _impossible_sockets(config)
    faults += options.check_hands(settings, config)
    faults += logs.check(config.logging)
    faults += layout.check(config.stream_directory)
    orders = StopOrders(_nothing), Reloading(_no_reload)
    with log.kept() as skipped:  # lines of the password file and of known_certs
        dispatcher = collect(faults, Dispatcher, config, *orders)
    faults += skipped
    if dispatcher is not None:
        dispatcher.discard()
    faults += hosts.check(config)
    faults += _check_admin_group(config)
    for listener in config.listen:
        faults += _check_listener(listener)
    return faults


def _sockets(config: DispatcherConfig) -> list[tuple[str, str]]:
    """Unix sockets: keys and paths."""
    found = [("admin_socket", config.admin_socket)]
    for listener in config.listen:
        if listener.address.path is not None:
            found.append(("listen", listener.address.path))
    return found


def _impossible_sockets(config: DispatcherConfig) -> list[str]:
    return [
        f"{key}: {path}: a socket's path may have {_LONGEST_SOCKET} bytes: "
        "name a shorter one"
        for key, path in _sockets(config)
        if len(os.fsencode(path)) > _LONGEST_SOCKET
    ]


def _directories(config: DispatcherConfig) -> list[tuple[str, str]]:
    """Where files come to be: keys and paths."""
    found = [(key, os.path.dirname(path)) for key, path in _sockets(config)]
    found.append(("stream_directory", config.stream_directory))
    if config.hosts_cache is not None:
        found.append((_NOT_MADE, os.path.dirname(config.hosts_cache)))
    return found


def _missing_directories(config: DispatcherConfig) -> list[str]:
    faults = []
    for key, path in _directories(config):
        parent = path
        while not os.path.lexists(parent):
            parent = os.path.dirname(parent)
        if parent != path and not os.access(parent, os.W_OK | os.X_OK):
            faults.append(f"{key}: {path}: does not exist and can't be made")
    return faults


def _unusable_directories(config: DispatcherConfig) -> list[str]:
    faults = []
    for key, path in _directories(config):
        if not os.path.lexists(path) and key != _NOT_MADE:
            continue
        if not os.path.isdir(path):
            faults.append(f"{key}: {path}: is no directory")
        elif not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
            faults.append(f"{key}: {path}: can't be written")
    return faults


def _check_admin_group(config: DispatcherConfig) -> list[str]:
    try:
        group = options.admin_group(config)
    except ConfigError:
        return []  # which is said elsewhere
    if group is None or options.may_give_to(group):
        return []
    return [
        f"admin_group: {config.admin_group}: the dispatcher's user must be a member to "
        "give the socket to it"
    ]


def _check_listener(listener: Listener) -> list[str]:
    address = listener.address
    if address.path is not None:
        try:
            options.client_group(listener)
        except OSError as error:
            return [f"listen: {error.strerror}"]
        return []
    if address.host == "*":
        return []
    try:
        socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        return [f"listen: {address}: {error.strerror}"]
    except UnicodeError as error:  # a label that is empty or too long
        return [f"listen: {address}: is no host name: {error}"]
    return []


def _nothing() -> None:
    pass


def _no_reload() -> Reloaded:
    return Reloaded([], [])
