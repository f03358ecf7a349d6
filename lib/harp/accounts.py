"""The users and groups that processes of ours run as."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections import namedtuple
from collections.abc import Iterator


def name_or_number(text: str) -> str | int:
    """Return a user or group as the command line names it."""
    return int(text) if text.isascii() and text.isdigit() else text


class Account(namedtuple("Account", ("uid", "gid", "groups", "name", "home"))):
    """A user with groups.

    :ivar groups: numbers of all groups, the primary one among them
    :ivar name: None if the number has no name
    """

    __slots__ = ()


def find(user: str | int, group: str | int | list | tuple | None) -> Account:
    """Return the account of a user.

    :param user: name or number
    :param group: name or number, then the only one; a list of them, the first being
        the primary one; None: the user's own groups
    :raises LookupError: if there is no such user or group; the text says so
    """
    try:
        entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError):
        if not isinstance(user, int):
            raise LookupError(f"no user is called {user!r}") from None
        entry = None
    if group is not None:
        several = group if isinstance(group, (list, tuple)) else [group]
        groups = [group_number(one) for one in several]
        gid = groups[0]
    elif entry is not None:
        gid = entry.pw_gid
        groups = os.getgrouplist(entry.pw_name, gid)
    else:
        raise LookupError(f"user {user} is not in the user database: set its group")
    if entry is None:
        return Account(user, gid, groups, None, "/")
    return Account(entry.pw_uid, gid, groups, entry.pw_name, entry.pw_dir)


def group_number(group: str | int) -> int:
    """Return the number of a group.

    :param group: name or number
    :raises LookupError: if there is no such group; the text says so
    """
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise LookupError(f"no group is called {group!r}") from None


def become(account: Account) -> None:
    """Make this process that user, for ever.

    :raises OSError: if it isn't allowed
    """
    if os.getuid() != 0 and _is_already(account):
        return
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    # Something between us and the kernel may say yes and do nothing.
    if not _is_already(account) or set(os.getgroups()) != set(account.groups):
        raise PermissionError("user and groups did not change")
    if account.uid != 0:
        _check_root_is_gone()


def _check_root_is_gone() -> None:
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return
    raise PermissionError("user could become root again")


def can_become(account: Account) -> bool:
    """Tell whether this process may become that user."""
    return os.getuid() == 0 or _is_already(account)


@contextlib.contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """Open files as that user would, for a while. Only where there is no other thread.

    :param account: None: nothing changes
    :raises OSError: if it isn't allowed
    """
    if account is None or os.geteuid() != 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    try:
        os.setgroups(account.groups)
        os.setegid(account.gid)
        os.seteuid(account.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def _is_already(account: Account) -> bool:
    uid, gid = account.uid, account.gid
    return os.getresuid() == (uid, uid, uid) and os.getresgid() == (gid, gid, gid)
