"""Connections to the dispatcher: made, kept for the next request, and taken again.

Threads share a :class:`Connections`, and a forked process may go on with its copy: what
its parent has opened it leaves alone. There is no lock that a fork could find taken:
the kept connections are in a deque, whose steps are atomic.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque

from . import protocol, wire
from .channel import Channel
from .errors import SHUTDOWN, ConnectFailed, ConnectionLost, RequestRefused
from .settings import DEFAULT_URL, Settings

MAX_KEPT = 8
"""Connections that are kept for later, unless asked for otherwise."""

# Less than the dispatcher's own patience (limits.idle_timeout), which is 300 s.
IDLE_TIME = 60
"""Seconds that a connection is kept unused, unless asked for otherwise."""

_FIRST_PAUSE = 0.05  # s
_LONGEST_PAUSE = 2.0  # s


class Patience:
    """How long something that fails is tried again, with growing pauses. Time counts
    from the first failure.

    :param settings: says how long
    :param resumes: what was lost on its way is worth more patience than what was never
        sent: a call that may have been accepted, a wait that had begun
    :param deadline: on the monotonic clock, when it is over in any case; None: never
    """

    def __init__(
        self, settings: Settings, resumes: bool = False, deadline: float | None = None
    ) -> None:
        self._settings = settings
        self._resumes = resumes
        self._deadline = deadline
        self._seconds = settings.timeouts["retry_for"]
        self.renew()

    def renew(self) -> None:
        """All goes well: the next failure is the first one."""
        self._failed_at: float | None = None
        self._pause = _FIRST_PAUSE

    def goes_on(self, error: Exception) -> bool:
        """Pause before the next try; False: there is none."""
        if not _is_temporary(error):
            return False
        if self._resumes and not isinstance(error, ConnectFailed):
            self._seconds = max(self._seconds, self._settings.timeouts["resume_for"])
        now = time.monotonic()
        if self._failed_at is None:
            self._failed_at = now
        end = self._failed_at + self._seconds
        if self._deadline is not None:
            end = min(end, self._deadline)
        if now + self._pause > end:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True


def _is_temporary(error: Exception) -> bool:
    """Tell whether it may help to do the same again."""
    if isinstance(error, ConnectFailed):
        return error.is_temporary
    return isinstance(error, ConnectionLost) or (
        isinstance(error, RequestRefused) and error.type == SHUTDOWN
    )


class Connections:
    """Connections to one dispatcher.

    :param settings: how to reach it
    :param most: so many are kept at most while nobody uses them; how many are in use is
        up to the threads
    :param idle_time: seconds that one is kept unused
    """

    def __init__(self, settings: Settings, most: int, idle_time: float) -> None:
        self._settings = settings
        self._most = most
        self._idle_time = idle_time
        # Pairs of a channel and when it was put there, the latest one last.
        self._kept: deque[tuple[Channel, float]] = deque()

    def take(self) -> Channel | None:
        """Return a connection that was kept and can be used again, None if there is
        none."""
        while True:
            try:
                channel, since = self._kept.pop()
            except IndexError:
                return None
            if time.monotonic() - since < self._idle_time and channel.is_usable():
                return channel
            channel.close()

    def keep(self, channel: Channel) -> None:
        """Put a connection back whose last reply has been read to its end."""
        now = time.monotonic()
        if channel.is_usable():
            self._kept.append((channel, now))
        else:
            channel.close()
        # The oldest are at the left; they go first, for number and for age.
        while self._kept:
            try:
                oldest, since = self._kept.popleft()
            except IndexError:
                return
            if len(self._kept) < self._most and now - since < self._idle_time:
                self._kept.appendleft((oldest, since))
                return
            oldest.close()

    def open(self, message: dict, deadline: float | None = None) -> Channel:
        """Connect, send a request, and return the connection that the reply comes on.

        :param deadline: on the monotonic clock; None: as configured
        :raises CommunicationError: if it fails
        :raises ConfigurationError: if the ``ca_file`` can't be used
        """
        settings = self._settings
        end = time.monotonic() + settings.timeouts["connect_timeout"]
        deadline = end if deadline is None else min(deadline, end)
        if settings.trust is not None:
            settings.trust.load()
        channel = Channel(settings.address, deadline, self._advise)
        try:
            if settings.trust is not None:
                settings.trust.secure(channel, deadline)
            if settings.user is not None:
                message = protocol.with_auth(message, settings.user, settings.password)
            channel.send(wire.encode(message))
        except BaseException:
            channel.close()
            raise
        return channel

    def close(self) -> None:
        """Close those that are kept."""
        while (channel := self.take()) is not None:
            channel.close()

    def _advise(self, number: int | None) -> str:
        """What to do about a dispatcher that can't be reached."""
        path = self._settings.address.path
        if path is None:
            if number != errno.ECONNREFUSED:
                return ""
            return (
                "; does the dispatcher's 'listen' name this address? Unless configured "
                f"otherwise it is at {DEFAULT_URL}, where HarpCaller() finds it"
            )
        if number in (errno.EACCES, errno.EPERM):
            group = _group(path)
            if group is None:
                return "; only those may whom the dispatcher's 'listen' names"
            return (
                f"; only members of the group {group!r} may: usermod -aG {group} USER, "
                "then log in again"
            )
        if number in (errno.ENOENT, errno.ECONNREFUSED):
            return "; is the dispatcher running on this machine?"
        return ""


def _group(path: str) -> str | None:
    """Name the group whose members may open a socket; None: nobody should be told to
    join it."""
    import grp

    for name in (path, os.path.dirname(path)):
        try:
            gid = os.stat(name).st_gid
            return grp.getgrgid(gid).gr_name if gid != 0 else None
        except (OSError, KeyError):
            continue
    return None
