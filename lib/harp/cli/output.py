"""What the command prints and how it exits."""

from __future__ import annotations

import os
import sys

import harp
from harp import errors, wire

RAISED = 1
CANCELLED = 3
NOT_CARRIED_OUT = 4
UNREACHABLE = 69
UNWRITABLE = 74
NOT_FINISHED = 75
MISCONFIGURED = 78
TIMEOUT = 124
INTERRUPTED = 130
BROKEN_PIPE = 141  # as the shell says it of a command that SIGPIPE has ended


def value(item: object) -> None:
    """Print a value as a line of JSON, in UTF-8 whatever the locale is."""
    if sys.stdout is not None:  # None: the descriptor was closed when we started
        sys.stdout.buffer.write(wire.encode(item))
        sys.stdout.buffer.flush()


def program() -> str:
    """Return the name to call this command by again: as it was called."""
    return sys.argv[0] if "/" in sys.argv[0] else "harpcaller"


def note(text: str) -> None:
    """Tell the user something that is no data, on a line."""
    print(one_line(text), file=sys.stderr, flush=True)


def fail(status: int, text: str) -> int:
    """Tell the user what is wrong and return the exit status."""
    note(f"harpcaller: {text}")
    return status


def outcome(result: object) -> int:
    """Print how a call ended, as :meth:`harp.RemoteCall.result` returns it, and return
    the exit status."""
    if result is harp.CALL_NOT_FINISHED:
        return fail(NOT_FINISHED, "the call has not ended")
    if result is harp.CALL_CANCELLED:
        return fail(CANCELLED, "the call was cancelled")
    if isinstance(result, harp.RemoteException):
        return fail(RAISED, f"the procedure raised {result}")
    if isinstance(result, harp.RemoteError):
        ran = "" if result.ran is None else f" (ran: {result.ran})"
        status = TIMEOUT if result.type == errors.TIMEOUT else NOT_CARRIED_OUT
        return fail(status, f"{result}{ran}")
    value(result)
    return 0


def one_line(text: str) -> str:
    """Return a text from elsewhere so that it stays on its line and can't control the
    terminal."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )


def abandon() -> int:
    """Nobody reads our output any more: say nothing about it, and return the exit
    status."""
    # Python flushes standard output at its exit, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
