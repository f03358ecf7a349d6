#!/usr/bin/env python3
"""The panel on http://127.0.0.1:8080/, to try it: serve.py --help"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socketserver
import sys
import tempfile
from pathlib import Path
from wsgiref import simple_server

import place  # noqa: F401  finds the library

from harp.auth import passwords
from harp.auth.command import set_entry
from webpanel import settings
from webpanel.app import Panel

_SECONDS = 60  # that a browser may take to send or to receive something


class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        # Without asking a name server for our own name, which may take long.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()


class Handler(simple_server.WSGIRequestHandler):
    """One connection."""

    timeout = _SECONDS

    def address_string(self) -> str:
        return self.client_address[0]


def main() -> int:
    arguments = _parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.trial:
            with tempfile.TemporaryDirectory(prefix="webpanel-") as directory:
                return _serve(_trial(directory, arguments.dispatcher), arguments.port)
        found = arguments.settings and settings.load(arguments.settings)
        return _serve(found or settings.find(), arguments.port)
    except settings.SettingsError as error:
        for line in str(error).splitlines():
            print(f"serve.py: {line}", file=sys.stderr)
    except OSError as error:
        print(f"serve.py: port {arguments.port}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    return 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Serves the web panel on 127.0.0.1, to try it. For others to use, "
        "a WSGI server runs it, as wsgi:application, behind one that speaks HTTPS."
    )
    option = parser.add_argument
    option(
        "--settings",
        metavar="FILE",
        help=f"settings, like panel.toml beside this program (default: what "
        f"{settings.VARIABLE} says, else {settings.DEFAULT})",
    )
    option("--port", type=int, default=8080, help="0 is any free one (default: 8080)")
    option(
        "--trial",
        action="store_true",
        help="without settings: with a user and a password that it prints",
    )
    option(
        "--dispatcher",
        metavar="ADDRESS",
        help="with --trial, where it is, like 127.0.0.1:3502 (default: as harpcaller)",
    )
    parsed = parser.parse_args()
    if parsed.dispatcher is not None and not parsed.trial:
        parser.error("--dispatcher goes with --trial; else it stands in the settings")
    return parsed


def _trial(directory: str, dispatcher: str | None) -> settings.Settings:
    users = os.path.join(directory, "users")
    secret = os.path.join(directory, "secret")
    password = secrets.token_urlsafe(9)
    set_entry(users, "you", passwords.write_chosen(password))
    Path(secret).touch(mode=0o600)
    Path(secret).write_text(secrets.token_hex(32))
    print(f"user: you  password: {password}")
    return settings.Settings(users, secret, dispatcher, events=True)


def _serve(found: settings.Settings, port: int) -> int:
    panel = Panel(found)
    with simple_server.make_server("127.0.0.1", port, panel, Server, Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
