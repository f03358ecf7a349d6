"""Options and arguments that several commands have, and what they mean."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Callable

import harp
from harp import jobid, protocol
from harp.address import parse_address
from harp.arguments import parse_arguments, parse_value

from . import output
from .output import UsageError

ARGUMENTS_HELP = """\
Each ARGUMENT is JSON where it parses as that, else a string; all of them stand by
position, or all as NAME=VALUE. @FILE is the content of a file and - that of standard
input: JSON where the whole of it parses, else text, as it is with its line ends. A
string that looks like something else is given as JSON, in quotes: '"@home"', '"5"',
'"a=b"'.
"""

REPLY_SECONDS = 60.0
"""For a reply that waits for nothing but, at most, a host's daemon."""

_MAX_CONTENT = 64 << 20  # bytes of a file that is an argument; dispatchers take less

# --- the types of options ------------------------------------------------------------


def argument(parse: Callable) -> Callable:
    """Let argparse tell what is wrong with an argument: what ``parse`` raises."""

    def checked(text: str):
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _count(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise ValueError(f"{text!a} is no positive integer")
    return number


def _natural(text: str) -> int:
    number = _whole(text)
    if number < 0:
        raise ValueError(f"{text!a} is no integer from 0 on")
    return number


def _whole(text: str) -> int:
    """Return the number; -1: it is none, or beyond all that numbers here are."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def _queue_name(text: str) -> dict:
    name = parse_value(text)
    if not isinstance(name, dict):
        raise ValueError(f"{text!a} is no JSON object")
    return name


def _job_id(text: str) -> str:
    if not jobid.is_valid(text):
        raise ValueError(f"{text!a} is no UUID of version 7, in lower case")
    return text


count = argument(_count)
natural = argument(_natural)
queue_name = argument(_queue_name)
new_job_id = argument(_job_id)


# --- the dispatcher ------------------------------------------------------------------

_CONNECTING = ("dispatcher", "password_file", "ca_file", "cert_sha256")


def add_dispatcher(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to reach the dispatcher, and whether there is
    colour."""
    group = parser.add_argument_group("before the command or behind it")
    option = group.add_argument
    unset = argparse.SUPPRESS
    option(
        "--dispatcher",
        metavar="ADDRESS",
        default=unset,
        help="harps://[USER@]HOST[:PORT], harp://..., unix:PATH, HOST[:PORT]; else "
        "what HARPCALLER_URL or /etc/harpcaller/client.toml says, or the socket "
        "/run/harpcaller/client",
    )
    option(
        "--password-file",
        metavar="FILE",
        default=unset,
        help="with the password in its first line, for USER in the address",
    )
    option("--ca-file", metavar="FILE", default=unset, help="authorities to trust")
    option(
        "--cert-sha256",
        metavar="HEX",
        default=unset,
        help="fingerprint of the one certificate to trust",
    )
    add_colour(group)


def add_colour(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default=argparse.SUPPRESS,
        help="otherwise on a terminal, unless NO_COLOR is set",
    )


def caller(options: argparse.Namespace) -> harp.HarpCaller:
    """Return the dispatcher that is meant.

    :raises UsageError: if that makes no sense
    """
    given = {name: getattr(options, name, None) for name in _CONNECTING}
    place = given.pop("dispatcher")
    try:
        if place is None or "://" in place:
            return harp.HarpCaller(place, **given)
        address = parse_address(place, protocol.CLIENT_PORT)
        if address.path is not None:
            return harp.HarpCaller(place, **given)
        return harp.HarpCaller(address.host, address.port, **given)
    except ValueError as error:
        raise UsageError(f"--dispatcher: {error}" if place else str(error)) from None


def command(options: argparse.Namespace, *words: str) -> str:
    """Return a command line that asks the same dispatcher something else, to be
    pasted."""
    import shlex  # here, because most commands don't need it

    again = [output.program()]
    for name in _CONNECTING:
        if (given := getattr(options, name, None)) is not None:
            again += [f"--{name.replace('_', '-')}", given]
    return shlex.join([*again, *words])


# --- jobs ----------------------------------------------------------------------------


def add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_id", metavar="JOB", help="the call's id")


def add_position(parser: argparse.ArgumentParser) -> None:
    position = parser.add_mutually_exclusive_group()
    position.add_argument(
        "--since", metavar="N", type=natural, help="number of the first value to print"
    )
    position.add_argument(
        "--recent",
        metavar="N",
        type=natural,
        help="how many of the values already there to print",
    )
    add_timestamps(parser)


def add_timestamps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timestamps",
        action="store_true",
        help="print before each value when the dispatcher got it",
    )


def add_interrupt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cancel-on-interrupt",
        action="store_true",
        help="at Ctrl-C cancel what is followed, in place of leaving it alone",
    )


def leave_at_next_interrupt() -> None:
    """Let the next Ctrl-C end this process at once, whatever it is doing then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def add_formats(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument(
        "--json", action="store_true", help="print one JSON document, at the end"
    )
    formats.add_argument(
        "--jsonl",
        action="store_true",
        help="print a line of JSON for each thing, as soon as it is there",
    )


# --- a call --------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ARGUMENTS_HELP
    parser.add_argument(
        "arguments", metavar="ARGUMENT", nargs="*", help="see below", default=[]
    )


def add_call(parser: argparse.ArgumentParser) -> None:
    """Add the options of a call."""
    option = parser.add_argument
    option(
        "--queue",
        metavar="JSON",
        type=queue_name,
        help="name of the queue to wait in, an object",
    )
    option(
        "--concurrency",
        metavar="N",
        type=count,
        help="calls of that queue that may run at a time (1)",
    )
    option(
        "--timeout",
        metavar="SECONDS",
        type=count,
        help="longest gap between two messages of the call",
    )
    option(
        "--max-exec-time",
        metavar="SECONDS",
        type=count,
        help="longest run of the call as a whole",
    )
    option("--info", metavar="VALUE", help="anything, kept with the call's status")
    option("--group", metavar="NAME", help="your name for calls that belong together")
    option(
        "--on-behalf-of",
        metavar="PERSON",
        help="for whom this is done, to be recorded",
    )
    option(
        "--secret",
        metavar="NAME",
        action="append",
        default=[],
        help="name of an argument, or its position from 1 on, that listings and logs "
        "are to mask; several times for several",
    )


def call_options(options: argparse.Namespace) -> dict:
    """Return the options of a call, as :meth:`harp.HarpCaller.host` takes them.

    :raises UsageError: if they don't go together
    """
    if options.concurrency is not None and options.queue is None:
        raise UsageError("--concurrency needs a --queue")
    names = ("queue", "concurrency", "timeout", "max_exec_time", "group")
    found = {name: getattr(options, name) for name in (*names, "on_behalf_of")}
    try:
        found["info"] = None if options.info is None else parse_value(options.info)
    except ValueError as error:
        raise UsageError(f"--info: {error}") from None
    return found


def call_arguments(options: argparse.Namespace) -> tuple[list, dict]:
    """Return a call's positional and named arguments, of which there is one kind only.

    :raises UsageError: if there can't be such a call
    """
    try:
        found = parse_arguments(options.arguments, _Words().value)
    except ValueError as error:
        raise UsageError(str(error)) from None
    secret = getattr(options, "secret", [])
    if isinstance(found, dict):
        for name in secret:
            if name not in found:
                raise UsageError(f"--secret: there is no argument {name}")
            found[name] = _secret(found[name])
        return [], found
    for name in secret:
        if not 1 <= _whole(name) <= len(found):
            raise UsageError(f"--secret: there is no argument {name}")
        found[int(name) - 1] = _secret(found[int(name) - 1])
    return found, {}


def _secret(value: object) -> harp.Secret:
    return value if isinstance(value, harp.Secret) else harp.Secret(value)


class _Words:
    """What the words of one command line mean."""

    def __init__(self) -> None:
        self._has_read_input = False

    def value(self, word: str) -> object:
        if word == "-":
            return _content(self._read_input(), "standard input")
        if not word.startswith("@"):
            return parse_value(word)
        path = word[1:]
        try:
            with open(path, "rb") as file:
                return _content(_read(file), path)
        except OSError as error:
            raise ValueError(f"{word}: can't be read: {error.strerror}") from None

    def _read_input(self) -> bytes:
        if self._has_read_input:
            raise ValueError("-: standard input can be one argument only")
        self._has_read_input = True
        if sys.stdin is None:
            raise ValueError("-: standard input is closed")
        try:
            return _read(sys.stdin.buffer)
        except OSError as error:
            reason = error.strerror
            raise ValueError(f"-: standard input can't be read: {reason}") from None


def _read(file: io.BufferedIOBase) -> bytes:
    return file.read(_MAX_CONTENT + 1)


def _content(data: bytes, where: str) -> object:
    if len(data) > _MAX_CONTENT:
        raise ValueError(f"{where}: is larger than {_MAX_CONTENT >> 20} MiB")
    try:
        return parse_value(data.decode())
    except UnicodeDecodeError:
        raise ValueError(f"{where}: is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
