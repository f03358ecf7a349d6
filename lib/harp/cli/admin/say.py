"""What harpcallerd says that is no data: lines on standard error that begin with its
name."""

from __future__ import annotations

from .. import output

NAME = "harpcallerd"


def say(*texts: str) -> None:
    """Say something, each text on a line."""
    for text in texts:
        output.note(f"{NAME}: {text}")


def fail(*texts: str, status: int = output.NOT_CARRIED_OUT) -> int:
    """Say what is wrong and return the exit status."""
    say(*texts)
    return status
