"""What the command prints and how it exits."""

from __future__ import annotations

import io
import os
import sys

import harp
from harp import errors, protocol, wire
from harp.commandline import USAGE, one_line, put, silence  # noqa: F401
from harp.protocol.parts import error_object

RAISED = 1
CANCELLED = 3
NOT_CARRIED_OUT = 4
SOME_FAILED = 20
UNREACHABLE = 69
UNWRITABLE = 74
NOT_FINISHED = 75
NOT_ALLOWED = 77
MISCONFIGURED = 78
TIMEOUT = 124
INTERRUPTED = 130
BROKEN_PIPE = 141  # as the shell says it of a command that SIGPIPE has ended

STATUSES = dict.fromkeys(errors.ERROR_TYPES, NOT_CARRIED_OUT) | {
    errors.AUTH_ERROR: NOT_ALLOWED,
    errors.NETWORK_ERROR: UNREACHABLE,
    errors.TIMEOUT: TIMEOUT,
}
"""The exit status for each type of error, wherever it comes from. A type that isn't
here is another version's: :data:`NOT_CARRIED_OUT`."""

COLOURS = {"bad": "\x1b[1;31m", "title": "\x1b[1m"}
_PLAIN = "\x1b[0m"


class UsageError(Exception):
    """Raised when what was asked for makes no sense: says what is wrong."""


# --- standard output: data ----------------------------------------------------------


def value(item: object) -> None:
    """Print a value as a line of JSON, in UTF-8 whatever the locale is."""
    line(wire.encode(item))


def line(data: bytes) -> None:
    """Print a line that ends as one.

    :raises OSError: if it can't be printed
    """
    put(data)


def text(words: str) -> None:
    """Print a line that is no JSON."""
    # What the locale can't say is escaped: it is no reason to fail.
    line((one_line(words) + "\n").encode(encoding(), "backslashreplace"))


def encoding() -> str:
    return (sys.stdout is not None and sys.stdout.encoding) or "utf-8"


# --- standard error: everything else ------------------------------------------------


def program() -> str:
    """Return the name to call this command by again: as it was called."""
    return sys.argv[0] if "/" in sys.argv[0] else "harpcaller"


def note(text: str) -> None:
    """Tell the user something that is no data, on a line."""
    _tell(one_line(text))


def fail(status: int, text: str) -> int:
    """Tell the user what is wrong and return the exit status."""
    name = coloured("harpcaller:", "bad", sys.stderr)
    _tell(f"{name} {one_line(text)}")
    return status


def _tell(line: str) -> None:
    # What can't be told changes neither the data nor the exit status.
    if sys.stderr is not None:  # else print() would take standard output
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            silence(sys.stderr)


def confirms(question: str) -> bool:
    """Ask whoever is at the terminal. Whatever else than yes is typed, in whatever
    encoding, means no."""
    print(one_line(question), end="", file=sys.stderr, flush=True)
    return sys.stdin.buffer.readline().strip().lower() in (b"y", b"yes")


def coloured(text: str, colour: str, stream: io.TextIOBase | None) -> str:
    """Return a text in a colour, if there is to be colour.

    :param colour: one of :data:`COLOURS`
    :param stream: that it goes to
    """
    return f"{COLOURS[colour]}{text}{_PLAIN}" if has_colour(stream) else text


def has_colour(stream: io.TextIOBase | None) -> bool:
    """Tell whether there is to be colour: as the environment says, else on a terminal.
    ``--color`` sets these variables, which other programs know as well."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return is_terminal(stream) and can_erase()


def can_erase() -> bool:
    """Tell whether a terminal knows how to change what it shows."""
    return os.environ.get("TERM", "dumb") != "dumb"


def set_colour(when: str) -> None:
    """Have colour ``always``, ``never``, or as the environment says (``auto``)."""
    if when == "never":
        os.environ["NO_COLOR"] = "1"
    elif when == "always":
        os.environ.pop("NO_COLOR", None)
        os.environ["CLICOLOR_FORCE"] = "1"


def is_terminal(stream: io.TextIOBase | None) -> bool:
    """:param stream: None: it was closed when we started"""
    return stream is not None and stream.isatty()


# --- how a call ended ---------------------------------------------------------------


def outcome(result: object) -> int:
    """Print how a call ended, as :meth:`harp.RemoteCall.result` returns it, and return
    the exit status."""
    problem = describe(result)
    if problem is not None:
        return fail(status_of(result), problem)
    value(result)
    return 0


def status_of(result: object) -> int:
    """Return the exit status for how a call ended."""
    if result is harp.CALL_NOT_FINISHED:
        return NOT_FINISHED
    if result is harp.CALL_CANCELLED:
        return CANCELLED
    if isinstance(result, harp.RemoteException):
        return RAISED
    if isinstance(result, harp.RemoteError):
        return STATUSES.get(result.type, NOT_CARRIED_OUT)
    if isinstance(result, harp.CommunicationError):
        # A socket that this user may not open: the system's error is behind ours.
        is_denied = isinstance(result.__context__, PermissionError)
        return NOT_ALLOWED if is_denied else UNREACHABLE
    return 0


def describe(result: object) -> str | None:
    """Say how a call ended; None: it came to its result."""
    if result is harp.CALL_NOT_FINISHED:
        return "the call has not ended"
    if result is harp.CALL_CANCELLED:
        return "the call was cancelled"
    if isinstance(result, harp.RemoteException):
        return f"the procedure raised {result}"
    if isinstance(result, harp.RemoteError):
        return f"{result}" + (f" (ran: {result.ran})" if result.ran else "")
    return str(result) if isinstance(result, harp.HarpException) else None


def as_message(result: object) -> dict:
    """Return how a call ended as it stands in the protocol."""
    if result is harp.CALL_NOT_FINISHED:
        return protocol.build_no_result()
    if result is harp.CALL_CANCELLED:
        end = protocol.End(protocol.CANCELLED, True)
    elif isinstance(result, harp.RemoteException):
        error = error_object(result.type, result.message, result.data)
        end = protocol.End(protocol.EXCEPTION, error)
    elif isinstance(result, harp.RemoteError):
        error = error_object(result.type, result.message, result.data, result.ran)
        end = protocol.End(protocol.ERROR, error)
    else:
        end = protocol.End(protocol.RESULT, result)
    return protocol.build_end(end)


def abandon(status: int = BROKEN_PIPE) -> int:
    """Print nothing any more, as it can't be, and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            silence(stream)
    return status
