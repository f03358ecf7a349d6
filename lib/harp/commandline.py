"""What the commands of this project have in common on their command lines: a usage
error is one line, and what comes from elsewhere can't leave its line."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys

USAGE = 2
"""Exit status for a command line that makes no sense."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, and where the help is. Takes
    no options that are cut short: which ones these are would change with each new one.
    """

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str):
        """Say what is wrong, and exit with status 2."""
        if sys.stderr is not None:  # None: it was closed when we started
            text = one_line(f"{self.prog}: {message}; see {self.prog} --help")
            try:
                print(text, file=sys.stderr, flush=True)
            except OSError:
                pass  # nobody reads it
        raise SystemExit(USAGE)


def put(data: bytes) -> None:
    """Write data to standard output, now.

    :param data: empty: see whether standard output is open
    :raises OSError: if that can't be done; nothing goes there any more then
    """
    if sys.stdout is None:  # it was closed when we started
        raise OSError(errno.EBADF, "standard output is closed")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError:
        silence(sys.stdout)
        raise


def silence(stream: io.TextIOBase) -> None:
    """Print nothing there any more, as it can't be."""
    # Python flushes it at its exit, and would complain.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def one_line(text: str) -> str:
    """Return a text from elsewhere so that it stays on its line and can't control the
    terminal."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )
