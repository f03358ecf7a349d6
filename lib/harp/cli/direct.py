"""The command that calls a daemon itself, without a dispatcher."""

from __future__ import annotations

import argparse
import time

import harp
from harp import protocol, settings
from harp.address import parse_address

from . import options as cli_options
from . import output
from .report import Report


def add_direct(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_direct)
    parser.add_argument(
        "address",
        metavar="HOST[:PORT]",
        help=f"of the daemon ({protocol.DAEMON_PORT})",
    )
    parser.add_argument("procedure", metavar="PROCEDURE")
    cli_options.add_arguments(parser)
    option = parser.add_argument
    option("--user", required=True, help="who to be there")
    option(
        "--password-file",
        metavar="FILE",
        required=True,
        help="with the password in its first line",
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--cert-sha256",
        metavar="HEX",
        help="fingerprint of the daemon's certificate: this one is trusted, no other",
    )
    trust.add_argument(
        "--ca-file", metavar="FILE", help="authorities to trust, not the system's"
    )
    option("--tls-name", metavar="NAME", help="name in the certificate (HOST)")
    option(
        "--timeout",
        metavar="SECONDS",
        type=cli_options.count,
        help="longest gap between two messages",
    )
    cli_options.add_timestamps(parser)
    cli_options.add_formats(parser)


COMMANDS = {"direct": add_direct}


def _direct(options: argparse.Namespace) -> int:
    positional, named = cli_options.call_arguments(options)
    server = _server(options)
    report = Report(options)
    try:
        found = server[options.procedure](*positional, **named)
        if isinstance(found, harp.HarpStreamIterator):
            found = _print_stream(found, report)
    except (harp.RemoteException, harp.RemoteError) as error:
        return report.end(error)
    except KeyboardInterrupt:
        output.note("interrupted; the call is cancelled")
        return output.INTERRUPTED
    return report.end(found)


def _print_stream(stream: harp.HarpStreamIterator, report: Report) -> object:
    """Print what comes, and return the result."""
    with stream:
        for number, value in enumerate(stream):
            if isinstance(value, harp.Result):
                return value.value
            report.packet(number, time.time(), value)
    raise AssertionError("a stream without an end is an error")


def _server(options: argparse.Namespace) -> harp.HarpServer:
    try:
        address = parse_address(options.address, protocol.DAEMON_PORT)
        if address.path is not None:
            raise ValueError("a daemon is at HOST[:PORT]")
        return harp.HarpServer(
            address.host,
            options.user,
            settings.read_password(options.password_file),
            address.port,
            ca_file=options.ca_file,
            cert_sha256=options.cert_sha256,
            tls_name=options.tls_name,
            timeout=options.timeout,
        )
    except ValueError as error:
        raise output.UsageError(str(error)) from None
