"""How the directory of the job log is laid out, and what the names in it mean.

::

    lock                               held by the dispatcher that runs
    format                             version of this layout
    active/<job id>.jsonl              not ended
    done/2026-11-23T18/<job id>.jsonl  ended; the hour (UTC) is the job id's
    corrupt/                           what could not be read, set aside
"""

from __future__ import annotations

import calendar
import functools
import heapq
import os
import re
import time
from collections.abc import Iterator

from .. import jobid
from .disk import StorageError

LAYOUT = 1

LOCK = "lock"
FORMAT_FILE = "format"
ACTIVE = "active"
DONE = "done"
CORRUPT = "corrupt"
NEW = ".new"
"""Ends the name of a file that is not whole yet."""
_SUFFIX = ".jsonl"
AFTER_ALL = "g"
"""No job id sorts after this."""
_HOUR_FORM = "%Y-%m-%dT%H"
_HOUR = re.compile("([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2})")
_SORTED_FIRST = 2000  # names in a directory


def file_name(job_id: str) -> str:
    """Return the name of a job's file, in whichever directory."""
    return job_id + _SUFFIX


def job_of(name: str) -> str | None:
    """Return the job that a file is of, None if no such file has that name."""
    job_id = name.removesuffix(_SUFFIX)
    return job_id if job_id != name and jobid.is_valid(job_id) else None


def new_name(job_id: str) -> str:
    """Return the name of a job's file, or a copy of it, that is not whole yet."""
    return f".{job_id}{NEW}"


def hour_of(job_id: str) -> str:
    """Return the name of the directory in ``done`` that a job belongs to."""
    return _name_of_hour(int(jobid.time_of(job_id)) // 3600)


@functools.lru_cache(maxsize=64)
def _name_of_hour(number: int) -> str:
    """The name of an hour's directory; hours count from the epoch."""
    return time.strftime(_HOUR_FORM, time.gmtime(number * 3600))


def begin_of_hour(name: str) -> int | None:
    """Return when the hour of a directory in ``done`` begins, in seconds since the
    epoch; None if it isn't the name of one."""
    match = _HOUR.fullmatch(name)
    if match is None:
        return None
    year, month, day, hour = map(int, match.groups())
    try:
        # time.strptime would load a module now, which takes a descriptor.
        begin = calendar.timegm((year, month, day, hour, 0, 0))
    except ValueError:
        return None
    return begin if _name_of_hour(begin // 3600) == name else None


def is_new(name: str) -> bool:
    """Tell whether a name is one that :func:`new_name` makes."""
    return (
        name.startswith(".")
        and name.endswith(NEW)
        and jobid.is_valid(name[1:].removesuffix(NEW))
    )


def ids_in(path: str, before: str = AFTER_ALL, least: str = "") -> Iterator[str]:
    """The job ids in a directory, newest first; none if it is no directory. It is
    looked into at once.

    :param before: only those that sort before this
    :param least: only those that don't sort before this
    """
    try:
        names = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        names = []
    names = [name for name in names if least <= name < before]
    return _valid_ids(names)


def _valid_ids(names: list[str]) -> Iterator[str]:
    # There may be a million, and who asks may want a hundred: sorted as far as needed.
    count = _SORTED_FIRST
    while names:
        newest = heapq.nlargest(count, names)
        for name in newest:
            if (job_id := job_of(name)) is not None:
                yield job_id
        names = [name for name in names if name < newest[-1]]
        count *= 8


def check(directory: str) -> list[str]:
    """Return why a start would refuse the directory, as far as its layout tells; a line
    for each fault. Nothing is made."""
    try:
        has_format(os.path.join(directory, FORMAT_FILE))
    except StorageError as error:
        return [f"stream_directory: {error}"]
    except OSError as error:
        return [f"stream_directory: {error.filename}: {error.strerror}"]
    return []


def has_format(path: str) -> bool:
    """Tell whether the file that names the layout is there.

    :raises StorageError: if it names another one
    :raises OSError: if it can't be read
    """
    try:
        with open(path, "rb") as file:
            text = file.read(100).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return False
    if text != str(LAYOUT):
        raise StorageError(
            f"{path}: layout {text[:20]!r}, but this program knows {LAYOUT} only; "
            "run the version that wrote it"
        )
    return True
