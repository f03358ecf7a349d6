"""The command ``passwd`` of both daemons: users and passwords in a file
(auth/password_file.py). A password comes from the terminal or from standard input,
never from the command line, where everybody could see it."""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys
from collections.abc import Callable

from ..commandline import Parser, put
from ..config import ConfigError
from ..errors import reason
from ..linefile import change_lines, read_lines
from . import passwords

_SECRET_BYTES = 32


class Complaint(Exception):
    """Raised when it can't be done; says why."""


def main(
    arguments: list[str],
    program: str,
    default_config: str,
    find_file: Callable[[str], str | None],
) -> int:
    """Run the command.

    :param arguments: behind ``passwd``
    :param program: whose command it is
    :param default_config: its configuration file, unless another one is named
    :param find_file: returns the ``password_file`` that such a file names; raises
        :class:`ConfigError` if it can't be used
    :returns: exit status
    """
    parser = Parser(prog=f"{program} passwd", description=DESCRIPTION)
    parser.add_argument("-c", "--config", default=default_config, metavar="FILE")
    add_arguments(parser)
    return run(parser.parse_intermixed_args(arguments), program, find_file)


DESCRIPTION = (
    "set a user's password: asked for at the terminal, otherwise the first line of "
    "standard input; the entries that the user has are replaced"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what follows ``passwd`` on the command line, but for ``--config``."""
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="password file (default: password_file of the configuration)",
    )
    parser.add_argument("user", metavar="USER")
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


def run(
    parsed: argparse.Namespace,
    program: str,
    find_file: Callable[[str], str | None],
) -> int:
    """Do what the command line says. Parameters as for :func:`main`."""
    try:
        if not can_be_user(parsed.user):
            raise Complaint(f"can't be a user's name: {parsed.user!r}")
        path = parsed.file or _configured_file(parsed.config, find_file)
        _change(path, parsed)
    except Complaint as error:
        print(f"{program} passwd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{program} passwd: {reason(error)}", file=sys.stderr)
        return 1
    return 0


def can_be_user(name: str) -> bool:
    """Tell whether a user's name could stand in a password file."""
    return name[:1] not in ("", "#") and not any(c in name for c in ":\r\n")


def _configured_file(config: str, find_file: Callable[[str], str | None]) -> str:
    try:
        found = find_file(config)
    except ConfigError as error:
        raise Complaint(f"no FILE given, and {error.faults[0]}") from None
    if found is None:
        raise Complaint(f"no FILE given, and {config} names no password_file")
    return found


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
    if parsed.random:
        put(b"")  # before anything is changed
    password = make_secret() if parsed.random else _read_password(user)
    write = passwords.write_random if parsed.random else passwords.write_chosen
    set_entry(path, user, write(password), add=parsed.add)
    if parsed.random:
        put(f"{password}\n".encode())


def make_secret() -> str:
    """Return a password of 256 random bits."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def set_entry(path: str, user: str, entry: str, add: bool = False) -> None:
    """Write an entry of a user.

    :param entry: as :mod:`harp.auth.passwords` writes it
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
    return any(_is_of(line, user) for line in read_lines(path))


def _is_of(line: str, user: str) -> bool:
    return line.partition(":")[0] == user and ":" in line


def _without(lines: list[str], user: str, keep: int) -> list[str]:
    """Return the lines without all entries of a user but the last ones."""
    own = [number for number, line in enumerate(lines) if _is_of(line, user)]
    removed = set(own[: len(own) - keep])
    return [line for number, line in enumerate(lines) if number not in removed]


def _read_password(user: str) -> str:
    if sys.stdin is None:
        raise Complaint("standard input is closed, nothing is changed")
    if sys.stdin.isatty():
        try:
            password = getpass.getpass(f"Password of {user}: ")
            again = getpass.getpass("Once more: ")
        except EOFError:
            raise Complaint("no password was given, nothing is changed") from None
        if again != password:
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
