"""How to reach the dispatcher: by arguments, the environment, a file, or where it is
unless configured otherwise; the first of these that says it counts."""

from __future__ import annotations

import os
import re

from .address import Address, parse_address
from .channel import CONNECT_TIMEOUT
from .errors import ConfigurationError
from .protocol import MAX_SECONDS

# For type checkers only, which know the name: it costs what ``import harp`` must not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tls import Trust

URL_VARIABLE = "HARPCALLER_URL"
CLIENT_FILE = "/etc/harpcaller/client.toml"
DEFAULT_URL = "unix:/run/harpcaller/client"

# Compiled when they are needed: that takes a good part of what ``import harp`` may.
_URL = r"(?P<scheme>harps?)://(?:(?P<user>[^@/]*)@)?(?P<place>[^@/]+)/?"
_LOOPBACK = r"localhost|127\.[0-9.]+|::1"

# Keys of the file beside the texts, and their defaults, all of them seconds.
TIMEOUTS = {
    "connect_timeout": CONNECT_TIMEOUT,
    "reply_timeout": 60,
    "retry_for": 2,
    "resume_for": 30,
}
_TEXTS = ("url", "user", "password_file", "ca_file", "cert_sha256")


class Settings:
    """How to reach the dispatcher.

    :ivar address: :class:`harp.address.Address`
    :ivar trust: for TLS; None: there is none
    :ivar user: to say in the first request of a connection; None: say nothing
    :ivar password: that user's
    :ivar timeouts: the keys of :data:`TIMEOUTS`, seconds each
    """

    __slots__ = ("address", "trust", "user", "password", "timeouts")

    def __init__(
        self,
        address: Address,
        trust: Trust | None,
        user: str | None,
        password: str | None,
        timeouts: dict,
    ) -> None:
        self.address = address
        self.trust = trust
        self.user = user
        self.password = password
        self.timeouts = timeouts

    def __str__(self) -> str:
        # Never the password: this is for people.
        if self.address.path is not None or (self.trust is None and self.user is None):
            return str(self.address)
        scheme = "harp" if self.trust is None else "harps"
        user = "" if self.user is None else f"{self.user}@"
        return f"{scheme}://{user}{self.address}"


def find(host: str | None, port: int, options: dict) -> Settings:
    """Return how to reach the dispatcher.

    :param host: as :class:`harp.HarpCaller` takes it; None: see this module's top
    :param port: TCP port, if nothing else names one
    :param options: ``user``, ``password`` and the keys of the file but ``url``; None:
        not given
    :raises ValueError: if what is given makes no sense
    :raises ConfigurationError: if the environment or a file is at fault
    """
    given = {key: value for key, value in options.items() if value is not None}
    if host is not None:
        return _make(host, port, given)
    if url := os.environ.get(URL_VARIABLE):
        return _named(URL_VARIABLE, url, port, given)
    if (found := _read_file()) is not None:
        # What is given takes the place of what the file says of the same.
        if "password" in given or "password_file" in given:
            found.pop("password_file", None)
        if "ca_file" in given or "cert_sha256" in given:
            found.pop("ca_file", None)
            found.pop("cert_sha256", None)
        url = found.pop("url", DEFAULT_URL)
        return _named(CLIENT_FILE, url, port, {**found, **given})
    return _make(DEFAULT_URL, port, given)


def _named(origin: str, url: str, port: int, options: dict) -> Settings:
    try:
        return _make(url, port, options)
    except ValueError as error:
        raise ConfigurationError(f"{origin}: {error}") from None


def _make(place: str, port: int, options: dict) -> Settings:
    address, has_tls, user = _parse_place(place, port)
    user = options.get("user", user)
    password = options.get("password")
    if "password_file" in options:
        if password is not None:
            raise ValueError("password and password_file exclude each other")
        password = read_password(options["password_file"])
    if (user is None) != (password is None):
        missing = "password or password_file" if password is None else "user"
        raise ValueError(f"{missing} is missing: they go together")
    if password is not None and not (has_tls or _is_local(address)):
        raise ValueError("a password goes over TLS only: use harps://")
    trust = None
    if has_tls:
        from .tls import Trust  # here, because most dispatchers are nearby

        trust = Trust(address.host, options.get("ca_file"), options.get("cert_sha256"))
    elif "ca_file" in options or "cert_sha256" in options:
        raise ValueError("ca_file and cert_sha256 are for TLS: use harps://")
    timeouts = {key: options.get(key, default) for key, default in TIMEOUTS.items()}
    for key, seconds in timeouts.items():
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise ValueError(f"{key} must be a number of seconds")
        if not 0 <= seconds <= MAX_SECONDS:
            raise ValueError(f"{key} must not be negative or beyond {MAX_SECONDS}")
    return Settings(address, trust, user, password, timeouts)


def _parse_place(place: str, port: int) -> tuple[Address, bool, str | None]:
    """Return the address, whether TLS is spoken there, and the user that is named."""
    if "://" in place:
        match = re.fullmatch(_URL, place)
        # Its text isn't shown: it may hold a password.
        if match is None:
            raise ValueError("is no URL of the form harp[s]://[USER@]HOST[:PORT]")
        if ":" in (match["user"] or ""):
            raise ValueError(
                "a URL must hold no password, others could see it: use password_file"
            )
        address = parse_address(match["place"], port)
        return address, match["scheme"] == "harps", match["user"] or None
    # An IPv6 address without brackets has several colons, and no port.
    has_port = place.count(":") == 1 or place.startswith(("unix:", "["))
    address = parse_address(place, port) if has_port else Address(place, port)
    return address, False, None


def _is_local(address: Address) -> bool:
    return address.path is not None or re.fullmatch(_LOOPBACK, address.host) is not None


# --- files --------------------------------------------------------------------------


def _read_file() -> dict | None:
    """Return what the file says, None if there is none."""
    try:
        with open(CLIENT_FILE, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if not os.path.exists(CLIENT_FILE):
            return None  # or in a directory that is closed to us: not meant for us
        raise ConfigurationError(
            f"{CLIENT_FILE}: can't be read: {error.strerror}"
        ) from None
    import tomllib  # here, because most have no such file

    try:
        table = tomllib.loads(data.decode())
    except ValueError as error:  # of both: not UTF-8, not TOML
        raise ConfigurationError(f"{CLIENT_FILE}: is not TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(
            f"{CLIENT_FILE}: is not TOML: nested too deep"
        ) from None
    for key, value in table.items():
        if key not in _TEXTS and key not in TIMEOUTS:
            raise ConfigurationError(f"{CLIENT_FILE}: {key[:100]!a}: unknown key")
        if key in _TEXTS and not isinstance(value, str):
            raise ConfigurationError(f"{CLIENT_FILE}: {key}: must be a string")
    return table


def read_password(path: str | os.PathLike) -> str:
    """Return the password in a file, its first line.

    :raises ConfigurationError: if there is none
    """
    try:
        with open(path, "rb") as file:
            password = file.readline().decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(
            f"{path}: password_file can't be read: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        password = ""
    if not password:
        raise ConfigurationError(f"{path}: password_file: no password in line 1")
    return password
