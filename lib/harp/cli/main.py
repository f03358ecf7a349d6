"""The harpcaller command: its commands, and what becomes of their errors. Data goes to
standard output; all else to standard error."""

from __future__ import annotations

import argparse
import importlib
import sys

import harp
from harp.commandline import Parser
from harp.errors import Refusal, reason

from . import options as cli_options
from . import output

_DESCRIPTION = "Call procedures on remote machines, and read what became of the calls."
_EXIT_STATUSES = """\
exit status:
  0    there is a value          69   dispatcher or host unreachable
  1    the procedure raised      74   output can't be written
  2    usage                     75   the call has not ended
  3    the call was cancelled    77   not allowed
  4    not carried out           124  the call took too long
  20   some hosts failed         130  interrupted
Standard error says the error's type, and whether the procedure ran. COMMAND --help
tells a command's options.
"""

COMMANDS = {
    "call": ("calls", "call a procedure, print what it streams and its result"),
    "result": ("jobs", "print the result of a call"),
    "status": ("jobs", "print the status of a call"),
    "stream": ("calls", "print what a call has streamed until now"),
    "follow": ("calls", "print what a call streams until it ends, and its result"),
    "wait": ("jobs", "wait until calls have ended"),
    "cancel": ("jobs", "cancel calls"),
    "why": ("jobs", "tell why a call waits, what it is at, or how it ended"),
    "list": ("jobs", "print the calls there are, newest first"),
    "rerun": ("rerun", "make a call again, or those of a group that have failed"),
    "queues": ("jobs", "print the queues there are"),
    "hosts": ("hosts", "print the hosts that the dispatcher knows"),
    "ping": ("hosts", "tell whether hosts answer the dispatcher, and what is wrong"),
    "procedures": ("hosts", "print what may be called on a host, or one's own help"),
    "direct": ("direct", "call a procedure of a daemon, without a dispatcher"),
    "demo": ("offline", "show the whole system at work, on this machine and briefly"),
    "completion": ("completion", "print what makes a shell complete this command"),
    "version": ("offline", "print the version of this command"),
}
"""Name of each command, the module that has it, its purpose. The module is imported
when it is needed: whoever calls this often waits for each import."""

_ALONE = ("direct", "demo", "version", "completion")
"""Those that ask no dispatcher."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    :param arguments: those of the command line; None: this process's own
    """
    prog = "harpcaller"
    try:
        try:
            options = _parse(sys.argv[1:] if arguments is None else arguments)
            prog = options.prog
            return options.run(options)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where it is known what to do if it fails
    except BrokenPipeError:
        return output.abandon()
    except OSError as error:
        output.fail(output.UNWRITABLE, f"can't print: {reason(error)}")
        return output.abandon(output.UNWRITABLE)
    except output.UsageError as error:
        return output.fail(output.USAGE, f"{error}; see {prog} --help")
    except harp.HarpException as error:
        return _fail(error)
    except Refusal as fault:
        text = f"the dispatcher's reply is not the protocol: {fault.message}"
        return output.fail(output.UNREACHABLE, text)
    except KeyboardInterrupt:
        return output.INTERRUPTED


def _fail(error: harp.HarpException) -> int:
    """Tell an error that ends the command and return the exit status."""
    if isinstance(error, harp.ConfigurationError):
        return output.fail(output.USAGE, str(error))
    return output.outcome(error)


# --- the command line ----------------------------------------------------------------


def _parse(words: list[str]) -> argparse.Namespace:
    top = top_parser()
    options = top.parse_args(words)
    if options.command not in COMMANDS:
        top.error(f"there is no command {options.command!a}")
    parser = command_parser(options.command)
    rest, extra = parser.parse_known_args(options.rest)
    # Of "call HOST PROCEDURE --detach ARGUMENT" argparse leaves the last ones over.
    stray = [word for word in extra if _looks_like_option(word)]
    if stray or (extra and "arguments" not in rest):
        parser.error(f"unrecognized arguments: {' '.join(stray or extra)}")
    if extra:
        rest.arguments += extra
    # What stands behind the command counts before what stands in front of it.
    merged = argparse.Namespace(**{**vars(options), **vars(rest)}, prog=parser.prog)
    output.set_colour(getattr(merged, "color", "auto"))
    return merged


def _looks_like_option(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit() and word != "-"


def top_parser() -> Parser:
    """Return what parses the words up to the command."""
    width = max(map(len, COMMANDS)) + 2
    listed = [f"  {name:{width}}{text}" for name, (_, text) in COMMANDS.items()]
    parser = Parser(
        prog="harpcaller",
        usage="harpcaller [OPTION...] COMMAND ...",
        description=_DESCRIPTION,
        epilog="\n".join(["commands:", *listed, "", _EXIT_STATUSES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"harpcaller {harp.__version__}"
    )
    cli_options.add_dispatcher(parser)
    hidden = argparse.SUPPRESS
    parser.add_argument("command", metavar="COMMAND", help=hidden)
    rest = parser.add_argument("rest", nargs=argparse.REMAINDER, help=hidden)
    rest.required = False  # or it would be named as missing, too
    return parser


def command_parser(name: str) -> Parser:
    """Return what parses the words behind a command."""
    module, text = COMMANDS[name]
    parser = Parser(prog=f"harpcaller {name}", description=f"{text}.".capitalize())
    importlib.import_module(f".{module}", __package__).COMMANDS[name](parser)
    if name in _ALONE:
        cli_options.add_colour(parser)
    else:
        cli_options.add_dispatcher(parser)
    return parser
