"""What the dispatcher can be configured to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..kinds import (
    AGE,
    BOOLEAN,
    COUNT,
    DURATION,
    SECONDS,
    SIZE,
    STOP,
    STRING,
    STRINGS,
    STRING_TABLE,
    USER,
    WHOLE_SECONDS,
    choice,
)
from ..listener import LISTENERS, Listener
from ..protocol.admin import Stop
from ..rights import RIGHTS, Rights
from . import shared
from .table import key, row


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
    password_file: str | None = row(shared.PASSWORD_FILE)
    auth_remember: float = row(shared.AUTH_REMEMBER)
    failure_delay: float = row(shared.FAILURE_DELAY)
    max_failure_delay: float = row(shared.MAX_FAILURE_DELAY)
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
    logging: str | None = row(shared.LOGGING)
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
    max_value: int = row(shared.MAX_VALUE)
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
