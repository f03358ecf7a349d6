"""The command ``harpd``: the daemon, and what an operator does with it."""

from __future__ import annotations

import argparse
import os
import resource
import sys

from .. import __version__, accounts, actions, kernel, log, service
from ..commandline import Parser, silence
from ..config import ConfigError
from ..errors import reason
from ..pidfile import AlreadyRunning
from .children import ProceduresFailed
from .main import Daemon
from .options import Options, load_config

_DEFAULT_CONFIG = "/etc/harpd/harpd.toml"
_DEFAULT_PIDFILE = "/run/harpd/harpd.pid"


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    :param arguments: of the command line; None: those of this process
    :returns: exit status
    """
    try:
        try:
            return _carry_out(sys.argv[1:] if arguments is None else arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where it is known what to do if it fails
    except OSError as error:
        if sys.stdout is not None:
            silence(sys.stdout)
        what = "" if error.filename else "can't print: "
        return _complain([what + reason(error)], 1)
    except KeyboardInterrupt:  # before signals are handled in order
        return _complain(["interrupted"], 1)


def _carry_out(arguments: list[str]) -> int:
    if arguments[:1] == ["passwd"]:
        from ..auth import command

        return command.main(arguments[1:], "harpd", _DEFAULT_CONFIG, _password_file)
    if arguments[:1] == ["setup"]:
        from . import setup

        return setup.main(arguments[1:])
    if arguments[:1] == ["call"]:
        from . import local

        return local.main(arguments[1:], _DEFAULT_CONFIG)
    parsed = _parser().parse_intermixed_args(arguments)
    settings = _options(parsed)
    if parsed.test:
        return _test(settings)
    if parsed.action is not None:
        # Another configuration is another daemon, and none of systemd's.
        run = actions.run
        if settings.config != _DEFAULT_CONFIG:
            run = actions.run_here
        return run(parsed.action, _service(settings))
    return _run(settings)


def _password_file(config: str) -> str | None:
    return load_config(Options(os.path.abspath(config))).password_file


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="harpd",
        usage="harpd [OPTION...] [ACTION]\n"
        "       harpd setup [OPTION...]\n"
        "       harpd passwd [OPTION...] [FILE] USER\n"
        "       harpd call [OPTION...] PROCEDURE [ARGUMENT...]",
        description="Runs procedures on behalf of remote callers: in the foreground, "
        "or as an init script if there is an action.",
        epilog="More on the others: harpd setup --help, and so on",
    )
    parser.add_argument(
        "action",
        nargs="?",
        metavar="ACTION",
        choices=[*actions.ACTIONS],
        help=", ".join(actions.ACTIONS),
    )
    option = parser.add_argument
    option(
        *("-c", "--config"),
        default=_DEFAULT_CONFIG,
        metavar="FILE",
        help="configuration (default: %(default)s)",
    )
    option("--version", action="version", version=f"harpd {__version__}")
    option(
        *("-r", "--procedures"),
        metavar="PATH",
        help="the procedures: a file, or a directory whose *.py are loaded",
    )
    option(
        *("-l", "--logging"),
        metavar="FILE",
        help="where the log goes, instead of the key logging: a file, one with a name "
        "in .toml or .json for logging.config.dictConfig, stderr, syslog",
    )
    option(
        *("-t", "--test"),
        action="store_true",
        help="check all that the daemon would use, and end",
    )
    option(
        *("-u", "--user"),
        type=accounts.name_or_number,
        help="that procedures run as which don't name one",
    )
    option("-g", "--group", type=accounts.name_or_number, help="the same of the group")
    option(
        "--syslog",
        action="store_const",
        dest="logging",
        const=log.SYSLOG,
        help="log to the system's log",
    )
    option(
        *("-d", "--daemon"),
        action="store_true",
        help="go to the background, once it serves",
    )
    option(
        *("-p", "--pidfile"),
        metavar="FILE",
        help=f"default with -d or an action: {_DEFAULT_PIDFILE}; with another "
        "configuration, a name that its path is part of",
    )
    return parser


def _options(parsed: argparse.Namespace) -> Options:
    config = os.path.abspath(parsed.config)
    pidfile = parsed.pidfile
    if pidfile is None and (parsed.daemon or parsed.action is not None):
        pidfile = actions.default_pidfile(config, _DEFAULT_CONFIG, _DEFAULT_PIDFILE)

    def absolute(path: str | None) -> str | None:
        return None if path is None else os.path.abspath(path)

    return Options(
        config=config,
        procedures=absolute(parsed.procedures),
        logging=parsed.logging and log.resolve(parsed.logging, os.getcwd()),
        user=parsed.user,
        group=parsed.group,
        background=parsed.daemon,
        pidfile=absolute(pidfile),
    )


def _service(settings: Options) -> actions.Service:
    """Return how the actions start the daemon: with the options they were given."""
    command = [sys.executable, os.path.realpath(sys.argv[0]), "--daemon"]
    for option, value in (
        ("--config", settings.config),
        ("--procedures", settings.procedures),
        ("--logging", settings.logging),
        ("--user", settings.user),
        ("--group", settings.group),
        ("--pidfile", settings.pidfile),
    ):
        if value is not None:
            command.append(f"{option}={value}")
    return actions.Service("harpd", command, settings.pidfile)


def _prepare() -> int:
    """Set what the process needs; return the soft limit of descriptors before that."""
    log.to_stderr()
    kernel.set_process_name("harpd")  # by its interpreter nobody would find it
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    service.raise_descriptor_limit()
    return open_files


def _run(settings: Options) -> int:
    background = service.Background()
    if settings.background:
        background.enter()
    open_files = _prepare()
    try:
        return Daemon(settings, open_files, background).run()
    except ConfigError as error:
        return _complain(error.faults, actions.EX_CONFIG)
    except (ProceduresFailed, AlreadyRunning) as error:
        return _complain(str(error).splitlines(), 1)
    except OSError as error:
        return _complain([reason(error)], 1)


def _test(settings: Options) -> int:
    from . import check

    open_files = _prepare()
    faults, procedures = check.find_faults(settings, open_files)
    if faults:
        return _complain(faults, actions.EX_CONFIG)
    print(f"harpd: {settings.config}: good, {procedures} procedures", file=sys.stderr)
    return 0


def _complain(faults: list[str], status: int) -> int:
    for fault in faults:
        print(f"harpd: {fault}", file=sys.stderr)
    return status
