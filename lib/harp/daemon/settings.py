"""What a spawner is told of the configuration.

At the start the front makes it, which is as mighty as the spawner then. At a reload the
spawner's successor makes it itself, from the files: a front that has dropped root may
have been taken over, and must not choose as whom procedures run.
"""

from __future__ import annotations

import os

from ..config import ConfigError, DaemonConfig
from .control import Settings, Source
from .options import Options, check_hands, load_config

# What harpd has in its environment is none of the procedures' business.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TZ": None,
}


def base_environment() -> dict[str, str]:
    """Return what all calls have in their environment, whatever is configured."""
    return {
        name: os.environ.get(name, default)
        for name, default in _ENVIRONMENT.items()
        if os.environ.get(name, default) is not None
    }


def for_start(
    config: DaemonConfig, open_files: int, options: Options | None = None
) -> Settings:
    """Return the settings of a spawner that we start.

    :param open_files: soft limit of descriptors that calls run with
    :param options: where its successors find the configuration; None: there are none
    """
    environment = base_environment()
    if options is None:
        return _make(config, open_files, environment, None)
    source = Source(options._asdict(), open_files, environment)
    return _make(config, open_files, environment, source.to_text())


def for_successor(text: str) -> Settings:
    """Return the settings of a spawner that follows another one.

    :param text: of a :class:`~.control.Source`
    :raises ConfigError: if the configuration can't be used, or is in wrong hands
    :raises OtherVersion: if the daemon that runs is of another version
    """
    source = Source.from_text(text)
    options = Options(**source.options)
    config = load_config(options)
    faults = check_hands(options.config, config, os.getuid())
    if faults:
        raise ConfigError(faults).within(options.config)
    return _make(config, source.open_files, source.environment, text)


def _make(
    config: DaemonConfig, open_files: int, environment: dict, source: str | None
) -> Settings:
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
        environment=environment | config.environment,
        source=source,
    )
