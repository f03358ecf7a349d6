"""Who is who, for both daemons. A backend is a module with
``create(config)``, which returns an object with ``authenticate(user, password) ->
bool`` and raises :class:`harp.config.ConfigError` if what the configuration names can't
be used. Those that are always there are in this package; further ones of harpd are
named in ``auth.backends``.

An object that has a method ``version()`` too, whose value changes when its users do,
is not asked again for a password that it has accepted a while ago.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ..config import ConfigError, DaemonConfig, DispatcherConfig
from ..errors import OVERLOADED, Refusal
from ..log import fields
from . import config_users, password_file

logger = logging.getLogger(__name__)

_HASHES = 2  # at a time: each may take 100 ms of a processor and 256 MiB
_MAX_VERIFIED = 1000  # users and passwords, some 200 bytes each
_LOOK_UP = 0.25  # s between two looks whether the one who waits is still wanted


class Authenticator:
    """All backends of a configuration. Any thread may ask.

    :param further: names of modules that are backends, too
    :param clock: tells monotonic time
    :raises ConfigError: if one can't be used
    """

    def __init__(
        self,
        config: DaemonConfig | DispatcherConfig,
        further: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._remember = config.auth_remember
        self._backends = _create_backends(config, further)
        self._hashing = threading.BoundedSemaphore(_HASHES)
        self._key = secrets.token_bytes(32)
        # Guards the verified ones: by keyed digest the backend, its version and when
        # the entry ends.
        self._lock = threading.Lock()
        self._verified: OrderedDict[bytes, tuple[object, object, float]] = OrderedDict()

    def authenticate(
        self,
        user: str,
        password: str,
        deadline: float,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Tell whether one of the backends knows that user with that password.

        :param deadline: on the monotonic clock, to have a turn
        :param is_unwanted: tells whether nobody waits for the answer any more
        :raises Refusal: if it comes to no turn
        """
        digest = self._digest(user, password)
        if self._is_verified(digest):
            return True
        while not self._hashing.acquire(timeout=_LOOK_UP):
            if is_unwanted() or time.monotonic() >= deadline:
                raise Refusal(OVERLOADED, "too many passwords are being verified")
        try:
            return self._ask(user, password, digest)
        finally:
            self._hashing.release()

    def _ask(self, user: str, password: str, digest: bytes) -> bool:
        for backend in self._backends:
            version = _version(backend)
            try:
                if not backend.authenticate(user, password):
                    continue
            except MemoryError:
                raise Refusal(OVERLOADED, "no memory to verify a password") from None
            except Exception:  # of whoever wrote it; it doesn't let anybody in
                logger.exception("backend failed %s", fields(backend=repr(backend)))
                continue
            if version is not None:
                self._remember_it(digest, backend, version)
            return True
        return False

    # --- verified ones ---

    def _digest(self, user: str, password: str) -> bytes:
        encoded = user.encode("utf-8", "surrogatepass")
        data = b"%d:%b" % (len(encoded), encoded)
        data += password.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, key=self._key, digest_size=32).digest()

    def _is_verified(self, digest: bytes) -> bool:
        with self._lock:
            backend, version, until = self._verified.get(digest, (None, None, 0.0))
        if backend is None:
            return False
        if self._clock() < until and _version(backend) == version:
            return True
        with self._lock:
            self._verified.pop(digest, None)
        return False

    def _remember_it(self, digest: bytes, backend: object, version: object) -> None:
        with self._lock:
            self._verified[digest] = backend, version, self._clock() + self._remember
            if len(self._verified) > _MAX_VERIFIED:
                self._verified.popitem(last=False)


def _version(backend: object) -> object:
    """Return what changes when the users of a backend do; None: nobody knows."""
    version = getattr(backend, "version", None)
    return None if version is None else version()


def _create_backends(
    config: DaemonConfig | DispatcherConfig, further: Sequence[str]
) -> list:
    creators = {"users": config_users.create}
    if config.password_file is not None:
        creators["password_file"] = password_file.create
    for name in further:
        creators[name] = functools.partial(_create_further, name)
    backends, faults = [], []
    for name, create in creators.items():
        try:
            backends.append(create(config))
        except ConfigError as error:
            faults += error.faults
        except Exception as error:  # of whoever wrote it
            faults.append(f"auth.backends: {name}: {type(error).__name__}: {error}")
    if faults:
        raise ConfigError(faults)
    return backends


def _create_further(name: str, config: DaemonConfig | DispatcherConfig):
    return importlib.import_module(name).create(config)
