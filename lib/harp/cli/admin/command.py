"""The ``harpcallerd`` command: runs the dispatcher, or asks the one that runs over its
admin socket."""

from __future__ import annotations

import argparse
import sys

import harp
from harp import config
from harp.protocol import admin as protocol

from .. import output
from . import jobs
from .ask import ask

DEFAULT_CONFIG = "/etc/harpcaller/harpcaller.toml"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    :param arguments: those of the command line; None: this process's own
    """
    options = _parser().parse_args(arguments)
    try:
        settings = config.load(options.config, config.DispatcherConfig)
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
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help=f"configuration, TOML (default: {DEFAULT_CONFIG})",
    )
    parser.add_argument(
        "--version", action="version", version=f"harpcallerd {harp.__version__}"
    )
    parser.set_defaults(run=_run)
    actions = parser.add_subparsers(metavar="ACTION")

    def add(name, run, text):
        action = actions.add_parser(
            name, help=text, description=text, allow_abbrev=False
        )
        action.set_defaults(run=run)
        return action

    add("status", _status, "print how the dispatcher is")
    add("stop", _stop, "stop it; queued jobs run after the next start")
    jobs.add_actions(add)
    return parser


def _run(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    # Here, because whoever only asks need not load the dispatcher.
    from harp.dispatcher.main import run

    return run(settings)


def _status(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    output.value(ask(settings, protocol.build_get_dispatcher_status()))
    return 0


def _stop(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    output.value(ask(settings, protocol.build_stop()))
    return 0
