"""The action ``passwd`` of harpcallerd: who may connect by TCP."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from harp import config
from harp.auth import command

from .say import NAME


def add_actions(add: Callable) -> None:
    """Add the actions of this module.

    :param add: ``add(name, run, text)`` returns the action's parser
    """
    passwd = add("passwd", _passwd, command.DESCRIPTION)
    # It works without a configuration, if it is told which file.
    passwd.set_defaults(needs_config=lambda options: options.file is None)
    command.add_arguments(passwd)


def _passwd(
    options: argparse.Namespace, settings: config.DispatcherConfig | None
) -> int:
    return command.run(options, NAME, lambda path: settings.password_file)
