"""Listings: a table for people where standard output is a terminal, elsewhere, or when
asked for, a line of JSON for each entry."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence

from . import output

_GAP = "  "
_NARROWEST = 6  # characters that a column is cut to at most
_WIDTH = 80  # of a terminal that doesn't say
_MEASURED = 1000
"""Rows that say how wide the columns are. With all of them, nothing of a listing of a
million entries would show before its end."""


class Column(namedtuple("Column", ("title", "cell", "whole"), defaults=(False,))):
    """A column of a table.

    :ivar title: what stands above it
    :ivar cell: what stands in it, of an entry: a text, from wherever it is; a number;
        None: nothing. A column with numbers is flush right
    :ivar whole: never cut, whatever the width of the terminal is: an id, for example
    """

    __slots__ = ()


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--json``, which is ``options.json``."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON on a terminal, too"
    )


def is_for_people(as_json: bool) -> bool:
    """Tell whether what is printed is read by people.

    :param as_json: JSON was asked for
    """
    return not as_json and sys.stdout is not None and sys.stdout.isatty()


def show(
    rows: Iterable,
    columns: Sequence[Column],
    as_json: bool,
    view: Callable[[object], object] = lambda row: row,
) -> None:
    """Print a listing.

    :param rows: JSON values, which are printed as they are; may be an iterator, of
        which each is printed as soon as it is there
    :param as_json: JSON is asked for, whatever standard output is
    :param view: makes of a row what the columns' cells are taken from
    """
    if not is_for_people(as_json):
        for row in rows:
            output.value(row)
        return
    for text in lines(map(view, rows), columns, terminal_width(sys.stdout)):
        output.text(text)


def lines(rows: Iterable, columns: Sequence[Column], width: int) -> Iterator[str]:
    """Iterate over the lines of a table; without a row, there are none.

    :param rows: what the columns' cells are taken from
    :param width: of the terminal, in characters
    """
    cells = ([column.cell(row) for column in columns] for row in rows)
    first = list(itertools.islice(cells, _MEASURED))
    if not first:
        return
    whole = [column.whole for column in columns]
    right = [any(map(_is_number, column)) for column in zip(*first)]
    titles = [column.title for column in columns]
    columns_of_cells = zip(titles, *first)
    widths = [max(len(_text(cell)) for cell in found) for found in columns_of_cells]
    widths = _fit(widths, whole, width)
    for row in itertools.chain([titles], first, cells):
        texts = map(_padded, row, widths, whole, right)
        yield _GAP.join(texts).rstrip()


def show_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print for people what is known of one thing, a line for each.

    :param fields: name and value, as a cell; those that are None are left out
    """
    known = [(name, _text(value)) for name, value in fields if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, text in known:
        output.text(f"{name:{width}}{_GAP}{text}")


def moment(seconds: float | None) -> str | None:
    """Return a time for people: in their time zone.

    :param seconds: since the epoch; None: there is none
    """
    if seconds is None:
        return None
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return str(seconds)  # beyond what a calendar holds


def span(seconds: float | None) -> str | None:
    """Return a duration for people, in its two largest units: ``2h 05m``."""
    if seconds is None:
        return None
    left = max(0, round(seconds))
    for size, unit, smaller_size, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if left >= size:
            rest = left % size // smaller_size
            return f"{left // size}{unit} {rest:02}{smaller}"
    return f"{left}s"


def _text(cell: object) -> str:
    return "" if cell is None else output.one_line(str(cell))


def _fit(widths: list[int], whole: list[bool], width: int) -> list[int]:
    """Take from the widest column until all fit in the terminal, or no more can be
    taken."""
    most = width - len(_GAP) * (len(widths) - 1)
    while sum(widths) > most:
        cuttable = [
            (width, index)
            for index, width in enumerate(widths)
            if not whole[index] and width > _NARROWEST
        ]
        if not cuttable:
            break
        widths[max(cuttable)[1]] -= 1
    return widths


def terminal_width(stream) -> int:
    """Return how many characters a line of a terminal holds just now."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH
    except (OSError, ValueError):
        return _WIDTH


def _padded(cell: object, width: int, whole: bool, right: bool) -> str:
    text = _text(cell)
    if len(text) > width and not whole:
        text = text[: width - 1] + _mark()
    return text.rjust(width) if right else text.ljust(width)


def _is_number(cell: object) -> bool:
    return isinstance(cell, (int, float))


def _mark() -> str:
    """What says that a cell was cut."""
    return "…" if "utf" in output.encoding().lower() else "~"
