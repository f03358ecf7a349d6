"""The command ``harpd setup``: what a server needs before harpd can start on it. It
makes what is missing, and never changes a key, a configuration or procedures that are
there, so that it can be repeated."""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import sys

from .. import provision
from ..auth import command, passwords
from ..certificate import fingerprint
from ..commandline import Parser, put
from ..errors import reason
from ..protocol import DAEMON_PORT
from ..provision import SetupFailed
from . import template

_USER = "harpd"
_DIRECTORY = "/etc/harpd"
_LOGS = "/var/log/harpd"
_DIRECTORY_MODE = 0o755
_SECRET_MODE = 0o640
_OWN_SECRET_MODE = 0o600
_PUBLIC_MODE = 0o644


def main(arguments: list[str]) -> int:
    """Run the command.

    :param arguments: behind ``setup``
    :returns: exit status
    """
    parsed = _parse(arguments)
    try:
        _Setup(parsed).run()
    except SetupFailed as error:
        print(f"harpd setup: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"harpd setup: {reason(error)}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    name = socket.getfqdn()
    parser = Parser(
        prog="harpd setup",
        description="Makes what harpd needs on this machine: user, directory, key, "
        "certificate, password file, configuration. What is there stays.",
        epilog="The secret of a line for the dispatcher is stored as a digest only, so "
        "that line can be printed just once, when the secret is made. Later on, "
        "--new-secret makes another one, valid beside the first; when the dispatcher "
        "has it, 'harpd passwd --drop-old' removes the first.",
    )
    option = parser.add_argument
    option(
        "--directory",
        default=_DIRECTORY,
        metavar="DIRECTORY",
        help="of the files (%(default)s)",
    )
    option(
        "--logs",
        metavar="DIRECTORY",
        help=f"of a log file, where there is no system's log ({_LOGS}, or log in "
        "another DIRECTORY)",
    )
    option("--user", default=_USER, help="that speaks with callers (%(default)s)")
    option(
        "--no-user",
        action="store_true",
        help="make no such user; without it, the files are for root alone",
    )
    option(
        "--host-line",
        metavar="FILE",
        help="append this host's line for the dispatcher's registry to a file; "
        "-: standard output",
    )
    option(
        "--new-secret",
        action="store_true",
        help="make a further secret for the caller",
    )
    option(
        "--caller",
        default="harpcaller",
        metavar="NAME",
        help="user that the dispatcher calls as (%(default)s)",
    )
    option("--hostname", default=name, help="(%(default)s)")
    option("--address", help="that the dispatcher connects to (the host's name)")
    option("--port", type=int, default=DAEMON_PORT, help="(%(default)s)")
    return parser.parse_args(arguments)


class _Setup:
    """One run."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        self._parsed = parsed
        self._directory = os.path.abspath(parsed.directory)
        self._make = provision.Maker("harpd setup")
        self._front = provision.UNCHANGED  # number of its user and group
        self._group: int | None = None
        self._secret: str | None = None

    def run(self) -> None:
        """Make what is missing, in this order.

        :raises SetupFailed: if something can't be made
        :raises OSError: the same
        """
        if not command.can_be_user(self._parsed.caller):
            raise SetupFailed(f"can't be a user's name: {self._parsed.caller!r}")
        self._make_user()
        self._make.directory(self._directory, _DIRECTORY_MODE)
        mode, owner = self._hands_of_secrets()
        self._make.key_and_certificate(
            self._path("key.pem"),
            self._path("cert.pem"),
            self._parsed.hostname,
            mode,
            owner,
        )
        make = self._make.file
        make(self._path("passwords"), mode, lambda: template.PASSWORDS, owner)
        make(self._path("procedures.py"), _PUBLIC_MODE, lambda: template.PROCEDURES)
        make(self._path("harpd.toml"), mode, self._configuration, owner)
        has_line = self._parsed.host_line is not None
        # Before the secret is made, which can be handed over just once.
        certificate = _fingerprint(self._path("cert.pem")) if has_line else ""
        if self._parsed.host_line == "-":
            put(b"")
        self._make_secret()
        if has_line:
            self._write_host_line(certificate)

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    # --- user and files ---

    def _make_user(self) -> None:
        if os.getuid() != 0:
            self._make.say("not root: no user made, files are this user's")
        elif not self._parsed.no_user:
            entry = self._make.user(self._parsed.user)
            self._front = (entry.pw_uid, entry.pw_gid)
            self._group = entry.pw_gid

    def _hands_of_secrets(self) -> tuple[int, tuple[int, int]]:
        """Return mode and owner of files that the front alone may read."""
        if self._group is None:
            return _OWN_SECRET_MODE, provision.UNCHANGED
        return _SECRET_MODE, (0, self._group)

    def _configuration(self) -> str:
        values = {
            "tls.certificate": self._path("cert.pem"),
            "tls.key": self._path("key.pem"),
            "password_file": self._path("passwords"),
            "procedures.file": self._path("procedures.py"),
        }
        if self._parsed.port != DAEMON_PORT:
            values["listen"] = [f"*:{self._parsed.port}"]
        if os.getuid() == 0:
            values["procedures.user"] = "nobody"
        if self._group is not None:
            values["front.user"] = self._parsed.user
        file = self._make.log_file(self._logs(), "harpd.log", self._front)
        if file is not None:
            values["logging"] = file
        return template.configuration(values)

    def _logs(self) -> str:
        if self._parsed.logs is not None:
            return os.path.abspath(self._parsed.logs)
        return _LOGS if self._directory == _DIRECTORY else self._path("log")

    # --- the dispatcher's secret ---

    def _make_secret(self) -> None:
        path, caller = self._path("passwords"), self._parsed.caller
        exists = command.has_entry(path, caller)
        if exists and not self._parsed.new_secret:
            self._make.say(f"{path}: {caller} has a secret, it stays")
            return
        if self._parsed.host_line is None:
            self._make.say(
                f"{path}: no secret made: --host-line FILE makes and prints one"
            )
            return
        self._secret = command.make_secret()
        entry = passwords.write_random(self._secret)
        command.set_entry(path, caller, entry, add=True)
        self._make.say(f"{path}: secret made for {caller}")

    def _write_host_line(self, certificate: str) -> None:
        if self._secret is None:
            raise SetupFailed(
                "no line for the dispatcher: the secret in it can't be read back from "
                "the password file; --new-secret makes a further one"
            )
        hostname = self._parsed.hostname
        entry = {
            "hostname": hostname,
            "address": self._parsed.address or hostname,
            "port": self._parsed.port,
            "credentials": {"user": self._parsed.caller, "password": self._secret},
            "cert_sha256": certificate,
        }
        line = json.dumps(entry) + "\n"
        path = self._parsed.host_line
        if path == "-":
            put(line.encode())
            return
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(line)
        self._make.say(f"{path}: line of {hostname} appended")


def _fingerprint(certificate: str) -> str:
    with open(certificate, encoding="ascii", errors="replace") as file:
        # A chain begins with the host's own.
        own, end, _ = file.read().partition(ssl.PEM_FOOTER)
    try:
        encoded = ssl.PEM_cert_to_DER_cert((own + end)[own.index(ssl.PEM_HEADER) :])
    except ValueError:
        raise SetupFailed(
            f"{certificate}: holds no certificate in PEM form; put one there, or move "
            "it and its key away, and both are made"
        ) from None
    return fingerprint(encoded)
