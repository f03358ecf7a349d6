"""What harpd can be configured to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..address import Address
from ..kinds import (
    BOOLEAN,
    COUNT,
    NETWORKS,
    SECONDS,
    SIZE,
    STRING,
    STRINGS,
    STRING_LISTS,
    STRING_TABLE,
    TCP_ADDRESSES,
    USER,
)
from . import shared
from .table import key, row


@dataclasses.dataclass(frozen=True)
class DaemonConfig:
    """harpd.toml"""

    listen: tuple[Address, ...] = key(
        "listen",
        TCP_ADDRESSES,
        ["*:4306"],
        "addresses to listen on; * is all",
        reason="on a host with several networks, only the dispatcher's needs it",
        example=["10.8.14.2:4306", "[fd00::2]:4306"],
        at_start=True,
    )
    certificate: str = key(
        "tls.certificate",
        STRING,
        "/etc/harpd/cert.pem",
        "certificate chain that the daemon shows, PEM",
        reason="the dispatcher knows this host by it",
    )
    private_key: str = key(
        "tls.key",
        STRING,
        "/etc/harpd/key.pem",
        "its private key, PEM",
        reason="readable by root and the front's user only",
    )
    users: Mapping[str, str] = key(
        "users",
        STRING_TABLE,
        {},
        'who may call: name = "plain:PASSWORD", "sha256:HEX" or "scrypt:…"',
        reason="for a few users that stay the same; others belong in a password file, "
        "where a change needs no reload",
        example={"dispatcher": "scrypt:…"},
    )
    password_file: str | None = row(shared.PASSWORD_FILE)
    allow_from: tuple | None = key(
        "allow_from",
        NETWORKS,
        None,
        "networks that connections may come from; by default all",
        reason="usually the dispatcher's address is enough",
        example=["10.8.0.1/32"],
    )
    auth_backends: tuple[str, ...] = key(
        "auth.backends",
        STRINGS,
        [],
        "further modules that know users; importable, with create(config)",
        reason="for users that another system knows",
        example=["company_users"],
    )
    auth_remember: float = row(shared.AUTH_REMEMBER)
    failure_delay: float = row(shared.FAILURE_DELAY)
    max_failure_delay: float = row(shared.MAX_FAILURE_DELAY)
    authorization: Mapping[str, tuple[str, ...]] | None = key(
        "authorization",
        STRING_LISTS,
        None,
        'what each user may call: name = ["PATTERN", …], * and ? as for files; without '
        "this table everybody may call everything, with it nobody what isn't listed",
        reason="a caller that is taken over can do no more than this",
        example={"panel": ["disk_*", "uptime"]},
    )
    procedures_file: str = key(
        "procedures.file",
        STRING,
        "/etc/harpd/procedures.py",
        "the procedures: Python",
        reason="what isn't in it can't be called",
    )
    procedures_user: str | int | None = key(
        "procedures.user",
        USER,
        None,
        "user that calls run as whose procedure doesn't say; must be set for root",
        reason="nothing runs as root because nobody said otherwise",
        example="nobody",
    )
    procedures_group: str | int | None = key(
        "procedures.group",
        USER,
        None,
        "group of those calls; by default the groups of that user",
        reason="for less than all that the user's groups may do",
        example="www-data",
    )
    python_path: tuple[str, ...] = key(
        "procedures.python_path",
        STRINGS,
        [],
        "directories that modules are looked for in first; of the procedures, of "
        "authentication and of logging",
        reason="so that procedures can share modules of their own",
        example=["/usr/local/lib/procedures"],
    )
    default_timeout: float | None = key(
        "procedures.timeout",
        SECONDS,
        None,
        "how long a call may take whose procedure doesn't say; by default for ever",
        "s",
        reason="a procedure that hangs holds its process until somebody cancels it",
        example=3600,
    )
    environment: Mapping[str, str] = key(
        "environment",
        STRING_TABLE,
        {},
        'variables that calls have in their environment: NAME = "VALUE"',
        reason="calls inherit nothing of harpd's own environment",
        example={"LANG": "C.UTF-8"},
    )
    front_user: str | int | None = key(
        "front.user",
        USER,
        None,
        "user that the part runs as which speaks with callers, if harpd is started by "
        "root; by default root",
        reason="what reads from the network needs none of root's rights",
        example="harpd",
        at_start=True,
    )
    front_group: str | int | None = key(
        "front.group",
        USER,
        None,
        "its group; by default the groups of that user",
        reason="the one that may read key and password file, and no other",
        example="harpd",
        at_start=True,
    )
    logging: str | None = row(shared.LOGGING)
    traceback: bool = key(
        "procedures.traceback",
        BOOLEAN,
        False,
        "send the traceback of an exception to the caller",
        reason="it helps while one writes procedures, and shows paths and source lines"
        " to every caller",
    )
    standby: int = key(
        "limits.standby",
        COUNT,
        8,
        "processes that wait for a call; each takes some 10 MB, mostly shared",
        reason="a call needn't wait for a process to be made; as many as calls come at"
        " once",
    )
    max_calls: int = key(
        "limits.calls",
        COUNT,
        1000,
        "calls at a time; a further one is refused",
        reason="one caller must not use up the machine's processes and memory",
    )
    max_unauthenticated: int = key(
        "limits.unauthenticated",
        COUNT,
        200,
        "connections that have not authenticated yet; at the limit those that have "
        "been there for a second give way",
        reason="whoever only connects can't keep others out",
    )
    handshake_timeout: float = key(
        "limits.handshake_timeout",
        SECONDS,
        10,
        "for the TLS handshake as a whole",
        "s",
        reason="a peer that stalls must not hold its place",
    )
    request_timeout: float = key(
        "limits.request_timeout",
        SECONDS,
        10,
        "for the request as a whole",
        "s",
        reason="as for the handshake",
    )
    send_timeout: float = key(
        "limits.send_timeout",
        SECONDS,
        60,
        "a caller that takes nothing for so long is gone, and its call cancelled",
        "s",
        reason="a caller whose machine has died must not keep a procedure going",
    )
    kill_grace: float = key(
        "limits.kill_grace",
        SECONDS,
        5,
        "between SIGTERM and SIGKILL",
        "s",
        reason="time for a procedure to tidy up",
    )
    max_arguments: int = key(
        "limits.arguments",
        SIZE,
        "1 MiB",
        "the arguments of a call",
        "bytes",
        reason="each request is held in memory",
    )
    max_value: int = row(shared.MAX_VALUE)
