"""What a reload replaces as a whole: configuration, certificate, users, procedures.
A connection uses the same generation from its beginning to its end."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from .. import service
from ..config import ConfigError, DaemonConfig
from . import accounts
from .auth import Authenticator
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
        self.authenticator = _collect(faults, Authenticator, config)
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A caller cancels by closing its side. Without this, OpenSSL answers with an alert
    # if no TLS goodbye came before, and the caller can't wait until all is gone.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.num_tickets = 0  # nobody resumes a session; each ticket costs a write
    faults = []
    for path, key in (
        (config.certificate, "tls.certificate"),
        (config.private_key, "tls.key"),
    ):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            faults.append(f"{key}: {service.reason(error)}")
    if faults:
        raise ConfigError(faults)
    try:
        # Without a password OpenSSL would ask the terminal for that of a key.
        context.load_cert_chain(config.certificate, config.private_key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            [
                f"tls: certificate {config.certificate} and key {config.private_key} "
                f"can't be used: {reason}"
            ]
        ) from None
    return context


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
