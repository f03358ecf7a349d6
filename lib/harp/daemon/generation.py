"""What a reload replaces as a whole: configuration, certificate, users, procedures.
A connection uses the same generation from its beginning to its end."""

from __future__ import annotations

from collections.abc import Callable

from .. import accounts
from ..auth import Authenticator
from ..config import ConfigError, DaemonConfig, collect
from ..server_tls import server_context
from .children import Children


class Generation:
    """All that serves a connection.

    :param config: the configuration
    :param owner: number of the user who has started the daemon
    :raises ConfigError: with every fault of what the configuration names
    """

    def __init__(self, config: DaemonConfig, owner: int) -> None:
        self.config = config
        faults: list[str] = []
        self.context = collect(
            faults, server_context, config.certificate, config.private_key
        )
        self.authenticator = collect(
            faults, Authenticator, config, config.auth_backends
        )
        collect(faults, _check_user, config, owner)
        if faults:
            raise ConfigError(faults)
        self.children: Children | None = None

    def start(
        self, start: Callable[[], Children], on_loss: Callable[[], None]
    ) -> None:
        """Start a spawner and load the procedures.

        :param start: how the spawner is started
        :param on_loss: called from another thread if the spawner dies later on
        :raises ProceduresFailed: if they don't load
        :raises OSError: if no spawner can be started
        """
        self.children = start()
        self.children.load(on_loss)


def _check_user(config: DaemonConfig, owner: int) -> None:
    user, group = config.procedures_user, config.procedures_group
    if user is None:
        if owner == 0:
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
