"""The life of the dispatcher, from outside: the actions of an init script, with the
exit statuses of the Linux Standard Base. Whether it runs is asked over the admin
socket; the pid file tells only of one that doesn't serve there (yet)."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import harp
from harp import actions, config
from harp.dispatcher import options as dispatcher_options
from harp.log import resolve
from harp.protocol import admin

from .. import output, table
from .ask import ask
from .say import NAME, fail, say

DEFAULT_CONFIG = "/etc/harpcaller/harpcaller.toml"
# Not beside the sockets: that directory is the dispatcher's own user's, who must not be
# able to name another process there for root to send signals to.
DEFAULT_PIDFILE = "/run/harpcallerd.pid"

_STOP_SECONDS = 120.0  # beyond the grace that a plain stop gives the jobs that run
_LOOK_SECONDS = 0.1  # between two looks whether it serves


def add_actions(add: Callable) -> None:
    """Add the actions of this module.

    :param add: called with name, function and text of an action, returns its parser
    """

    def add_own(name, run, text):
        action = add(name, run, text)
        # A faulty configuration must not keep a dispatcher from being stopped.
        action.set_defaults(needs_config=lambda options: False)
        add_start_options(action, default=argparse.SUPPRESS)
        return action

    add_own("start", _start, "start it in the background; return when it serves")
    _add_stop_options(add_own("stop", _stop, "stop it; queued jobs run after a start"))
    _add_stop_options(add_own("restart", _restart, "stop it, if it runs, and start it"))
    _add_stop_options(
        add_own("try-restart", _try_restart, "restart it if it runs, otherwise nothing")
    )
    add_own("reload", _reload, "have it read configuration and files again")
    add_own("force-reload", _reload, "the same")
    add_own("reopen-logs", _reopen_logs, "have it open its log files again")
    status = add_own("status", _status, "print how it is; exit status 3: does not run")
    status.add_argument("--wait", action="store_true", help="until it serves")
    status.add_argument(
        "--timeout", type=_seconds, metavar="S", help="wait so many seconds at most"
    )
    table.add_option(status)


def add_start_options(parser: argparse.ArgumentParser, default: object = None) -> None:
    """Add the options that a start is handed on.

    :param default: what they are if they aren't given
    """
    parser.add_argument(
        *("-p", "--pidfile"),
        default=default,
        metavar="FILE",
        help=f"default with -d or an action: {DEFAULT_PIDFILE}; with another "
        "configuration, a name that its path is part of",
    )
    parser.add_argument(
        *("-l", "--logging"),
        default=default,
        metavar="FILE",
        help="where the log goes, instead of the key logging: a file, one with a name "
        "in .toml or .json for logging.config.dictConfig, stderr, syslog",
    )
    parser.add_argument(
        "--syslog",
        action="store_const",
        default=default,
        dest="logging",
        const="syslog",
        help="log to the system's log",
    )


def _add_stop_options(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--drain",
        nargs="?",
        type=_seconds,
        const=math.inf,
        metavar="SECONDS",
        help="start no job any more, and let those that run end, for so many seconds "
        "at most; a second stop cuts them off",
    )
    action.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help="wait so many seconds at most until it has gone (default: "
        f"{_STOP_SECONDS:.0f}, beyond the time for draining)",
    )
    action.add_argument(
        "--print-pid", action="store_true", help="print the process that is stopped"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 1e9:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}")
    return seconds


class _State(NamedTuple):
    """What is known of the dispatcher.

    :ivar settings: None if the configuration is at fault
    :ivar status: its reply to ``status``; None if it doesn't serve
    :ivar faults: why nothing can be said; empty if it can
    """

    settings: config.DispatcherConfig | None
    status: dict | None
    faults: list[str]


def _look(options: argparse.Namespace) -> _State:
    try:
        settings = load(options)
    except config.ConfigError as error:
        return _State(None, None, error.faults)
    try:
        status = ask(settings, admin.build_get_dispatcher_status())
    except harp.ConnectFailed as error:
        return _State(settings, None, [] if error.is_temporary else [str(error)])
    except harp.CommunicationError:
        return _State(settings, None, [])  # it stops at this moment
    return _State(settings, status, [])


def load(options: argparse.Namespace) -> config.DispatcherConfig:
    """Return the configuration as the dispatcher itself would read it.

    :raises ConfigError: if it is at fault
    """
    return dispatcher_options.load_config(
        dispatcher_options.Options(os.path.abspath(options.config))
    )


def _service(options: argparse.Namespace) -> actions.Service:
    """Return how the actions start it: with the options they were given."""
    pidfile = os.path.abspath(options.pidfile or default_pidfile(options))
    command = [sys.executable, os.path.realpath(sys.argv[0]), "--daemon"]
    command.append(f"--config={os.path.abspath(options.config)}")
    command.append(f"--pidfile={pidfile}")
    if options.logging is not None:
        command.append(f"--logging={log_target(options.logging)}")
    return actions.Service(NAME, command, pidfile)


def default_pidfile(options: argparse.Namespace) -> str:
    """Return the pid file if none is named."""
    path = os.path.abspath(options.config)
    return actions.default_pidfile(path, DEFAULT_CONFIG, DEFAULT_PIDFILE)


def log_target(text: str) -> str:
    """Return what says where the log goes: a word, or the absolute path of a file."""
    return resolve(text, os.getcwd())


def _handed_on(
    action: str, options: argparse.Namespace, drain: float | None = None
) -> int | None:
    # Another configuration is another dispatcher, and none of systemd's, which knows
    # of no draining.
    if options.config != DEFAULT_CONFIG or drain is not None:
        return None
    return actions.hand_on(action, NAME)


# --- start and stop -----------------------------------------------------------------


def _start(options: argparse.Namespace, settings: None) -> int:
    status = _handed_on("start", options)
    return _start_here(options) if status is None else status


def _start_here(options: argparse.Namespace) -> int:
    state = _look(options)
    if state.status is not None:
        say(f"runs already, {_process(state.status)}")
        return actions.OK
    return actions.run_here("start", _service(options))


def _stop(options: argparse.Namespace, settings: None) -> int:
    status = _handed_on("stop", options, options.drain)
    return _stop_here(options) if status is None else status


def _stop_here(options: argparse.Namespace) -> int:
    state = _look(options)
    if state.status is None:
        return _stop_unreachable(options, state)
    pid = admin.parse_pid(state.status)
    if options.print_pid:
        print(pid, flush=True)
    seconds = options.timeout
    if seconds is None and options.drain != math.inf:
        seconds = _STOP_SECONDS + (options.drain or 0)

    def tell(process: int) -> None:
        try:
            ask(state.settings, _order(options.drain))
        except harp.CommunicationError:
            pass  # it stops already

    if not actions.end(pid, tell, seconds):
        return fail(
            f"process {pid} has not ended in {seconds:g} s", status=actions.FAILED
        )
    # A dispatcher that has dropped to another user can't remove it.
    return actions.run_here("stop", _service(options))


def _order(drain: float | None) -> dict:
    if drain is None:
        return admin.build_stop()
    return admin.build_stop(True, None if drain == math.inf else drain)


def _stop_unreachable(options: argparse.Namespace, state: _State) -> int:
    """Stop one that starts at the moment, or whose configuration is at fault."""
    service = _service(options)
    if state.faults and actions.running(service) is None:
        status = actions.FAILED if state.settings is None else actions.NO_PERMISSION
        return fail(*state.faults, status=status)
    return actions.run_here("stop", service)


def _restart(options: argparse.Namespace, settings: None) -> int:
    status = _handed_on("restart", options, options.drain)
    return _restart_here(options) if status is None else status


def _restart_here(options: argparse.Namespace) -> int:
    state = _look(options)
    if state.settings is None:
        # It would be stopped, and not start again.
        return _not_serving(state)
    return _stop_here(options) or _start_here(options)


def _try_restart(options: argparse.Namespace, settings: None) -> int:
    status = _handed_on("try-restart", options, options.drain)
    if status is not None:
        return status
    if _look(options).status is None and actions.running(_service(options)) is None:
        return actions.OK
    return _restart_here(options)


# --- while it runs ------------------------------------------------------------------


def _reload(options: argparse.Namespace, settings: None) -> int:
    state = _look(options)
    if state.status is None:
        return _not_serving(state)
    reply = ask(state.settings, admin.build_reload())
    faults, restart = admin.parse_reloaded(reply)
    if faults:
        return fail(*faults, "all stays as it was", status=actions.FAILED)
    say(*(f"{key} changes at the next start only" for key in restart))
    return actions.OK


def _reopen_logs(options: argparse.Namespace, settings: None) -> int:
    state = _look(options)
    if state.status is None:
        return _not_serving(state)
    faults = admin.parse_reopened(ask(state.settings, admin.build_reopen_logs()))
    return fail(*faults, status=actions.FAILED) if faults else actions.OK


def _not_serving(state: _State) -> int:
    if state.settings is None:
        return fail(*state.faults, status=actions.NOT_CONFIGURED)
    if state.faults:
        return fail(*state.faults, status=actions.NO_PERMISSION)
    text = f"nobody serves at {state.settings.admin_socket}"
    return fail(text, status=actions.NOT_RUNNING)


def _status(options: argparse.Namespace, settings: None) -> int:
    deadline = math.inf
    if options.timeout is not None:
        deadline = time.monotonic() + options.timeout
    state = _look(options)
    while options.wait and state.status is None and not state.faults:
        if time.monotonic() >= deadline:
            say(f"does not serve after {options.timeout:g} s")
            break
        time.sleep(_LOOK_SECONDS)
        state = _look(options)
    if state.status is None:
        return _status_without_word(options, state)
    if table.is_for_people(options.json):
        for text in describe(admin.parse_dispatcher_status(state.status)):
            output.text(text)
    else:
        output.value(state.status)
    return actions.OK


def _status_without_word(options: argparse.Namespace, state: _State) -> int:
    say(*state.faults)
    service = _service(options)
    pid = actions.running(service)
    if pid is not None:
        text = f"process {pid} runs"
        if not state.faults:
            text += ", but does not serve"
        return fail(text, status=actions.UNKNOWN)
    if state.faults:
        return actions.UNKNOWN
    return actions.run_here("status", service)


def _process(status: dict) -> str:
    return f"process {admin.parse_pid(status)}"


def describe(status: admin.DispatcherStatus) -> Iterator[str]:
    """Yield the lines that say to people how the dispatcher is."""
    yield (
        f"{NAME} {status.version}, process {status.pid}, running since "
        f"{table.moment(status.since)}"
    )
    yield (
        f"{status.running} jobs running, {status.queued} queued, "
        f"{status.queues} queues, {status.hosts} hosts, "
        f"{status.connections} connections"
    )
    if status.free is not None:
        yield (
            f"{_size(status.free)} free for the job log, "
            f"{_size(status.reserve)} kept in reserve"
        )
    if status.stopping:
        yield "stopping"
    elif status.draining:
        yield "draining: no job is started, those that run may end"
    for entry in status.degraded:
        since = table.moment(entry.since)
        when = "" if since is None else f" since {since}"
        yield f"degraded{when}: {entry.text}"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            break
        count /= 1024
    else:
        unit = "TiB"
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
