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
        reason="the socket is open to those whom its mode and group let in; TCP must "
        "say who may come. A reload changes who may, a start the addresses",
        example=[{"address": "*:3502", "tls": True, "allow_from": ["10.8.0.0/16"]}],
    )
    certificate: str = key(
        "tls.certificate",
        STRING,
        "/etc/harpcaller/cert.pem",
        "certificate chain shown where tls = true, PEM",
        reason="clients know the dispatcher by it",
    )
    private_key: str = key(
        "tls.key",
        STRING,
        "/etc/harpcaller/key.pem",
        "its private key, PEM",
        reason="readable by the dispatcher's user only",
    )
    users: Mapping[str, str] = key(
        "users",
        STRING_TABLE,
        {},
        'who may connect by TCP: name = "plain:PASSWORD", "sha256:HEX" or "scrypt:…"',
        reason="for a few users that stay the same; others belong in a password file, "
        "where a change needs no reload",
        example={"panel": "scrypt:…"},
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
        reason="a web application that is taken over can do no more than this",
        example={"panel": {"operations": ["call", "read"], "hosts": ["web*"]}},
    )
    audit_file: str | None = key(
        "audit.file",
        STRING,
        None,
        "a line for each call and cancel; by default none is written",
        reason="who ran what, apart from the log and kept as long as you need it",
        example="/var/log/harpcaller/audit",
    )
    audit_arguments: bool = key(
        "audit.arguments",
        BOOLEAN,
        False,
        "write the arguments of calls there, too",
        reason="arguments are often nobody's business who reads such files",
    )
    secret_arguments: tuple[str, ...] = key(
        "secret_arguments",
        STRINGS,
        [],
        "names of arguments that listings, statuses and the audit file mask",
        reason="for callers that don't name their secrets themselves",
        example=["password", "token"],
    )
    admin_socket: str = key(
        "admin_socket",
        STRING,
        "/run/harpcaller/control",
        "Unix socket for administration, for the dispatcher's own user and root",
        reason="harpcallerd's actions go there, so that clients can't do such things",
        at_start=True,
    )
    admin_group: str | int | None = key(
        "admin_group",
        USER,
        None,
        "group whose members may use that socket, too",
        reason="so that operators needn't be root; they may do everything there",
        example="operators",
        at_start=True,
    )
    user: str | int | None = key(
        "user",
        USER,
        None,
        "user that the dispatcher runs as if root starts it; by default root",
        reason="it needs none of root's rights",
        example="harpcaller",
        at_start=True,
    )
    group: str | int | None = key(
        "group",
        USER,
        None,
        "its group; by default the groups of that user",
        reason="for less than all that the user's groups may do",
        example="harpcaller",
        at_start=True,
    )
    logging: str | None = row(shared.LOGGING)
    on_sigterm: Stop = key(
        "on_sigterm",
        STOP,
        "stop",
        'what SIGTERM does: "stop" cuts off the jobs that run, "drain" lets them end, '
        '"drain 300" for so many seconds',
        reason="queued jobs survive a restart in any case; draining is for running "
        "ones that must not be cut off",
    )
    stream_directory: str = key(
        "stream_directory",
        STRING,
        "/var/lib/harpcaller",
        "the job log: a file for each job",
        reason="on a disk of its own, what fills it stops nothing else",
        at_start=True,
    )
    max_age: float | None = key(
        "max_age",
        AGE,
        "30d",
        'how long jobs that have ended are kept, a day at least; "never": removed by '
        "hand only",
        "s",
        reason="a disk that is full takes no calls",
    )
    sync_packets: bool = key(
        "sync_packets",
        BOOLEAN,
        False,
        "sync streamed values to disk before anybody sees them",
        reason="otherwise a power cut can lose packets that followers have seen; each "
        "sync waits for the disk",
    )
    default_timeout: int = key(
        "default_timeout",
        WHOLE_SECONDS,
        600,
        "longest gap between two messages of a job that doesn't say",
        "s",
        reason="a host that has died without a word is noticed",
    )
    max_exec_time: int = key(
        "max_exec_time",
        WHOLE_SECONDS,
        86400,
        "the longest run that a call may ask for",
        "s",
        reason="no caller can hold a place for ever",
    )
    default_max_exec_time: int | None = key(
        "default_max_exec_time",
        WHOLE_SECONDS,
        None,
        "longest run of a job that doesn't say; by default max_exec_time",
        "s",
        reason="for callers that don't think of it, if some may ask for much more",
        example=3600,
    )
    hosts_script: str | None = key(
        "hosts.script",
        STRING,
        None,
        "program that prints the hosts, a line each",
        reason="for whoever has an inventory; it must end with status 0",
        example="/etc/harpcaller/hosts",
    )
    hosts_file: str | None = key(
        "hosts.file",
        STRING,
        None,
        "file with such lines, in place of a script",
        reason="for people and harpcallerd hosts-add; a change is noticed by itself",
        example="/etc/harpcaller/hosts.jsonl",
    )
    hosts_refresh: float = key(
        "hosts.refresh",
        SECONDS,
        900,
        "between two runs of the script",
        "s",
        reason="a new host can wait; harpcallerd hosts-refresh doesn't",
    )
    hosts_timeout: float = key(
        "hosts.timeout",
        SECONDS,
        60,
        "for a run of the script",
        "s",
        reason="a script that hangs must not keep the list old unnoticed",
    )
    hosts_cache: str | None = key(
        "hosts.cache",
        STRING,
        None,
        "copy of the last good list, for a start whose script fails",
        reason="without it a dispatcher that starts while the inventory is down knows "
        "no host",
        example="/var/lib/harpcaller/hosts.cache",
    )
    known_certs_file: str | None = key(
        "trust.known_certs_file",
        STRING,
        None,
        "lines HOSTNAME FINGERPRINT: certificates trusted by their SHA-256",
        reason="for hosts whose line has no cert_sha256; harpcallerd trust writes it",
        example="/etc/harpcaller/known_certs",
    )
    ca_file: str | None = key(
        "trust.ca_file",
        STRING,
        None,
        "authorities whose certificates are trusted if they are for the host's name",
        reason="for hosts whose certificates come from an authority of yours",
        example="/etc/harpcaller/ca.pem",
    )
    verify: str = key(
        "trust.verify",
        choice("required", "none"),
        "required",
        "none: speak to hosts whose certificate nothing vouches for",
        reason="credentials go to whoever answers then: for trials only",
    )
    expiry_warning: float = key(
        "trust.expiry_warning",
        DURATION,
        "30d",
        "before the end of a host's certificate, from when on the log warns once a day",
        "s",
        reason="time to renew it before calls fail",
    )
    max_running: int = key(
        "limits.running",
        COUNT,
        1000,
        "jobs that run at a time; further ones wait",
        reason="each takes a thread, a connection and an open file",
    )
    max_connections: int = key(
        "limits.connections",
        COUNT,
        2000,
        "client connections at a time",
        reason="each takes a thread",
    )
    max_unauthenticated: int = key(
        "limits.unauthenticated",
        COUNT,
        200,
        "of them, for each TCP listener, those that have not authenticated yet; at the "
        "limit those that have been there for a second give way",
        reason="whoever only connects can't keep others out",
    )
    handshake_timeout: float = key(
        "limits.handshake_timeout",
        SECONDS,
        10,
        "for a client's TLS handshake as a whole",
        "s",
        reason="a client that stalls must not hold its place",
    )
    connect_timeout: float = key(
        "limits.connect_timeout",
        SECONDS,
        10,
        "to resolve a host's name, connect and do the TLS handshake",
        "s",
        reason="a host that is down must not hold its queue's place for long",
    )
    cancel_grace: float = key(
        "limits.cancel_grace",
        SECONDS,
        10,
        "for a daemon to end a call that is cancelled; above its kill_grace",
        "s",
        reason="a place of a queue is free only when its processes are gone",
    )
    request_timeout: float = key(
        "limits.request_timeout",
        SECONDS,
        10,
        "for a client's first request as a whole",
        "s",
        reason="as for the handshake",
    )
    idle_timeout: float = key(
        "limits.idle_timeout",
        SECONDS,
        300,
        "for a further request on a connection that is kept",
        "s",
        reason="longer than clients keep connections, which is a minute",
    )
    send_timeout: float = key(
        "limits.send_timeout",
        SECONDS,
        60,
        "a client that takes nothing for so long is dropped",
        "s",
        reason="a client whose machine has died must not hold its place",
    )
    max_arguments: int = key(
        "limits.arguments",
        SIZE,
        "1 MiB",
        "arguments, and info, of a call",
        "bytes",
        reason="each is held in memory, and stored with the job",
    )
    max_value: int = row(shared.MAX_VALUE)
    max_job_size: int = key(
        "limits.job_size",
        SIZE,
        "1 GiB",
        "the file of a job",
        "bytes",
        reason="one procedure that streams for ever must not fill the disk",
    )
    reserve: int = key(
        "limits.reserve",
        SIZE,
        "64 MiB",
        "with less room than that on the disk, new calls are refused",
        "bytes",
        reason="running jobs need room to record their ends",
    )
