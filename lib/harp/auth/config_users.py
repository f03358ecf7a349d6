"""Users that stand in the configuration."""

from __future__ import annotations

from ..config import ConfigError, DaemonConfig, DispatcherConfig
from . import passwords


def create(config: DaemonConfig | DispatcherConfig) -> passwords.Users:
    entries = []
    faults = []
    for name, text in config.users.items():
        try:
            entries.append((name, passwords.parse(text, allow_plain=True)))
        except ValueError as error:
            faults.append(f"users.{name}: {error}")
    if faults:
        raise ConfigError(faults)
    return passwords.Users(entries)
