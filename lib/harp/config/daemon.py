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
    password_file: str | None = row(shared.PASSWORD_FILE)
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
    auth_remember: float = row(shared.AUTH_REMEMBER)
    failure_delay: float = row(shared.FAILURE_DELAY)
    max_failure_delay: float = row(shared.MAX_FAILURE_DELAY)
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
    logging: str | None = row(shared.LOGGING)
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
    max_value: int = row(shared.MAX_VALUE)
