"""A call, in its own process: from the fork to the exit.

The process is forked ahead and waits for its order on a socket that it shares with the
front. What it writes there are lines of the protocol with the caller. It never returns
into the spawner's code: every way out is an ``os._exit``.
"""

from __future__ import annotations

import gc
import inspect
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import NoReturn

from .. import accounts, errors, kernel, protocol, wire
from ..proc import Context, ProcedureError, Result, limits_of
from . import call_account, values
from .control import Order, Settings
from .loading import Loaded

_CHUNK = 64 * 1024
_REHEARSED = inspect.signature(lambda value: value)
_MAX_MESSAGE = 64 * 1024
"""Characters of an exception's message and traceback; more is for no one to read."""

_STDERR_TAIL = 4096  # characters: the last lines say what went wrong


def run(
    sock: socket.socket,
    output: int,
    highest: int,
    spawner: int,
    procedures: Mapping[str, Loaded],
    settings: Settings,
) -> NoReturn:
    """Be a call's process. What is done here for every call costs; what can be done
    once stands in the spawner.

    :param sock: shared with the front
    :param output: descriptor that standard output and error go to
    :param highest: no open descriptor has a higher number
    :param spawner: pid of the parent
    """
    status = 1
    try:
        _settle_in(sock, output, highest, spawner, settings)
        _rehearse(settings)
        line = _read_order(sock)
        if line is not None:
            _Call(sock, spawner, procedures, settings).run(Order.from_line(line))
        status = 0
    except BrokenPipeError:
        pass  # the front has gone, the spawner will see to the rest
    except BaseException:
        sys.__excepthook__(*sys.exc_info())  # into the log
    finally:
        os._exit(status)


def _settle_in(
    sock: socket.socket, output: int, highest: int, spawner: int, settings: Settings
) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    kernel.die_with_parent(spawner)
    kernel.adopt_orphans()
    kernel.set_process_name("harpd-standby")
    os.dup2(output, 1)
    os.dup2(output, 2)
    # The number of the socket stays: a file that the procedures file has opened, and
    # that is closed here, must never come to mean the socket.
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, highest + 1)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(settings.open_files, hard), hard))
    gc.enable()


def _rehearse(settings: Settings) -> None:
    """Do what every call does, while nobody waits for it: the memory that it writes to
    is shared with the spawner until then, and each page takes its time to be copied."""
    order = Order.from_line(Order("", [None], None, "", "").to_line())
    bound = _bind(_REHEARSED, order.arguments)
    wire.encode(protocol.build_acknowledgement(False))
    values.encode(protocol.build_result, bound.args[0], settings.max_value)


def _read_order(sock: socket.socket) -> bytes | None:
    """Return the order; None if the front has gone without giving one."""
    data = b""
    while not data.endswith(b"\n"):
        chunk = sock.recv(_CHUNK)
        if not chunk:
            return None
        data += chunk
    return data


class _Call:
    def __init__(
        self,
        sock: socket.socket,
        spawner: int,
        procedures: Mapping[str, Loaded],
        settings: Settings,
    ) -> None:
        self._sock = sock
        self._spawner = spawner
        self._pid = os.getpid()
        self._procedures = procedures
        self._settings = settings

    def run(self, order: Order) -> None:
        loaded = self._procedures.get(order.procedure)
        if loaded is None:
            return self._fail(errors.NO_SUCH_PROCEDURE, "no such procedure")
        kernel.set_process_name(order.procedure)
        try:
            _set_limits(loaded.procedure)
            self._change_user(loaded)
        except (OSError, LookupError, ValueError) as error:
            return self._fail(
                errors.SYSTEM_ERROR, f"can't set user and limits: {error}"
            )
        _set_environment(order)
        try:
            bound = _bind_call(loaded, order)
        except TypeError as error:
            return self._fail(errors.INVALID_ARGUMENT_LIST, str(error))
        streaming = loaded.procedure.streaming
        self._send(wire.encode(protocol.build_acknowledgement(streaming)))
        self._send(self._end(loaded.procedure, bound))
        _flush()

    def _change_user(self, loaded: Loaded) -> None:
        account = loaded.account
        if account is None:
            account = call_account.of_procedure(loaded.procedure, self._settings)
        if account is None:
            return
        accounts.become(account)
        kernel.die_with_parent(self._spawner)
        os.environ["HOME"] = account.home
        if account.name is not None:
            os.environ["USER"] = os.environ["LOGNAME"] = account.name

    def _end(self, procedure, bound) -> bytes:
        """Run the procedure, and return the line that the call ends with."""
        try:
            returned = procedure.function(*bound.args, **bound.kwargs)
            if procedure.streaming:
                returned = self._stream(returned)
            if isinstance(returned, Result):
                returned = returned.value
            return self._encode(protocol.build_result, returned)
        except values.InvalidValue as error:
            message = protocol.build_daemon_error(errors.INVALID_RESULT, str(error))
        # SystemExit and KeyboardInterrupt, too: a caller waits for an answer.
        except BaseException as error:
            message = self._build_exception(error)
        return wire.encode(message)

    def _stream(self, produced: object) -> object:
        """Send what is produced value by value, and return the result."""
        if isinstance(produced, Result):
            return produced
        if isinstance(produced, (str, bytes, Mapping)) or not hasattr(
            produced, "__iter__"
        ):
            raise values.InvalidValue(
                "a streaming procedure yields its values, or returns an iterator, "
                f"not {type(produced).__qualname__}"
            )
        iterator = iter(produced)
        try:
            while True:
                value = next(iterator)
                if isinstance(value, Result):
                    return value
                self._send(self._encode(protocol.build_stream, value))
        except StopIteration as stop:
            return stop.value
        finally:
            # What the procedure does in its own ``finally`` is part of the call.
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _encode(self, build, value: object) -> bytes:
        return values.encode(build, value, self._settings.max_value)

    def _build_exception(self, error: BaseException) -> dict:
        cls = type(error)
        try:
            # Exactly a string: a subclass of it may do anything when looked at.
            message = "".join(str(error))
        except BaseException as another:
            message = f"(no text: its str() raised {_name_of(type(another))})"
        if isinstance(error, ProcedureError):
            data = self._check_data(error.data)
            return protocol.build_exception(error.type, _cut(message), data)
        module = cls.__module__ if type(cls.__module__) is str else "?"
        data = {"class": _name_of(cls), "module": module}
        data |= _data_of_command(error)
        if self._settings.traceback:
            data["traceback"] = _format_traceback(error)
        name = _name_of(cls).rpartition(".")[2]
        return protocol.build_exception(name, _cut(message), data)

    def _check_data(self, data: object) -> object:
        """Return what a procedure adds to its error, or what is wrong with it: the
        error must not be lost for that."""
        try:
            self._encode(protocol.build_result, data)
        except values.InvalidValue as error:
            return {"invalid_data": str(error)}
        return data

    def _fail(self, type_: str, message: str) -> None:
        self._send(wire.encode(protocol.build_daemon_error(type_, _cut(message))))

    def _send(self, line: bytes) -> None:
        if os.getpid() != self._pid:
            # A copy that the procedure has forked returns here a second time.
            os._exit(0)
        self._sock.sendall(line)


def _bind(signature, arguments: list | dict):
    if isinstance(arguments, dict):
        return signature.bind(**arguments)
    return signature.bind(*arguments)


def _name_of(cls: type) -> str:
    """Return the qualified name of a class, whatever its metaclass makes of that."""
    return type.__dict__["__qualname__"].__get__(cls)


def _bind_call(loaded: Loaded, order: Order) -> inspect.BoundArguments:
    """Return the arguments of a call, with the context where it is wanted.

    :raises TypeError: if they don't fit what callers may give
    """
    bound = _bind(loaded.signature, order.arguments)
    if loaded.context is None:
        return bound
    parameter = loaded.whole.parameters[loaded.context]
    if parameter.kind != parameter.POSITIONAL_ONLY and parameter.name in bound.kwargs:
        # It would go to ``**others``, and then stand there twice.
        raise TypeError(f"got an unexpected keyword argument {parameter.name!r}")
    context = Context(order.user, order.peer, order.job_id, order.procedure)
    return inspect.BoundArguments(
        loaded.whole, {**bound.arguments, parameter.name: context}
    )


_RESOURCES = {
    "memory": resource.RLIMIT_AS,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "cpu_time": resource.RLIMIT_CPU,
}


def _set_limits(procedure) -> None:
    """Set the limits of a procedure. Before the change of user, as root may also raise
    them.

    :raises OSError: if it isn't allowed
    :raises ValueError: as setrlimit does for the same
    """
    if not procedure.limits:
        return
    for name, most in limits_of(procedure).items():
        # The soft limit of processor time is a signal that says what it was about.
        hard = most + 1 if name == "cpu_time" else most
        resource.setrlimit(_RESOURCES[name], (most, hard))


def _data_of_command(error: BaseException) -> dict:
    """Return what the failure of a command tells beyond its text."""
    subprocess = sys.modules.get("subprocess")
    if subprocess is None or not isinstance(error, subprocess.CalledProcessError):
        return {}
    stderr = error.stderr
    if isinstance(stderr, bytes):
        stderr = stderr.decode("utf-8", "backslashreplace")
    if not isinstance(stderr, str):
        stderr = None
    return {
        "returncode": error.returncode,
        "stderr": stderr and stderr[-_STDERR_TAIL:],
    }


def _set_environment(order: Order) -> None:
    if order.job_id is not None:
        try:
            os.environ["HARP_JOB_ID"] = order.job_id
        except ValueError:
            pass  # any string may be an id here, not every one fits there


def _format_traceback(error: BaseException) -> str:
    import traceback

    try:
        # Without this module's own frame.
        inner = error.__traceback__.tb_next
        text = "".join(traceback.format_exception(type(error), error, inner))
    except BaseException as another:
        return f"(no traceback: {type(another).__name__})"
    return text[-_MAX_MESSAGE:]


def _cut(text: str) -> str:
    if len(text) <= _MAX_MESSAGE:
        return text
    return f"{text[:_MAX_MESSAGE]}... ({len(text) - _MAX_MESSAGE} characters more)"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the procedure has closed or replaced it
