"""Who may log in: the users of a password file, which ``harpcallerd passwd FILE USER``
writes. A change counts at once."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator

from harp.auth.delays import Delays
from harp.auth.password_file import PasswordFile
from harp.linefile import read_lines
from harp.watched import WatchedFile

_AT_A_TIME = 2  # logins: a password takes 16 MiB and 50 ms of a processor, then a pause
_LONGEST_DELAY = 10.0  # s: the thread that waits is one of the server's


class TooMany(Exception):
    """Raised when others log in, and this one has to come again."""


class Users:
    """The users of a file. Any thread may ask.

    :param delay: seconds that the answer to a wrong password takes at first
    :raises OSError: if the file can't be read
    """

    def __init__(self, path: str, delay: float) -> None:
        self._passwords = PasswordFile(path)
        self._lines = WatchedFile(path, read_lines)
        self._delay = delay
        # Failures are counted in each process by itself.
        self._delays = Delays()
        self._turns = threading.BoundedSemaphore(_AT_A_TIME)

    def log_in(self, user: str, password: str, address: str) -> bool:
        """Tell whether this is a user with that password. If not, it takes a while,
        longer each time.

        :param address: where they are, as far as known
        :raises TooMany: if others try, too; nothing was looked at
        """
        with self._turn():
            # An unknown user takes as long as one that there is.
            if self._passwords.authenticate(user, password):
                return True
            delay = self._delays.note_failure(
                address, user, self._delay, _LONGEST_DELAY
            )
            time.sleep(delay)
            return False

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        # Without waiting: those who guess would hold all threads of the server.
        if not self._turns.acquire(blocking=False):
            raise TooMany
        try:
            yield
        finally:
            self._turns.release()

    def fingerprint(self, user: str) -> bytes | None:
        """Return what changes when the user's password does; None: there is no such
        user."""
        prefix = f"{user}:"
        lines = [line for line in self._lines.content() if line.startswith(prefix)]
        if not user or user.startswith("#") or not lines:
            return None
        text = "\n".join(lines).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text).digest()
