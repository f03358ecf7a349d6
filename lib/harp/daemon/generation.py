"""What a reload replaces as a whole: configuration, certificate, users, procedures.
A connection uses the same generation from its beginning to its end."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from .. import accounts
from ..auth import Authenticator
from ..config import ConfigError, DaemonConfig
from ..server_tls import server_context
from .children import Children, base_environment
from .control import Settings


class Generation:
    """All that serves a connection.

    :param config: the configuration
    :param owner: number of the user who has started the daemon
    :raises ConfigError: with every fault of what the configuration names
    """

    def __init__(self, config: DaemonConfig, owner: int) -> None:
        self.config = config
        self._owner = owner
        faults: list[str] = []
        self.context = _collect(faults, _make_context, config)
        self.authenticator = _collect(faults, _make_authenticator, config)
        _collect(faults, self._check_user, config)
        if faults:
            raise ConfigError(faults)
        self.children: Children | None = None

    def _check_user(self, config: DaemonConfig) -> None:
        user, group = config.procedures_user, config.procedures_group
        if user is None:
            if self._owner == 0:
                raise ConfigError(
                    [
                        "procedures.user: must be set when harpd runs as root: the "
                        "user that procedures run as which don't name one"
                    ]
                )
            return
        try:
            accounts.find(user, group)
        except LookupError as error:
            raise ConfigError([f"procedures.user: {error.args[0]}"]) from None

    def start(
        self,
        start: Callable[[Settings], Children],
        open_files: int,
        on_loss: Callable[[], None],
    ) -> None:
        """Start a spawner and load the procedures.

        :param start: how the spawner is started
        :param open_files: soft limit of descriptors that calls run with
        :param on_loss: called from another thread if the spawner dies later on
        :raises ProceduresFailed: if they don't load
        :raises OSError: if no spawner can be started
        """
        self.children = start(spawner_settings(self.config, open_files))
        self.children.load(on_loss)


def _collect(faults: list[str], make: Callable, config: DaemonConfig):
    try:
        return make(config)
    except ConfigError as error:
        faults += error.faults
        return None


def _make_context(config: DaemonConfig) -> ssl.SSLContext:
    return server_context(config.certificate, config.private_key)


def _make_authenticator(config: DaemonConfig) -> Authenticator:
    return Authenticator(config, config.auth_backends)


def spawner_settings(config: DaemonConfig, open_files: int) -> Settings:
    return Settings(
        procedures_file=os.path.abspath(config.procedures_file),
        user=config.procedures_user,
        group=config.procedures_group,
        standby=config.standby,
        kill_grace=config.kill_grace,
        max_value=config.max_value,
        traceback=config.traceback,
        open_files=open_files,
        python_path=config.python_path,
        environment=base_environment() | config.environment,
    )
