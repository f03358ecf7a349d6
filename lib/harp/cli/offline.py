"""The commands that need nothing that runs."""

from __future__ import annotations

import argparse

import harp

from . import output


def add_demo(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_demo)
    parser.add_argument(
        "--dir", metavar="DIR", help="new directory to put everything in; it is kept"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="leave both daemons running, and print how to talk to them",
    )


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_version)


COMMANDS = {"demo": add_demo, "version": add_version}


def _demo(options: argparse.Namespace) -> int:
    from . import demo  # here, because it needs much that no other command does

    return demo.run(options.dir, options.keep)


def _version(options: argparse.Namespace) -> int:
    output.text(f"harpcaller {harp.__version__}")
    return 0
