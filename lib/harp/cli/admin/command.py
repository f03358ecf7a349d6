"""The ``harpcallerd`` command: runs the dispatcher, or asks the one that runs over its
admin socket."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import harp
from harp import config
from harp.commandline import Parser
from harp.errors import ConnectFailed, Refusal, reason

from .. import output
from . import life
from .say import NAME, fail

_ACTIONS = {
    "life": ("start", "stop", "restart", "try-restart", "reload", "force-reload")
    + ("reopen-logs", "status"),
    "setup": ("setup",),
    "jobs": ("list", "info", "why", "cancel"),
    "queues": ("queue-list", "queue-cancel"),
    "log": ("check-log", "prune-jobs", "metrics"),
    "hosts": ("hosts-list", "hosts-refresh", "hosts-add", "hosts-remove"),
    "trust": ("trust", "untrust"),
    "passwords": ("passwd",),
}
"""The modules, in the order of the help, and the actions that each adds."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    :param arguments: those of the command line; None: this process's own
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments).parse_args(arguments)
    try:
        try:
            settings = life.load(options) if options.needs_config(options) else None
            return options.run(options, settings)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where it is known what to do if it fails
    except config.ConfigError as error:
        return fail(*error.faults, status=output.MISCONFIGURED)
    except BrokenPipeError:
        return output.abandon()
    except OSError as error:
        if error.filename is not None:
            return fail(reason(error))
        fail(f"can't print: {reason(error)}")
        return output.abandon(output.UNWRITABLE)
    except ConnectFailed as error:  # it says what to look at
        return fail(str(error), status=output.UNREACHABLE)
    except harp.CommunicationError as error:
        return fail(f"{error}; is it running?", status=output.UNREACHABLE)
    except harp.RemoteError as error:
        return fail(str(error))
    except Refusal as refusal:  # by us: it is of another version, perhaps
        return fail(f"the dispatcher's reply is not understood: {refusal.message}")
    except KeyboardInterrupt:
        return output.INTERRUPTED


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = Parser(
        prog=NAME,
        description="Run the dispatcher in the foreground, or ask the one that runs.",
    )
    parser.add_argument(
        "-c",
        "--config",
        default=life.DEFAULT_CONFIG,
        metavar="FILE",
        help="configuration, TOML (default: %(default)s)",
    )
    _add_start_options(parser)
    parser.add_argument(
        "--version", action="version", version=f"{NAME} {harp.__version__}"
    )
    parser.set_defaults(run=_run, needs_config=lambda options: False)
    actions = parser.add_subparsers(metavar="ACTION")

    def add(name, run, text):
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(run=run, needs_config=lambda options: True)
        # Behind the action, too.
        action.add_argument(
            "-c", "--config", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        return action

    for module in _needed(arguments):
        importlib.import_module(f".{module}", __package__).add_actions(add)
    return parser


def _needed(arguments: Sequence[str]) -> list[str]:
    """Return the modules of the actions that are named; all, if none is. Loading them
    all would take longer than most actions."""
    named = [module for module in _ACTIONS if {*_ACTIONS[module]} & {*arguments}]
    return named or list(_ACTIONS)


def _add_start_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        *("-d", "--daemon"),
        action="store_true",
        help="go to the background, once it serves, as the action start does",
    )
    option(
        *("-t", "--test"),
        action="store_true",
        help="check all that the dispatcher would use, and end",
    )
    life.add_start_options(parser)


def _run(options: argparse.Namespace, settings: None) -> int:
    # Here, because whoever only asks need not load the dispatcher.
    from . import start

    return start.check(options) if options.test else start.run(options)
