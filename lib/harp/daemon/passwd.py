"""The command ``harpd passwd``: users and passwords in a file (auth/password_file.py).
A password comes from the terminal or from standard input, never from the command line,
where everybody could see it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator

from .. import service
from ..config import ConfigError
from . import options
from .auth import passwords

_DEFAULT_CONFIG = "/etc/harpd/harpd.toml"
_MODE = 0o600  # of a new file
_SECRET_BYTES = 32


class Complaint(Exception):
    """Raised when it can't be done; says why."""


def main(arguments: list[str]) -> int:
    """Run the command.

    :param arguments: behind ``passwd``
    :returns: exit status
    """
    parsed = _parse(arguments)
    try:
        if ":" in parsed.user or "\n" in parsed.user or parsed.user[:1] in ("", "#"):
            raise Complaint(f"can't be a user's name: {parsed.user!r}")
        path = parsed.file or _configured_file(parsed.config)
        _change(path, parsed)
    except Complaint as error:
        print(f"harpd passwd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"harpd passwd: {service.reason(error)}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="harpd passwd",
        description="Sets a user's password: asked for at the terminal, otherwise the "
        "first line of standard input. The entries that the user has are replaced.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="password file (default: password_file of the configuration)",
    )
    parser.add_argument("user", metavar="USER")
    parser.add_argument("-c", "--config", default=_DEFAULT_CONFIG, metavar="FILE")
    parser.add_argument(
        "--random", action="store_true", help="make a password, and print it"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--add",
        action="store_true",
        help="keep the entries that the user has; all are valid",
    )
    what.add_argument(
        "--drop-old",
        action="store_true",
        help="remove all entries of the user but the newest; asks for no password",
    )
    what.add_argument("--delete", action="store_true", help="remove the user")
    return parser.parse_intermixed_args(arguments)


def _configured_file(config: str) -> str:
    try:
        found = options.load_config(options.Options(os.path.abspath(config)))
    except ConfigError as error:
        raise Complaint(f"no FILE given, and {error.faults[0]}") from None
    if found.password_file is None:
        raise Complaint(f"no FILE given, and {config} names no password_file")
    return found.password_file


def _change(path: str, parsed: argparse.Namespace) -> None:
    user = parsed.user
    if parsed.delete or parsed.drop_old:
        if parsed.random:
            raise Complaint("--random makes an entry, this removes some")
        keep = 0 if parsed.delete else 1

        def remove(lines: list[str]) -> list[str]:
            if not any(_is_of(line, user) for line in lines):
                raise Complaint(f"{path}: no user is called {user!r}")
            return _without(lines, user, keep)

        change_lines(path, remove, create=False)
        return
    password = make_secret() if parsed.random else _read_password(user)
    write = passwords.write_random if parsed.random else passwords.write_chosen
    set_entry(path, user, write(password), add=parsed.add)
    if parsed.random:
        print(password)


def make_secret() -> str:
    """Return a password of 256 random bits."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def set_entry(path: str, user: str, entry: str, add: bool = False) -> None:
    """Write an entry of a user.

    :param entry: as :mod:`harp.daemon.auth.passwords` writes it
    :param add: True: beside those that the user has
    :raises OSError: if the file can't be written
    """
    change_lines(
        path,
        lambda lines: [
            *(lines if add else _without(lines, user, 0)),
            f"{user}:{entry}",
        ],
    )


def has_entry(path: str, user: str) -> bool:
    """Tell whether a user has an entry.

    :raises OSError: if the file can't be read
    """
    return any(_is_of(line, user) for line in _read(path))


def _is_of(line: str, user: str) -> bool:
    return line.partition(":")[0] == user and ":" in line


def _without(lines: list[str], user: str, keep: int) -> list[str]:
    """Return the lines without all entries of a user but the last ones."""
    own = [number for number, line in enumerate(lines) if _is_of(line, user)]
    removed = set(own[: len(own) - keep])
    return [line for number, line in enumerate(lines) if number not in removed]


def _read_password(user: str) -> str:
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password of {user}: ")
        if getpass.getpass("Once more: ") != password:
            raise Complaint("the two are not the same, nothing is changed")
    else:
        line = sys.stdin.buffer.readline()
        try:
            password = line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError:
            raise Complaint("the password is not UTF-8") from None
    if not password:
        raise Complaint("the password is empty, nothing is changed")
    return password


# --- the file -----------------------------------------------------------------------


def change_lines(
    path: str, change: Callable[[list[str]], list[str]], create: bool = True
) -> None:
    """Replace a file in one step by one with other lines, of the same mode and owner.

    :param change: from the lines to the new ones
    :param create: True: a file that isn't there is made
    :raises OSError: if the file can't be read or written
    """
    path = os.path.realpath(path)  # a link stays one
    if create:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE))
    with _locked(path) as status:
        text = "".join(f"{line}\n" for line in change(_read(path)))
        data = text.encode("utf-8", "surrogateescape")
        fd, new = tempfile.mkstemp(prefix=".harpd-", dir=os.path.dirname(path))
        try:
            with open(fd, "wb") as file:
                os.fchown(fd, status.st_uid, status.st_gid)
                os.fchmod(fd, status.st_mode & 0o7777)
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.replace(new, path)
        except BaseException:
            os.unlink(new)
            raise


def _read(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        lines = file.read().split("\n")
    return lines if lines[-1] else lines[:-1]


@contextlib.contextmanager
def _locked(path: str) -> Iterator[os.stat_result]:
    """Lock a file against others who replace it, and look at it."""
    while True:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            status = os.fstat(file.fileno())
            # Otherwise somebody has replaced it while we waited.
            if os.path.samestat(status, os.stat(path)):
                yield status
                return
