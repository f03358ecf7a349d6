"""``harpd call``: a procedure on the spot, for those who write procedures: as the
daemon would run it, with its user, limits, timeout and errors, but with no daemon and
no password."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable

from .. import protocol, wire
from ..accounts import name_or_number
from ..arguments import parse_arguments
from ..commandline import USAGE, Parser, put
from ..config import ConfigError, DaemonConfig
from ..errors import NO_SUCH_PROCEDURE, Refusal, reason
from .children import Child, Children, ProceduresFailed
from .control import Order
from .options import Options, load_config
from .relay import Relay
from .settings import for_start
from .slots import Slots

_STOP_SECONDS = 10  # beside the grace that killing has
_PEER = "local"


def main(arguments: list[str], default_config: str) -> int:
    """Run the command.

    :param arguments: those behind ``harpd call``
    :param default_config: used if it exists and none is named
    :returns: exit status: 0 for a result, 1 for any other end or if it can't be
        printed, 2 if nothing was called
    """
    parser = _parser(default_config)
    options = parser.parse_intermixed_args(arguments)
    try:
        values = parse_arguments(options.arguments)
        config = _load(options, default_config)
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        put(b"")  # before anything is called
        return run_locally(config, options.procedure, values, put, open_files)
    except ConfigError as error:
        faults = error.faults
    except (ValueError, ProceduresFailed) as error:
        faults = [str(error)]
    except Refusal as refusal:
        faults = [refusal.message]
    except OSError as error:  # nobody takes what is to be printed, for example
        print(f"harpd call: {reason(error)}", file=sys.stderr)
        return 1
    for fault in faults:
        print(f"harpd call: {fault}", file=sys.stderr)
    return USAGE


def _parser(default_config: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog="harpd call",
        description="Run a procedure here and now, as the daemon would, and print what "
        "its caller would get.",
    )
    parser.add_argument("procedure", metavar="PROCEDURE")
    parser.add_argument(
        "arguments",
        metavar="ARGUMENT",
        nargs="*",
        help="JSON, or else a string; all of them NAME=VALUE, or none",
    )
    option = parser.add_argument
    option(
        *("-c", "--config"),
        metavar="FILE",
        help=f"configuration (default: {default_config}, if there is one)",
    )
    option(*("-r", "--procedures"), metavar="PATH", help="a file, or a directory")
    option(
        *("-u", "--user"),
        type=name_or_number,
        help="that runs it, if the procedure doesn't say",
    )
    return parser


def _load(options: argparse.Namespace, default_config: str) -> DaemonConfig:
    procedures = options.procedures and os.path.abspath(options.procedures)
    path = options.config
    if path is None and os.path.exists(default_config):
        path = default_config
    if path is not None:
        path = os.path.abspath(path)
        return load_config(Options(path, procedures=procedures, user=options.user))
    if procedures is None:
        raise ValueError(f"there is no {default_config}: name the procedures with -r")
    return dataclasses.replace(
        DaemonConfig(), procedures_file=procedures, procedures_user=options.user
    )


def run_locally(
    config: DaemonConfig,
    procedure: str,
    arguments: list | dict,
    write: Callable[[bytes], None],
    open_files: int = 1024,
) -> int:
    """Run a procedure and print what its caller would get: a line of JSON for each
    streamed value, ``{"stream": …}``, and one for the end, ``{"result": …}``,
    ``{"exception": …}`` or ``{"harp": 1, "error": …}``. What the procedure prints goes
    to standard error.

    A Ctrl-C cancels the call as a caller does that leaves; it is raised when the call's
    processes are gone.

    :param config: as the daemon's
    :param arguments: list (positional) or dict (named)
    :param write: gets each of those lines
    :param open_files: soft limit of descriptors that the call runs with
    :returns: 0 for a result, 1 for every other end
    :raises ProceduresFailed: if the procedures don't load
    :raises OSError: as ``write`` does
    """
    children = Children.start(for_start(config, open_files))
    children.load(lambda: None)
    try:
        description = children.procedures.get(procedure)
        if description is None:
            text = f"no procedure is called {procedure!r}"
            error = protocol.build_daemon_error(NO_SUCH_PROCEDURE, text)
            write(wire.encode(error))
            return 1
        timeout = description.timeout
        if timeout is None:
            timeout = config.default_timeout
        order = Order(procedure, arguments, None, getpass.getuser(), _PEER)
        child = children.take(time.monotonic() + config.request_timeout)
        try:
            return _call(child, order, timeout, config.send_timeout, write)
        finally:
            children.release(child)
    finally:
        children.close(time.monotonic() + config.kill_grace + _STOP_SECONDS)


def _call(
    child: Child,
    order: Order,
    timeout: float | None,
    send_timeout: float,
    write: Callable[[bytes], None],
) -> int:
    """Relay a call as the front does, to ourselves in place of a caller."""
    ours, its = socket.socketpair()
    waker = wire.Waker()
    with ours, its, Slots().use(order.procedure, None, 1, 0.0) as slot:
        relay = Relay(
            wire.Connection(its, max_line=0, wakers=(waker,)),
            child,
            waker,
            slot=slot,
            order=order.to_line(),
            timeout=timeout,
            send_timeout=send_timeout,
            is_stopping=lambda: False,
            output=_ToStderr(),
        )
        thread = threading.Thread(target=relay.run, name="relay")
        thread.start()
        end = b""
        try:
            with ours.makefile("rb") as lines:
                for line in lines:
                    if line.startswith(protocol.STREAM_PREFIX):
                        write(line)
                    elif not line.startswith(protocol.ACKNOWLEDGEMENT_PREFIX):
                        end = line
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            thread.join()
            waker.close()
    write(end)  # behind what the procedure has printed
    return 0 if relay.end == protocol.RESULT else 1


class _ToStderr:
    """Shows what a procedure prints, in place of an ``OutputLog``."""

    def feed(self, data: bytes) -> None:
        sys.stderr.flush()
        os.write(2, data)

    def finish(self) -> None:
        pass
