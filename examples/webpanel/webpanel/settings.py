"""The settings file, TOML; ``panel.toml`` beside the application has all its keys."""

from __future__ import annotations

import math
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

VARIABLE = "WEBPANEL_SETTINGS"
DEFAULT = "/etc/harpcaller/webpanel.toml"

_SECRET_BYTES = 32


class SettingsError(Exception):
    """Raised when the settings can't be used: a line for each fault, naming file and
    key."""


@dataclass(frozen=True)
class Settings:
    """What can be set. Paths are relative to the settings file's directory.

    :ivar dispatcher: address, as :class:`harp.HarpCaller` takes it; None: where that
        looks by itself
    :ivar users_file: who may log in: lines that ``harpcallerd passwd`` writes
    :ivar secret_file: signs the sessions; the same for all processes of this panel
    :ivar title: of all pages
    :ivar session_hours: after which one has to log in again
    :ivar login_delay: seconds that a failed login takes, doubled with each further one
    :ivar secure_cookies: send cookies over HTTPS only; None: if the request came so
    :ivar events: streams are sent as server-sent events; each holds a thread of the
        server's
    :ivar max_events: so many at a time in each process; others poll
    """

    users_file: str
    secret_file: str
    dispatcher: str | None = None
    title: str = "HarpCaller"
    session_hours: float = 12
    login_delay: float = 1
    secure_cookies: bool | None = None
    events: bool = False
    max_events: int = 8

    def secret(self) -> bytes:
        """Return what signs the sessions.

        :raises SettingsError: if there is none
        """
        path = Path(self.secret_file)
        try:
            secret = path.read_bytes().strip()
            is_open = bool(path.stat().st_mode & 0o007)
        except OSError as error:
            raise SettingsError(f"secret_file: {_reason(error)}") from None
        if is_open:
            raise SettingsError(
                f"secret_file: everybody may read {path}: chmod 640 {path}"
            )
        if len(secret) < _SECRET_BYTES:
            raise SettingsError(
                f"secret_file: {path} holds less than {_SECRET_BYTES} bytes: "
                f"openssl rand -hex {_SECRET_BYTES} > {path}"
            )
        return secret


_TYPES = {
    "str": (str, "a string"),
    "str | None": (str, "a string"),
    "float": ((int, float), "a number above 0"),
    "int": (int, "a positive integer"),
    "bool": (bool, "true or false"),
    "bool | None": (bool, "true or false"),
}
_PATHS = ("users_file", "secret_file")


def find() -> Settings:
    """Return the settings of the file that the environment names, or the default one.

    :raises SettingsError: if it can't be used
    """
    return load(os.environ.get(VARIABLE) or DEFAULT)


def load(path: str | os.PathLike) -> Settings:
    """Return the settings that a file holds.

    :raises SettingsError: if it can't be used
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"{_reason(error)} ({VARIABLE} names another)") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    known = {field.name: field for field in fields(Settings)}
    faults = [f"{path}: {name}: unknown key" for name in table.keys() - known.keys()]
    for name, field in known.items():
        if name in table:
            faults += _fault(f"{path}: {name}", field.type, table[name])
        elif name in _PATHS:
            faults.append(f"{path}: {name}: is missing")
    if faults:
        raise SettingsError("\n".join(sorted(faults)))
    directory = Path(path).absolute().parent
    return Settings(**table | {name: str(directory / table[name]) for name in _PATHS})


def _fault(where: str, type_name: str, value: object) -> list[str]:
    kind, text = _TYPES[type_name]
    is_right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if is_right and kind not in (str, bool):
        is_right = 0 < value < math.inf
    return [] if is_right else [f"{where}: must be {text}"]


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}"
