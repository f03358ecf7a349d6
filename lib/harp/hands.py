"""Whose hands files are in: what is run or believed, only root and the daemon's owner
may be able to write; what is secret, nobody else may read."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections import deque
from collections.abc import Collection, Iterator

_MAX_LINKS = 40  # as the kernel
_SECRET = "must not be readable by others"


def who_can_write(path: str, owner: int) -> list[str]:
    """Say which others than root and the owner can change what a path leads to: the
    file itself, its directories, and those of the symbolic links on the way.

    :param owner: number of the user who has started the daemon
    :returns: a line for each fault, with file and mode; none if it can't be looked at:
        whoever reads it says so
    """
    steps = []
    try:
        for step in _steps(path):
            steps.append(step)
        reached = True
    except OSError:
        reached = False
    faults = []
    for number, (step, status) in enumerate(steps, 1):
        is_end = reached and number == len(steps)
        reason = _who_writes(status, {0, owner}, is_end)
        if reason:
            faults.append(f"{step}: {reason} can write it ({_mode(status)})")
    return list(dict.fromkeys(faults))


def code_that_others_can_write(path: str, owner: int) -> list[str]:
    """The same for a file of code, or a directory with such files."""
    faults = who_can_write(path, owner)
    try:
        names = sorted(os.listdir(path))
    except OSError:
        names = []  # a file; or it can't be looked at
    for name in names:
        if name.endswith(".py"):
            faults += who_can_write(os.path.join(path, name), owner)
    return list(dict.fromkeys(faults))


def program_that_others_can_write(owner: int) -> list[str]:
    """The same for this program, if it is a single file (zip), which is copied by hand:
    at the next start it may be what others have made of it.

    :returns: lines that begin with ``program:``
    """
    single_file = getattr(__loader__, "archive", None)
    if single_file is None:
        return []
    return [f"program: {text}" for text in who_can_write(single_file, owner)]


def who_can_read(path: str, owner: int, groups: Collection[int]) -> list[str]:
    """Say if others than root, the owner and some groups can read a file.

    :param groups: numbers of those groups
    :returns: as for :func:`who_can_write`
    """
    try:
        status = os.stat(path)
    except OSError:
        return []
    mode, gid = status.st_mode, status.st_gid
    if stat.S_ISCHR(mode):
        return []
    if mode & stat.S_IROTH:
        return [f"{path}: {_SECRET} ({_mode(status)})"]
    if mode & stat.S_IRGRP and gid not in groups and _others_in(gid, {0, owner}):
        return [f"{path}: {_SECRET}, as group {_group_name(gid)} ({_mode(status)})"]
    return []


def _steps(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all that is passed on the way to a file, and the file."""
    parts = deque(os.path.abspath(path).split("/")[1:])
    here = "/"
    yield here, os.lstat(here)
    links = 0
    while parts:
        part = parts.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, part)
        status = os.lstat(step)
        yield step, status
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        links += 1
        if links > _MAX_LINKS:
            return
        target = os.readlink(step)
        if target.startswith("/"):
            here = "/"
        parts.extendleft(reversed(target.split("/")))


def _who_writes(status: os.stat_result, allowed: set[int], is_end: bool) -> str:
    if status.st_uid not in allowed:
        return f"its owner, {_user_name(status.st_uid)},"
    mode = status.st_mode
    if stat.S_ISLNK(mode) or stat.S_ISCHR(mode):
        return ""  # the mode of a link, or of /dev/null, means nothing
    if mode & stat.S_ISVTX and stat.S_ISDIR(mode) and not is_end:
        return ""  # there others can add, but not replace what is not theirs
    if mode & stat.S_IWOTH:
        return "everybody"
    # Where every user has a group of their own, files can be written by it.
    if mode & stat.S_IWGRP and _others_in(status.st_gid, allowed):
        return f"group {_group_name(status.st_gid)}"
    return ""


def _others_in(gid: int, allowed: set[int]) -> bool:
    """Tell whether a group has other members than those users."""
    try:
        names = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return True  # nobody knows who they are
    primary = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    return bool((primary | {_user_number(name) for name in names}) - allowed)


def _user_number(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return -1


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _mode(status: os.stat_result) -> str:
    mode = stat.S_IMODE(status.st_mode)
    return f"mode {mode:04o}, owner {_user_name(status.st_uid)}"
