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
)
AUTH_REMEMBER = Key(
    "auth.remember",
    SECONDS,
    600,
    "s",
    "how long a password that was verified is not hashed again",
)
FAILURE_DELAY = Key(
    "auth.failure_delay",
    SECONDS,
    0.1,
    "s",
    "before the reply to a failure; doubled with each further one of the same "
    "address or user",
)
MAX_FAILURE_DELAY = Key(
    "auth.max_failure_delay", SECONDS, 5, "s", "the longest such delay"
)
LOGGING = Key(
    "logging",
    STRING,
    None,
    "",
    'where the log goes: "stderr", "syslog", a file, or a file with a name in '
    ".toml or .json for logging.config.dictConfig; by default standard error, in "
    "the background the system's log",
)
MAX_VALUE = Key(
    "limits.value", SIZE, "16 MiB", "bytes", "a streamed value or a result"
)
