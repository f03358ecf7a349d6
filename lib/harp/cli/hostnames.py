"""Hosts as they are named on the command line: ``web01``, ``web01,web02``, ``web*``."""

from __future__ import annotations

import harp
from harp import protocol

from . import options as cli_options
from . import output


def is_several(text: str) -> bool:
    """Tell whether a HOST is more than one, or a pattern."""
    return "," in text or _is_pattern(text)


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def find_hosts(caller: harp.HarpCaller, text: str) -> list[str]:
    """Return the hosts that are meant by ``web01,db*``. Names are taken as they are,
    patterns stand for what the dispatcher knows.

    :raises UsageError: if there is none, or none that a pattern fits
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise output.UsageError(f"{text!a}: a host's name is missing")
    if not _is_pattern(text):
        return list(dict.fromkeys(parts))
    from fnmatch import fnmatchcase

    known = list_hosts(caller)
    found: dict[str, None] = {}
    for part in parts:
        fitting = [name for name in known if fnmatchcase(name, part)]
        if not fitting and _is_pattern(part):
            raise output.UsageError(f"the dispatcher knows no host like {part!a}")
        found |= dict.fromkeys(fitting or [part])
    return list(found)


def list_hosts(
    caller: harp.HarpCaller, timeout: float = cli_options.REPLY_SECONDS
) -> list[str]:
    """Return the names of all hosts that the dispatcher tells us of, sorted.

    :param timeout: seconds
    """
    reply = caller.request(protocol.build_list_hosts(), timeout)
    return sorted(map(protocol.host_name, protocol.parse_host_list(reply)))
