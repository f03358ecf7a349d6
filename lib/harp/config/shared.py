"""Rows that the tables of both daemons hold, the same in each."""

from __future__ import annotations

from ..kinds import SECONDS, SIZE, STRING
from .table import Key

PASSWORD_FILE = Key(
    "password_file",
    STRING,
    None,
    "",
    "more users, a line each: NAME:sha256:HEX or NAME:scrypt:…",
    reason="a change needs no reload, and the configuration holds no secrets",
    example="passwords",
)
AUTH_REMEMBER = Key(
    "auth.remember",
    SECONDS,
    600,
    "s",
    "how long a password that was verified is not hashed again",
    reason="scrypt is slow on purpose, and would be for each request",
)
FAILURE_DELAY = Key(
    "auth.failure_delay",
    SECONDS,
    0.1,
    "s",
    "before the reply to a failure; doubled with each further one of the same "
    "address or user",
    reason="passwords can't be guessed quickly",
)
MAX_FAILURE_DELAY = Key(
    "auth.max_failure_delay",
    SECONDS,
    5,
    "s",
    "the longest such delay",
    reason="an honest caller that was mistaken isn't kept out for long",
)
LOGGING = Key(
    "logging",
    STRING,
    None,
    "",
    'where the log goes: "stderr", "syslog", a file, or a file with a name in '
    ".toml or .json for logging.config.dictConfig; by default standard error, in "
    "the background the system's log",
    reason="standard error is right for a service manager that keeps it",
    example="syslog",
)
MAX_VALUE = Key(
    "limits.value",
    SIZE,
    "16 MiB",
    "bytes",
    "a streamed value or a result",
    reason="each value is held in memory; what is larger belongs in a file",
)
