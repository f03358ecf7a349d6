"""The ``harpcallerd`` command: runs the dispatcher, or asks the one that runs over its
admin socket."""

from __future__ import annotations

import argparse
import sys

import harp
from harp import config

from .. import output
from . import hosts, jobs, life, log, passwords, queues, setup, trust


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    :param arguments: those of the command line; None: this process's own
    """
    options = _parser().parse_args(arguments)
    try:
        settings = None
        if options.needs_config(options):
            settings = life.load(options)
        return options.run(options, settings)
    except config.ConfigError as error:
        for fault in error.faults:
            print(f"harpcallerd: {fault}", file=sys.stderr)
        return output.MISCONFIGURED
    except BrokenPipeError:
        return output.abandon()
    except harp.CommunicationError as error:
        output.note(f"harpcallerd: {error}; is it running?")
        return output.UNREACHABLE
    except harp.RemoteError as error:
        output.note(f"harpcallerd: {error}")
        return output.NOT_CARRIED_OUT
    except KeyboardInterrupt:
        return output.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harpcallerd",
        description="Run the dispatcher in the foreground, or ask the one that runs.",
        allow_abbrev=False,
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
        "--version", action="version", version=f"harpcallerd {harp.__version__}"
    )
    parser.set_defaults(run=_run, needs_config=lambda options: False)
    actions = parser.add_subparsers(metavar="ACTION")

    def add(name, run, text):
        action = actions.add_parser(
            name, help=text, description=text, allow_abbrev=False
        )
        action.set_defaults(run=run, needs_config=lambda options: True)
        # Behind the action, too.
        action.add_argument(
            "-c", "--config", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        return action

    life.add_actions(add)
    setup.add_actions(add)
    jobs.add_actions(add)
    queues.add_actions(add)
    log.add_actions(add)
    hosts.add_actions(add)
    trust.add_actions(add)
    passwords.add_actions(add)
    return parser


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
