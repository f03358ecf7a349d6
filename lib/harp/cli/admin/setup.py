"""The action ``setup`` of harpcallerd: what a dispatcher needs before it can start. It
makes what is missing and changes nothing that is there, so that it can be repeated."""

from __future__ import annotations

import argparse
import os
import shlex
import socket
from collections.abc import Callable

from harp import provision, template
from harp.config import DispatcherConfig
from harp.errors import reason

from .. import output
from .life import DEFAULT_CONFIG

_USER = "harpcaller"
_DIRECTORY, _CONFIG = os.path.split(DEFAULT_CONFIG)
_JOBS = "/var/lib/harpcaller"
_LOGS = "/var/log/harpcaller"
_PUBLIC_MODE = 0o644
_DIRECTORY_MODE = 0o755
_PRIVATE_DIRECTORY_MODE = 0o700

_HEAD = """\
# harpcallerd's configuration. What is commented out is the default, if there is one;
# "harpcallerd -t" checks it, "harpcallerd reload" applies a change.
"""

_KNOWN_CERTS = """\
# Certificates of hosts whose line in the registry has no cert_sha256: lines
# HOSTNAME FINGERPRINT, written by "harpcallerd trust HOST". No restart is needed.
"""

_PASSWORDS = """\
# Who may connect by TCP: a line NAME:sha256:HEX or NAME:scrypt:... for each, written by
# "harpcallerd passwd". Several lines of one name are all valid. No restart is needed.
"""


def add_actions(add: Callable) -> None:
    """Add the actions of this module.

    :param add: called with name, function and text of an action, returns its parser
    """
    setup = add(
        "setup", _setup, "make what the dispatcher needs; what is there stays as it is"
    )
    setup.set_defaults(needs_config=lambda options: False)
    option = setup.add_argument
    option("--directory", default=_DIRECTORY, help="of the files (%(default)s)")
    option("--jobs", help=f"directory of the job log ({_JOBS}, or jobs in another one)")
    option(
        "--logs",
        help="directory of a log file, where there is no system's log "
        f"({_LOGS}, or log in another one)",
    )
    option("--user", default=_USER, help="that the dispatcher runs as (%(default)s)")
    option(
        "--no-user", action="store_true", help="make none; it runs as who starts it"
    )
    option("--hostname", help="that the certificate is for (this machine's)")


def _setup(options: argparse.Namespace, settings: None) -> int:
    try:
        _Setup(options).run()
    except provision.SetupFailed as error:
        output.note(f"harpcallerd setup: {error}")
        return 1
    except OSError as error:
        output.note(f"harpcallerd setup: {reason(error)}")
        return 1
    return 0


class _Setup:
    """One run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._directory = os.path.abspath(options.directory)
        self._jobs = self._place(options.jobs, _JOBS, "jobs")
        self._logs = self._place(options.logs, _LOGS, "log")
        self._make = provision.Maker("harpcallerd setup")
        self._owner = provision.UNCHANGED  # of what the dispatcher itself writes
        self._secret = (0o600, provision.UNCHANGED)  # for it to read only

    def run(self) -> None:
        """Make what is missing, in this order.

        :raises SetupFailed: if something can't be made
        :raises OSError: the same
        """
        self._make_user()
        make = self._make
        make.directory(self._directory, _DIRECTORY_MODE)
        make.directory(self._jobs, _PRIVATE_DIRECTORY_MODE, self._owner)
        make.key_and_certificate(
            self._path("key.pem"),
            self._path("cert.pem"),
            # Not as the option's default, which would ask for it with every action.
            self._options.hostname or socket.getfqdn(),
            *self._secret,
        )
        # Its lines hold passwords.
        make.file(self._path("hosts.jsonl"), 0o600, lambda: "", self._owner)
        make.file(self._path("known_certs"), _PUBLIC_MODE, lambda: _KNOWN_CERTS)
        mode, owner = self._secret
        make.file(self._path("passwords"), mode, lambda: _PASSWORDS, owner)
        make.file(self._path(_CONFIG), mode, self._configuration, owner)
        command = "harpcallerd"
        if self._directory != _DIRECTORY:
            command += f" -c {shlex.quote(self._path(_CONFIG))}"
        make.say(
            f"the hosts' lines go into {self._path('hosts.jsonl')}, {command} "
            f"hosts-add puts them there; then: {command} start"
        )

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _place(self, wanted: str | None, usual: str, name: str) -> str:
        """Return where something goes: where that is wanted; by default the usual
        place, or a name in a directory that isn't the usual one."""
        if wanted is not None:
            return os.path.abspath(wanted)
        return usual if self._directory == _DIRECTORY else self._path(name)

    def _make_user(self) -> None:
        if os.getuid() != 0:
            self._make.say("not root: no user made, files are this user's")
        elif not self._options.no_user:
            entry = self._make.user(self._options.user)
            self._owner = (entry.pw_uid, entry.pw_gid)
            self._secret = (0o640, (0, entry.pw_gid))

    def _configuration(self) -> str:
        values: dict[str, object] = {
            "password_file": self._path("passwords"),
            "hosts.file": self._path("hosts.jsonl"),
            "trust.known_certs_file": self._path("known_certs"),
            "tls.certificate": self._path("cert.pem"),
            "tls.key": self._path("key.pem"),
        }
        if self._jobs != _JOBS:
            values["stream_directory"] = self._jobs
        if self._directory != _DIRECTORY:
            # Beside another dispatcher, or without the right to write to /run. In a
            # directory of their own, which the first start makes for its user.
            values["listen"] = ["unix:" + self._path("run/client")]
            values["admin_socket"] = self._path("run/control")
        if self._owner != provision.UNCHANGED:
            values["user"] = self._options.user
        file = self._make.log_file(self._logs, "harpcallerd.log", self._owner)
        if file is not None:
            values["logging"] = file
        return template.configuration(DispatcherConfig, _HEAD, values)
