"""The user and groups that a call runs as."""

from __future__ import annotations

import os

from ..accounts import Account, find
from ..proc import Procedure
from .control import Settings


def of_procedure(procedure: Procedure, settings: Settings) -> Account | None:
    """Return what calls of a procedure run as; None: as who we are.

    :raises LookupError: if there is no such user or group, or root would be meant
        without having been named
    """
    user, group = procedure.uid, procedure.gid
    if user is None:
        user = settings.user
        group = settings.group if group is None else group
    if user is None:
        if os.getuid() == 0:
            raise LookupError(
                "no user is configured for calls: set procedures.user, or give -u"
            )
        if group is None:
            return None
        user = os.getuid()
    return find(user, group)
