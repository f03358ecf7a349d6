"""Who may call. A backend is a module here with ``create(config)``, which returns an
object with ``authenticate(user, password) -> bool`` and raises
:class:`harp.config.ConfigError` if what the configuration names can't be used.
"""

from __future__ import annotations

from ...config import DaemonConfig
from . import config_users, password_file


class Authenticator:
    """All backends of a configuration.

    :raises ConfigError: if one can't be used
    """

    def __init__(self, config: DaemonConfig) -> None:
        self._backends = [config_users.create(config)]
        if config.password_file is not None:
            self._backends.append(password_file.create(config))

    def authenticate(self, user: str, password: str) -> bool:
        """Tell whether one of the backends knows that user with that password."""
        return any(backend.authenticate(user, password) for backend in self._backends)
