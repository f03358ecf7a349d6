"""What the ``setup`` commands of both daemons make: a user, directories, files, a key
and a certificate. What is there already stays as it is."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable

from . import log

UNCHANGED = (-1, -1)
"""As the owner of a file: whoever makes it."""

_PUBLIC_MODE = 0o644
_LOG_DIRECTORY_MODE = 0o750
_DAYS = 3650
_MAX_COMMON_NAME = 64  # characters (RFC 5280)


class SetupFailed(Exception):
    """Raised when something can't be made; says what and why."""


class Maker:
    """Makes what is missing, and says so on standard error.

    :param command: name of the command, before each line
    """

    def __init__(self, command: str) -> None:
        self._command = command

    def say(self, text: str) -> None:
        print(f"{self._command}: {text}", file=sys.stderr)

    def user(self, name: str) -> pwd.struct_passwd:
        """Make a system user with a group of the same name. Root only.

        :raises SetupFailed: if that can't be done
        """
        try:
            entry = pwd.getpwnam(name)
            self.say(f"user {name}: exists")
        except KeyError:
            entry = _add_user(name)
            self.say(f"user {name}: made")
        return entry

    def directory(
        self, path: str, mode: int, owner: tuple[int, int] = UNCHANGED
    ) -> None:
        """Make a directory, and those it is in.

        :param owner: numbers of user and group
        :raises OSError: if that can't be done
        """
        if os.path.isdir(path):
            return
        os.makedirs(path, mode)
        os.chown(path, *owner)
        os.chmod(path, mode)
        self.say(f"{path}: made")

    def file(
        self,
        path: str,
        mode: int,
        content: Callable[[], str],
        owner: tuple[int, int] = UNCHANGED,
    ) -> None:
        """Make a file; nobody ever finds a part of it.

        :param owner: numbers of user and group
        :raises OSError: if that can't be done
        """
        if os.path.lexists(path):
            self.say(f"{path}: exists, stays as it is")
            return
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path)) as file:
            file.write(content().encode())
            file.flush()
            _put(file.name, path, mode, owner)
        self.say(f"{path}: made")

    def log_file(
        self, directory: str, name: str, owner: tuple[int, int] = UNCHANGED
    ) -> str | None:
        """Make a directory for the log where there is no system's log, which a daemon
        in the background would write to.

        :param owner: numbers of user and group that write there
        :returns: path of the file in it; None: none is needed
        :raises OSError: if that can't be done
        """
        if log.has_system_log():
            return None
        self.directory(directory, _LOG_DIRECTORY_MODE, owner)
        return os.path.join(directory, name)

    def key_and_certificate(
        self,
        key: str,
        certificate: str,
        hostname: str,
        mode: int,
        owner: tuple[int, int] = UNCHANGED,
    ) -> None:
        """Make a key and a certificate that it has signed itself.

        :param key: path, in the same directory as the certificate's
        :param hostname: that the certificate is for
        :param mode: of the key
        :param owner: of the key, numbers of user and group
        :raises SetupFailed: if that can't be done
        """
        if os.path.lexists(certificate):
            if not os.path.lexists(key):
                raise SetupFailed(
                    f"{certificate} is there, but not its key, {key}: put the key "
                    "there, or move the certificate away"
                )
            self.say(f"{key}, {certificate}: exist, stay as they are")
            return
        with tempfile.TemporaryDirectory(dir=os.path.dirname(key)) as directory:
            new_key = os.path.join(directory, "key.pem")
            if not os.path.lexists(key):
                _openssl(
                    ["genpkey", "-algorithm", "EC"]
                    + ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", new_key]
                )
                _put(new_key, key, mode, owner)
                self.say(f"{key}: made")
            new = os.path.join(directory, "cert.pem")
            _openssl(
                ["req", "-x509", "-new", "-key", key, "-days", str(_DAYS)]
                + ["-subj", f"/CN={hostname[:_MAX_COMMON_NAME]}"]
                + ["-addext", f"subjectAltName=DNS:{hostname}", "-out", new]
            )
            _put(new, certificate, _PUBLIC_MODE, UNCHANGED)
            self.say(f"{certificate}: made, for {hostname}")


def _put(made: str, path: str, mode: int, owner: tuple[int, int]) -> None:
    """Give a file that is whole its name, unless there is one of that name."""
    os.chown(made, *owner)
    os.chmod(made, mode)
    os.link(made, path)


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
