"""Configuration files: TOML, checked against the tables below.

A table is a frozen dataclass with a :func:`key` for each field; the manual's tables
are made from it. Loading reports every fault of a file at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from . import protocol
from .address import Address, parse_address


class ConfigError(Exception):
    """Raised when a configuration can't be used.

    :ivar faults: one line for each fault, with file and key
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Kind(NamedTuple):
    """What a value can be.

    :ivar text: what the value must be, for people
    :ivar parse: TOML's value to ours; raises ValueError with what is wrong
    """

    text: str
    parse: Callable[[Any], Any]


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


# --- kinds of values ----------------------------------------------------------------


def _typed(type_: type | tuple, text: str) -> Kind:
    def parse(value):
        if not isinstance(value, type_):
            raise ValueError
        return value

    return Kind(text, parse)


STRING = _typed(str, "a string")
BOOLEAN = _typed(bool, "true or false")


def _parse_seconds(value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    if not 0 < value <= protocol.MAX_SECONDS:
        raise ValueError(f"out of range (0 to {protocol.MAX_SECONDS}): {value}")
    return value


def _parse_count(value) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    if value < 1:
        raise ValueError(f"must be at least 1, is {value}")
    return value


def _parse_whole_seconds(value) -> int:
    return _parse_count(_parse_seconds(value))


_SIZE = re.compile(r"([0-9]+) ?(KiB|MiB|GiB)")
_SIZE_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _parse_size(value) -> int:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError
        value = int(match[1]) * _SIZE_UNITS[match[2]]
    return _parse_count(value)


def _parse_user(value):
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError
    if isinstance(value, int) and value < 0:
        raise ValueError(f"must not be negative, is {value}")
    return value


def _parse_strings(value) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError
    return tuple(value)


def _parse_string_table(value) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise ValueError
    for name, item in value.items():
        if not isinstance(item, str):
            raise ValueError(f"{name}: must be a string")
    return dict(value)


def _parse_tcp_addresses(value) -> tuple[Address, ...]:
    addresses = tuple(parse_address(text) for text in _parse_strings(value))
    for address in addresses:
        if address.path is not None:
            raise ValueError(f"must be TCP: {address}")
    if not addresses:
        raise ValueError("must not be empty")
    return addresses


def _parse_listeners(value) -> tuple[Address, ...]:
    if not isinstance(value, list):
        raise ValueError
    if not value:
        raise ValueError("must not be empty")
    return tuple(_parse_listener(entry) for entry in value)


def _parse_listener(entry) -> Address:
    if isinstance(entry, str):
        entry = {"address": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("address"), str):
        raise ValueError
    unknown = entry.keys() - {"address", "anonymous"}
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r} beside {entry['address']!r}")
    anonymous = entry.get("anonymous", False)
    if not isinstance(anonymous, bool):
        raise ValueError(f"anonymous must be true or false at {entry['address']!r}")
    address = parse_address(entry["address"])._replace(anonymous=anonymous)
    if address.path is None and not anonymous:
        raise ValueError(
            f"{address}: a TCP listener lets in whoever can connect; say so with "
            f'{{address = "{address}", anonymous = true}}, or use unix:PATH'
        )
    return address


def _choice(*choices: str) -> Kind:
    def parse(value):
        if value not in choices:
            raise ValueError
        return value

    return Kind("one of " + ", ".join(f'"{choice}"' for choice in choices), parse)


SECONDS = Kind("a number above 0", _parse_seconds)
WHOLE_SECONDS = Kind("a positive integer", _parse_whole_seconds)
COUNT = Kind("a positive integer", _parse_count)
SIZE = Kind('a positive integer or a string like "16 MiB"', _parse_size)
USER = Kind("a name or a number", _parse_user)
STRINGS = Kind("an array of strings", _parse_strings)
STRING_TABLE = Kind("a table of strings", _parse_string_table)
TCP_ADDRESSES = Kind('an array of "ADDRESS:PORT"', _parse_tcp_addresses)
LISTENERS = Kind(
    'an array of "unix:PATH" or {address = "ADDRESS:PORT", anonymous = true}',
    _parse_listeners,
)


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
    default_timeout: float | None = key(
        "procedures.timeout",
        SECONDS,
        None,
        "how long a call may take whose procedure doesn't say; by default for ever",
        "s",
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

    listen: tuple[Address, ...] = key(
        "listen",
        LISTENERS,
        ["unix:/run/harpcaller/client"],
        "where clients come in; a TCP listener must say that it is anonymous",
    )
    admin_socket: str = key(
        "admin_socket",
        STRING,
        "/run/harpcaller/control",
        "Unix socket for administration, for the dispatcher's own user",
    )
    stream_directory: str = key(
        "stream_directory",
        STRING,
        "/var/lib/harpcaller",
        "the job log: a file for each job",
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
        _choice("required", "none"),
        "required",
        "none: speak to hosts whose certificate nothing vouches for",
    )
    max_running: int = key(
        "limits.running", COUNT, 1000, "jobs that run at a time; further ones wait"
    )
    max_connections: int = key(
        "limits.connections", COUNT, 2000, "client connections at a time"
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
