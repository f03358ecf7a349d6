"""The harpcaller command: its options, and what runs for each of its commands. Data
goes to standard output, a JSON value on each line; all else to standard error."""

from __future__ import annotations

import argparse

import harp
from harp import protocol

from . import calls, output

_DESCRIPTION = "Call procedures on remote machines, and read what became of the calls."
_EXIT_STATUSES = """\
exit status:
  0    there is a value          69   dispatcher unreachable
  1    the procedure raised      74   output can't be written
  2    usage                     75   the call has not ended
  3    the call was cancelled    124  the call took too long
  4    not carried out           130  interrupted
Standard error says the error's type, and whether the procedure ran.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    :param arguments: those of the command line; None: this process's own
    """
    options = _parse(arguments)
    try:
        return options.run(options)
    except BrokenPipeError:
        return output.abandon()
    except OSError as error:
        return output.fail(output.UNWRITABLE, f"can't print: {error.strerror}")
    except harp.CommunicationError as error:
        return output.fail(output.UNREACHABLE, str(error))
    except harp.RemoteError as error:
        return output.outcome(error)
    except KeyboardInterrupt:
        return output.INTERRUPTED


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, extra = parser.parse_known_args(arguments)
    # Of "call HOST PROCEDURE --detach ARGUMENT" argparse leaves the last ones over.
    stray = [word for word in extra if _looks_like_option(word)]
    if stray or (extra and "arguments" not in options):
        parser.error(f"unrecognized arguments: {' '.join(stray or extra)}")
    if extra:
        options.arguments += extra
    try:
        options.check(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def _looks_like_option(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit() and word != "-"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harpcaller",
        description=_DESCRIPTION,
        epilog=_EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"harpcaller {harp.__version__}"
    )
    parser.set_defaults(dispatcher=f"localhost:{protocol.CLIENT_PORT}")
    _add_dispatcher(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, run, check, text, add_arguments in _commands():
        command = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False
        )
        command.set_defaults(run=run, check=check)
        for add in add_arguments:
            add(command)
    return parser


def _commands() -> list[tuple]:
    """Name of each command, what runs it, what checks its options before, its purpose,
    and what adds its arguments."""
    job = (_add_job, _add_dispatcher)
    return [
        (
            "call",
            calls.call,
            calls.check_call,
            "call a procedure, print what it streams and its result",
            (_add_call, _add_dispatcher),
        ),
        (
            "result",
            calls.result,
            calls.check_job,
            "print the result of a call",
            (_add_wait, *job),
        ),
        ("status", calls.status, calls.check_job, "print the status of a call", job),
        (
            "stream",
            calls.stream,
            calls.check_job,
            "print what a call has streamed until now",
            (_add_position, *job),
        ),
        (
            "follow",
            calls.follow,
            calls.check_job,
            "print what a call streams until it ends, and its result",
            (_add_position, *job),
        ),
        ("cancel", calls.cancel, calls.check_job, "cancel a call", job),
        (
            "demo",
            _demo,
            lambda options: None,
            "show the whole system at work, on this machine and for a moment",
            (_add_demo,),
        ),
    ]


def _add_dispatcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dispatcher",
        metavar="ADDRESS",
        default=argparse.SUPPRESS,  # it may stand before the command or behind it
        help="HOST[:PORT] or unix:PATH of the dispatcher "
        f"(localhost:{protocol.CLIENT_PORT})",
    )


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_id", metavar="JOB", help="the call's id")


def _add_call(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", metavar="HOST")
    parser.add_argument("procedure", metavar="PROCEDURE")
    parser.add_argument(
        "arguments",
        metavar="ARGUMENT",
        nargs="*",
        help="JSON, or else a string; all of them NAME=VALUE, or none",
    )
    parser.add_argument(
        "--detach", action="store_true", help="print the call's id and leave it alone"
    )
    parser.add_argument(
        "--queue", metavar="JSON", help="name of the queue to wait in, an object"
    )
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=int,
        help="calls of that queue that may run at a time (1)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=int,
        help="longest gap between two messages of the call",
    )
    parser.add_argument(
        "--max-exec-time",
        metavar="SECONDS",
        type=int,
        help="longest run of the call as a whole",
    )
    parser.add_argument(
        "--info", metavar="VALUE", help="anything, to be kept with the call's status"
    )


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-wait", action="store_true", help="exit with 75 if the call has not ended"
    )


def _add_position(parser: argparse.ArgumentParser) -> None:
    position = parser.add_mutually_exclusive_group()
    position.add_argument(
        "--since", metavar="N", type=int, help="number of the first value to print"
    )
    position.add_argument(
        "--recent",
        metavar="N",
        type=int,
        help="how many of the values already there to print",
    )


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", metavar="DIR", help="new directory to put everything in; it is kept"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="leave both daemons running, and print how to talk to them",
    )


def _demo(options: argparse.Namespace) -> int:
    from . import demo  # here, because it needs much that no other command does

    return demo.run(options.dir, options.keep)
