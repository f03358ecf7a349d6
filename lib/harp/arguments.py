"""A call's arguments as they stand on a command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from . import jsonline

_NAMED = re.compile(r"([^\W\d]\w*)=(.*)", re.DOTALL)


def parse_arguments(
    words: list[str], parse: Callable[[str], object] | None = None
) -> list | dict:
    """Return the arguments: a list, or a dict if they are NAME=VALUE.

    :param parse: says what a word means; None: :func:`parse_value`
    :raises ValueError: if they are both, or one can't be sent
    """
    parse = parse or parse_value
    matches = [_NAMED.fullmatch(word) for word in words]
    if not any(matches):
        return [parse(word) for word in words]
    named = {}
    for word, match in zip(words, matches, strict=True):
        if match is None:
            raise ValueError(
                f"{word!r}: arguments must be all NAME=VALUE or none; a string with "
                "= in it can be given as JSON, in quotes"
            )
        if match[1] in named:
            raise ValueError(f"argument {match[1]} is given twice")
        named[match[1]] = parse(match[2])
    return named


def parse_value(text: str) -> object:
    """Return what a word means: JSON where it is, else the text itself.

    :raises ValueError: for JSON that can't be sent
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError:
        return text
    except RecursionError:
        raise ValueError(f"an argument is nested too deep: {_shown(text)}") from None
    except ValueError:
        # Python's own limit on digits (sys.set_int_max_str_digits).
        raise ValueError("an argument is an integer of more than 4300 digits") from None
    try:
        jsonline.encode(value)  # says what JSON allows and we can't send
    except ValueError as error:
        reason = f"an argument can't be sent: {error}"
        raise ValueError(f"{reason}: {_shown(text)}") from None
    return value


def _shown(text: str) -> str:
    return ascii(text if len(text) < 50 else f"{text[:50]}...")


def _no_constant(name: str):
    raise json.JSONDecodeError("no JSON", name, 0)
