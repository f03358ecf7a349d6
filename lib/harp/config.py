"""Configuration files: TOML, checked against the tables below.

A table is a frozen dataclass with a :func:`key` for each field; the manual's tables
are made from it. Loading reports every fault of a file at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from .address import Address
from .kinds import (
    AGE,
    BOOLEAN,
    COUNT,
    DURATION,
    LISTENERS,
    NETWORKS,
    RIGHTS,
    SECONDS,
    SIZE,
    STOP,
    STRING,
    STRINGS,
    STRING_LISTS,
    STRING_TABLE,
    TCP_ADDRESSES,
    USER,
    WHOLE_SECONDS,
    Kind,
    Stop,
    choice,
)
from .listener import Listener
from .rights import Rights


class ConfigError(Exception):
    """Raised when a configuration can't be used.

    :ivar faults: one line for each fault, with file and key
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Key(NamedTuple):
    """A row of a table.

    :ivar name: with its section, as ``section.key``
    :ivar default: as it would stand in the file; None: no default
    :ivar unit: ``s``, ``bytes`` or empty
    """

    name: str
    kind: Kind
    default: object
    unit: str
    meaning: str


def key(
    name: str, kind: Kind, default: object, meaning: str, unit: str = ""
) -> dataclasses.Field:
    """Declare a field of a table. ``default`` is what could stand in the file."""
    row = Key(name, kind, default, unit, meaning)
    value = None if default is None else kind.parse(default)
    return dataclasses.field(default_factory=lambda: value, metadata={"key": row})


# --- the tables ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DaemonConfig:
    """harpd.toml"""

    listen: tuple[Address, ...] = key(
        "listen", TCP_ADDRESSES, ["*:4306"], "addresses to listen on; * is all"
    )
    certificate: str = key(
        "tls.certificate",
        STRING,
        "/etc/harpd/cert.pem",
        "certificate chain that the daemon shows, PEM",
    )
    private_key: str = key(
        "tls.key", STRING, "/etc/harpd/key.pem", "its private key, PEM"
    )
    users: Mapping[str, str] = key(
        "users",
        STRING_TABLE,
        {},
        'who may call: name = "plain:PASSWORD", "sha256:HEX" or "scrypt:…"',
    )
    password_file: str | None = key(
        "password_file",
        STRING,
        None,
        "more users, a line each: NAME:sha256:HEX or NAME:scrypt:…",
    )
    allow_from: tuple | None = key(
        "allow_from",
        NETWORKS,
        None,
        "networks that connections may come from; by default all",
    )
    auth_backends: tuple[str, ...] = key(
        "auth.backends",
        STRINGS,
        [],
        "further modules that know users; importable, with create(config)",
    )
    auth_remember: float = key(
        "auth.remember",
        SECONDS,
        600,
        "how long a password that was verified is not hashed again",
        "s",
    )
    failure_delay: float = key(
        "auth.failure_delay",
        SECONDS,
        0.1,
        "before the reply to a failure; doubled with each further one of the same "
        "address or user",
        "s",
    )
    max_failure_delay: float = key(
        "auth.max_failure_delay", SECONDS, 5, "the longest such delay", "s"
    )
    authorization: Mapping[str, tuple[str, ...]] | None = key(
        "authorization",
        STRING_LISTS,
        None,
        'what each user may call: name = ["PATTERN", …], * and ? as for files; without '
        "this table everybody may call everything, with it nobody what isn't listed",
    )
    procedures_file: str = key(
        "procedures.file",
        STRING,
        "/etc/harpd/procedures.py",
        "the procedures: Python",
    )
    procedures_user: str | int | None = key(
        "procedures.user",
        USER,
        None,
        "user that calls run as whose procedure doesn't say; must be set for root",
    )
    procedures_group: str | int | None = key(
        "procedures.group",
        USER,
        None,
        "group of those calls; by default the groups of that user",
    )
    python_path: tuple[str, ...] = key(
        "procedures.python_path",
        STRINGS,
        [],
        "directories that modules are looked for in first; of the procedures, of "
        "authentication and of logging",
    )
    default_timeout: float | None = key(
        "procedures.timeout",
        SECONDS,
        None,
        "how long a call may take whose procedure doesn't say; by default for ever",
        "s",
    )
    environment: Mapping[str, str] = key(
        "environment",
        STRING_TABLE,
        {},
        'variables that calls have in their environment: NAME = "VALUE"',
    )
    front_user: str | int | None = key(
        "front.user",
        USER,
        None,
        "user that the part runs as which speaks with callers, if harpd is started by "
        "root; by default root",
    )
    front_group: str | int | None = key(
        "front.group",
        USER,
        None,
        "its group; by default the groups of that user",
    )
    logging: str | None = key(
        "logging",
        STRING,
        None,
        "where the log goes: TOML or JSON for logging.config.dictConfig; by default "
        "standard error, in the background the system's log",
    )
    traceback: bool = key(
        "procedures.traceback",
        BOOLEAN,
        False,
        "send the traceback of an exception to the caller",
    )
    standby: int = key(
        "limits.standby",
        COUNT,
        8,
        "processes that wait for a call; each takes some 10 MB, mostly shared",
    )
    max_calls: int = key(
        "limits.calls", COUNT, 1000, "calls at a time; a further one is refused"
    )
    max_unauthenticated: int = key(
        "limits.unauthenticated",
        COUNT,
        200,
        "connections that have not authenticated yet; at the limit those that have "
        "been there for a second give way",
    )
    handshake_timeout: float = key(
        "limits.handshake_timeout",
        SECONDS,
        10,
        "for the TLS handshake as a whole",
        "s",
    )
    request_timeout: float = key(
        "limits.request_timeout", SECONDS, 10, "for the request as a whole", "s"
    )
    send_timeout: float = key(
        "limits.send_timeout",
        SECONDS,
        60,
        "a caller that takes nothing for so long is gone, and its call cancelled",
        "s",
    )
    kill_grace: float = key(
        "limits.kill_grace", SECONDS, 5, "between SIGTERM and SIGKILL", "s"
    )
    max_arguments: int = key(
        "limits.arguments", SIZE, "1 MiB", "the arguments of a call", "bytes"
    )
    max_value: int = key(
        "limits.value", SIZE, "16 MiB", "a streamed value or a result", "bytes"
    )


@dataclasses.dataclass(frozen=True)
class DispatcherConfig:
    """harpcaller.toml"""

    listen: tuple[Listener, ...] = key(
        "listen",
        LISTENERS,
        ["unix:/run/harpcaller/client"],
        'where clients come in: "unix:PATH", or a table with address and mode, group '
        "(of a Unix socket), tls, allow_from, anonymous (of TCP)",
    )
    certificate: str = key(
        "tls.certificate",
        STRING,
        "/etc/harpcaller/cert.pem",
        "certificate chain shown where tls = true, PEM",
    )
    private_key: str = key(
        "tls.key", STRING, "/etc/harpcaller/key.pem", "its private key, PEM"
    )
    users: Mapping[str, str] = key(
        "users",
        STRING_TABLE,
        {},
        'who may connect by TCP: name = "plain:PASSWORD", "sha256:HEX" or "scrypt:…"',
    )
    password_file: str | None = key(
        "password_file",
        STRING,
        None,
        "more users, a line each: NAME:sha256:HEX or NAME:scrypt:…",
    )
    auth_remember: float = key(
        "auth.remember",
        SECONDS,
        600,
        "how long a password that was verified is not hashed again",
        "s",
    )
    failure_delay: float = key(
        "auth.failure_delay",
        SECONDS,
        0.1,
        "before the reply to a failure; doubled with each further one of the same "
        "address or user",
        "s",
    )
    max_failure_delay: float = key(
        "auth.max_failure_delay", SECONDS, 5, "the longest such delay", "s"
    )
    authorization: Mapping[str, Rights] | None = key(
        "authorization",
        RIGHTS,
        None,
        'what each client may do: [authorization.NAME] with operations = ["call", '
        '"cancel", "read", "list"], patterns in hosts, procedures, queues, and '
        "own_jobs; without this table everybody may do everything, with it nobody "
        "who isn't in it may do anything",
    )
    audit_file: str | None = key(
        "audit.file",
        STRING,
        None,
        "a line for each call and cancel; by default none is written",
    )
    audit_arguments: bool = key(
        "audit.arguments", BOOLEAN, False, "write the arguments of calls there, too"
    )
    secret_arguments: tuple[str, ...] = key(
        "secret_arguments",
        STRINGS,
        [],
        "names of arguments that listings, statuses and the audit file mask",
    )
    admin_socket: str = key(
        "admin_socket",
        STRING,
        "/run/harpcaller/control",
        "Unix socket for administration, for the dispatcher's own user and root",
    )
    admin_group: str | int | None = key(
        "admin_group",
        USER,
        None,
        "group whose members may use that socket, too",
    )
    user: str | int | None = key(
        "user",
        USER,
        None,
        "user that the dispatcher runs as if root starts it; by default root",
    )
    group: str | int | None = key(
        "group", USER, None, "its group; by default the groups of that user"
    )
    logging: str | None = key(
        "logging",
        STRING,
        None,
        'where the log goes: "stderr", "syslog", a file, or a file with a name in .toml '
        "or .json for logging.config.dictConfig; by default standard error, in the "
        "background the system's log",
    )
    on_sigterm: Stop = key(
        "on_sigterm",
        STOP,
        "stop",
        'what SIGTERM does: "stop" cuts off the jobs that run, "drain" lets them end, '
        '"drain 300" for so many seconds',
    )
    stream_directory: str = key(
        "stream_directory",
        STRING,
        "/var/lib/harpcaller",
        "the job log: a file for each job",
    )
    max_age: float | None = key(
        "max_age",
        AGE,
        "30d",
        'how long jobs that have ended are kept, a day at least; "never": removed by '
        "hand only",
        "s",
    )
    sync_packets: bool = key(
        "sync_packets",
        BOOLEAN,
        False,
        "sync streamed values to disk before anybody sees them",
    )
    default_timeout: int = key(
        "default_timeout",
        WHOLE_SECONDS,
        600,
        "longest gap between two messages of a job that doesn't say",
        "s",
    )
    max_exec_time: int = key(
        "max_exec_time",
        WHOLE_SECONDS,
        86400,
        "the longest run that a call may ask for",
        "s",
    )
    default_max_exec_time: int | None = key(
        "default_max_exec_time",
        WHOLE_SECONDS,
        None,
        "longest run of a job that doesn't say; by default max_exec_time",
        "s",
    )
    hosts_script: str | None = key(
        "hosts.script", STRING, None, "program that prints the hosts, a line each"
    )
    hosts_file: str | None = key(
        "hosts.file", STRING, None, "file with such lines, in place of a script"
    )
    hosts_refresh: float = key(
        "hosts.refresh", SECONDS, 900, "between two runs of the script", "s"
    )
    hosts_timeout: float = key(
        "hosts.timeout", SECONDS, 60, "for a run of the script", "s"
    )
    hosts_cache: str | None = key(
        "hosts.cache",
        STRING,
        None,
        "copy of the last good list, for a start whose script fails",
    )
    known_certs_file: str | None = key(
        "trust.known_certs_file",
        STRING,
        None,
        "lines HOSTNAME FINGERPRINT: certificates trusted by their SHA-256",
    )
    ca_file: str | None = key(
        "trust.ca_file",
        STRING,
        None,
        "authorities whose certificates are trusted if they are for the host's name",
    )
    verify: str = key(
        "trust.verify",
        choice("required", "none"),
        "required",
        "none: speak to hosts whose certificate nothing vouches for",
    )
    expiry_warning: float = key(
        "trust.expiry_warning",
        DURATION,
        "30d",
        "before the end of a host's certificate, from when on the log warns once a day",
        "s",
    )
    max_running: int = key(
        "limits.running", COUNT, 1000, "jobs that run at a time; further ones wait"
    )
    max_connections: int = key(
        "limits.connections", COUNT, 2000, "client connections at a time"
    )
    max_unauthenticated: int = key(
        "limits.unauthenticated",
        COUNT,
        200,
        "of them, for each TCP listener, those that have not authenticated yet; at the "
        "limit those that have been there for a second give way",
    )
    handshake_timeout: float = key(
        "limits.handshake_timeout",
        SECONDS,
        10,
        "for a client's TLS handshake as a whole",
        "s",
    )
    connect_timeout: float = key(
        "limits.connect_timeout",
        SECONDS,
        10,
        "to resolve a host's name, connect and do the TLS handshake",
        "s",
    )
    cancel_grace: float = key(
        "limits.cancel_grace",
        SECONDS,
        10,
        "for a daemon to end a call that is cancelled; above its kill_grace",
        "s",
    )
    request_timeout: float = key(
        "limits.request_timeout",
        SECONDS,
        10,
        "for a client's first request as a whole",
        "s",
    )
    idle_timeout: float = key(
        "limits.idle_timeout",
        SECONDS,
        300,
        "for a further request on a connection that is kept",
        "s",
    )
    send_timeout: float = key(
        "limits.send_timeout",
        SECONDS,
        60,
        "a client that takes nothing for so long is dropped",
        "s",
    )
    max_arguments: int = key(
        "limits.arguments", SIZE, "1 MiB", "arguments, and info, of a call", "bytes"
    )
    max_value: int = key(
        "limits.value", SIZE, "16 MiB", "a streamed value or a result", "bytes"
    )
    max_job_size: int = key(
        "limits.job_size", SIZE, "1 GiB", "the file of a job", "bytes"
    )
    reserve: int = key(
        "limits.reserve",
        SIZE,
        "64 MiB",
        "with less room than that on the disk, new calls are refused",
        "bytes",
    )


# --- loading ------------------------------------------------------------------------

Table = TypeVar("Table", DaemonConfig, DispatcherConfig)


def keys(table: type) -> dict[str, tuple[str, Key]]:
    """Return the rows of a table: by the key's name, its field and the row."""
    return {
        field.metadata["key"].name: (field.name, field.metadata["key"])
        for field in dataclasses.fields(table)
    }


def load(path: str, table: type[Table]) -> Table:
    """Read a configuration file.

    :raises ConfigError: if it can't be read, isn't TOML, or has a key that is unknown
        or holds what it can't
    """
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    except ValueError as error:  # not UTF-8 and numbers that are too long, too
        raise ConfigError([f"{path}: not TOML: {error}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: not TOML: nested too deep"]) from None
    return check(content, table, path)


def check(content: Mapping[str, Any], table: type[Table], path: str) -> Table:
    """Check what a configuration file holds. Errors as for :func:`load`."""
    rows = keys(table)
    faults = []
    values = {}
    for name, value in _flatten(content, rows):
        if name not in rows:
            faults.append(f"{path}: {name}: {_unknown(name, rows)}")
            continue
        field, row = rows[name]
        try:
            values[field] = row.kind.parse(value)
        except ValueError as error:
            fault = str(error) or f"must be {row.kind.text}"
            faults.append(f"{path}: {name}: {fault}")
    if faults:
        raise ConfigError(faults)
    return table(**values)


def _flatten(content: Mapping[str, Any], rows, prefix: str = ""):
    """Yield dotted names and values. Only a table that is a section is taken apart."""
    for name, value in content.items():
        name = prefix + name
        if isinstance(value, dict) and _is_section(name, rows):
            yield from _flatten(value, rows, name + ".")
        else:
            yield name, value


def _is_section(name: str, rows) -> bool:
    return any(row.startswith(name + ".") for row in rows)


def _unknown(name: str, rows) -> str:
    if _is_section(name, rows):
        return f"must be a section, [{name}]"
    close = difflib.get_close_matches(name, rows, 1)
    return "unknown key" + (f"; do you mean {close[0]}?" if close else "")
