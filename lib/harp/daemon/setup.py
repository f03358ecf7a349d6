"""The command ``harpd setup``: what a server needs before harpd can start on it. It
makes what is missing, and never changes a key, a configuration or procedures that are
there, so that it can be repeated."""

from __future__ import annotations

import argparse
import grp
import hashlib
import json
import os
import pwd
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable

from .. import service
from . import passwd, template
from .auth import passwords

_USER = "harpd"
_DIRECTORY_MODE = 0o755
_SECRET_MODE = 0o640
_PUBLIC_MODE = 0o644
_DAYS = 3650
_MAX_COMMON_NAME = 64  # characters (RFC 5280)


class SetupFailed(Exception):
    """Raised when something can't be made; says what and why."""


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
        print(f"harpd setup: {service.reason(error)}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    name = socket.getfqdn()
    parser = argparse.ArgumentParser(
        prog="harpd setup",
        description="Makes what harpd needs on this machine: user, directory, key, "
        "certificate, password file, configuration. What is there stays.",
        epilog="The secret of a line for the dispatcher is stored as a digest only, so "
        "that line can be printed just once, when the secret is made. Later on, "
        "--new-secret makes another one, valid beside the first; when the dispatcher "
        "has it, 'harpd passwd --drop-old' removes the first.",
    )
    option = parser.add_argument
    option("--directory", default="/etc/harpd", metavar="DIRECTORY")
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
    option("--port", type=int, default=4306, help="(%(default)s)")
    return parser.parse_args(arguments)


class _Setup:
    """One run."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        self._parsed = parsed
        self._directory = os.path.abspath(parsed.directory)
        self._group: int | None = None
        self._secret: str | None = None

    def run(self) -> None:
        """Make what is missing, in this order.

        :raises SetupFailed: if something can't be made
        :raises OSError: the same
        """
        self._make_user()
        if not os.path.isdir(self._directory):
            os.makedirs(self._directory, _DIRECTORY_MODE)
            os.chmod(self._directory, _DIRECTORY_MODE)
            _say(f"{self._directory}: made")
        self._make_key()
        self._make("passwords", _SECRET_MODE, lambda: template.PASSWORDS)
        self._make("procedures.py", _PUBLIC_MODE, lambda: template.PROCEDURES)
        self._make("harpd.toml", _SECRET_MODE, self._configuration)
        self._make_secret()
        if self._parsed.host_line is not None:
            self._write_host_line()

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    # --- user and files ---

    def _make_user(self) -> None:
        name = self._parsed.user
        if os.getuid() != 0:
            _say("not root: no user made, files are this user's")
            return
        if self._parsed.no_user:
            return
        try:
            entry = pwd.getpwnam(name)
            _say(f"user {name}: exists")
        except KeyError:
            entry = _add_user(name)
            _say(f"user {name}: made")
        self._group = entry.pw_gid

    def _make(self, name: str, mode: int, content: Callable[[], str]) -> None:
        """Make a file that isn't there."""
        path = self._path(name)
        if os.path.lexists(path):
            _say(f"{path}: exists, stays as it is")
            return
        with tempfile.NamedTemporaryFile("w", dir=self._directory) as file:
            file.write(content())
            file.flush()
            self._put(file.name, path, mode)
        _say(f"{path}: made")

    def _put(self, made: str, path: str, mode: int) -> None:
        """Give a file that is whole its name, unless there is one of that name."""
        if self._group is not None and mode == _SECRET_MODE:
            os.chown(made, 0, self._group)
        elif mode == _SECRET_MODE:
            mode = 0o600
        os.chmod(made, mode)
        os.link(made, path)

    # --- key and certificate ---

    def _make_key(self) -> None:
        key, certificate = self._path("key.pem"), self._path("cert.pem")
        if os.path.lexists(certificate):
            if not os.path.lexists(key):
                raise SetupFailed(
                    f"{certificate} is there, but not its key, {key}: put the key "
                    "there, or move the certificate away"
                )
            _say(f"{key}, {certificate}: exist, stay as they are")
            return
        with tempfile.TemporaryDirectory(dir=self._directory) as directory:
            new_key = os.path.join(directory, "key.pem")
            if not os.path.lexists(key):
                _openssl(
                    ["genpkey", "-algorithm", "EC"]
                    + ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", new_key]
                )
                self._put(new_key, key, _SECRET_MODE)
                _say(f"{key}: made")
            new = os.path.join(directory, "cert.pem")
            name = self._parsed.hostname
            _openssl(
                ["req", "-x509", "-new", "-key", key, "-days", str(_DAYS)]
                + ["-subj", f"/CN={name[:_MAX_COMMON_NAME]}"]
                + ["-addext", f"subjectAltName=DNS:{name}", "-out", new]
            )
            self._put(new, certificate, _PUBLIC_MODE)
            _say(f"{certificate}: made, for {name}")

    def _configuration(self) -> str:
        values = {
            "tls.certificate": self._path("cert.pem"),
            "tls.key": self._path("key.pem"),
            "password_file": self._path("passwords"),
            "procedures.file": self._path("procedures.py"),
        }
        if self._parsed.port != 4306:
            values["listen"] = [f"*:{self._parsed.port}"]
        if os.getuid() == 0:
            values["procedures.user"] = "nobody"
        if self._group is not None:
            values["front.user"] = self._parsed.user
        return template.configuration(values)

    # --- the dispatcher's secret ---

    def _make_secret(self) -> None:
        path, caller = self._path("passwords"), self._parsed.caller
        exists = passwd.has_entry(path, caller)
        if exists and not self._parsed.new_secret:
            _say(f"{path}: {caller} has a secret, it stays")
            return
        if self._parsed.host_line is None:
            _say(f"{path}: no secret made: --host-line FILE makes and prints one")
            return
        self._secret = passwd.make_secret()
        entry = passwords.write_random(self._secret)
        passwd.set_entry(path, caller, entry, add=True)
        _say(f"{path}: secret made for {caller}")

    def _write_host_line(self) -> None:
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
            "cert_sha256": _fingerprint(self._path("cert.pem")),
        }
        line = json.dumps(entry) + "\n"
        path = self._parsed.host_line
        if path == "-":
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(line)
        _say(f"{path}: line of {hostname} appended")


def _add_user(name: str) -> pwd.struct_passwd:
    try:
        grp.getgrnam(name)
        group = ["--gid", name]
    except KeyError:
        group = ["--user-group"]
    command = "useradd --system --no-create-home --home-dir /nonexistent".split()
    command += ["--shell", "/usr/sbin/nologin", *group, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise SetupFailed(
            f"no 'useradd' command found: make the user {name} yourself, or give "
            "--no-user"
        ) from None
    if done.returncode != 0:
        raise SetupFailed(f"useradd: {done.stderr.strip() or done.returncode}")
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise SetupFailed(f"useradd made no user {name}") from None


def _openssl(arguments: list[str]) -> None:
    try:
        done = subprocess.run(
            ["openssl", *arguments], capture_output=True, text=True, umask=0o077
        )
    except FileNotFoundError:
        raise SetupFailed(
            "no 'openssl' command found, which makes key and certificate; install the "
            "package 'openssl'"
        ) from None
    if done.returncode != 0:
        raise SetupFailed(f"openssl {arguments[0]}: {done.stderr.strip()}")


def _fingerprint(certificate: str) -> str:
    with open(certificate, encoding="ascii") as file:
        # A chain begins with the host's own.
        own, end, _ = file.read().partition(ssl.PEM_FOOTER)
    encoded = ssl.PEM_cert_to_DER_cert((own + end)[own.index(ssl.PEM_HEADER) :])
    return hashlib.sha256(encoded).hexdigest()


def _say(text: str) -> None:
    print(f"harpd setup: {text}", file=sys.stderr)
