"""What a procedures file says: ``from harp import procedure, streaming_procedure,
Result``."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable

# For type checkers only, which know the name: it costs what ``import harp`` must not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMITS = ("memory", "open_files", "processes", "cpu_time")
"""What ``limits`` may bound, by setrlimit(2)."""


class Result:
    """The result of a streaming procedure, told apart from what it streams.

    Yielded as the last value by a streaming procedure; received as the last item of
    a stream that is read directly from a daemon.

    :ivar value: anything JSON
    """

    __slots__ = ("value",)

    def __init__(self, value: object = None) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Result({self.value!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


class Context(namedtuple("Context", ("user", "address", "job_id", "procedure"))):
    """What a procedure may know of its call, if it asks for it (``context=…``).

    :ivar user: who calls, as authenticated
    :ivar address: where from, ``ADDRESS:PORT``
    :ivar job_id: any string; None if the caller gave none
    :ivar procedure: the name that was called
    """

    __slots__ = ()


class ProcedureError(Exception):
    """Raised by a procedure to decide what its caller sees.

    :param message: text for people
    :param type: what programs tell it by; None: the name of the class
    :param data: anything JSON, or None
    """

    def __init__(
        self, message: str, *, type: str | None = None, data: object = None
    ) -> None:
        if type is None:
            type = self.__class__.__name__
        if not isinstance(message, str) or not isinstance(type, str):
            raise TypeError("message and type of a ProcedureError must be strings")
        super().__init__(message)
        self.type = type
        self.data = data


class Procedure:
    """Something that may be called from elsewhere: a function under one of the
    decorators below, or a subclass with a method ``run``, which the daemon makes one
    object of::

        class Uptime(Procedure):
            timeout = 5

            def run(self):
                return float(Path("/proc/uptime").read_text().split()[0])

    Called on the spot, it is the function.

    :cvar streaming: True if its values are sent as they are yielded
    :cvar name: what callers call it; None: the name of the function or class
    :cvar timeout: seconds that a call may take as a whole; None: as configured
    :cvar uid: user that calls run as, by name or number; None: as configured
    :cvar gid: group that calls run as, by name or number, or a list of them, the
        first being the primary one; None: the user's own
    :cvar concurrency: calls of it that may run at a time; None: no limit of its own
    :cvar context: True: the first argument is a :class:`Context`; a string: the
        keyword argument of that name is; callers neither see nor give it
    :cvar limits: dict with any of ``memory`` (bytes, or a string like ``"512 MiB"``),
        ``open_files``, ``processes`` (of its user, together) and ``cpu_time``
        (seconds); None: none
    """

    streaming = False
    name: str | None = None
    timeout: float | None = None
    uid: str | int | None = None
    gid: str | int | list | tuple | None = None
    concurrency: int | None = None
    context: bool | str = False
    limits: dict | None = None

    def __init_subclass__(cls, **arguments) -> None:
        super().__init_subclass__(**arguments)
        run = getattr(cls, "run", None)
        if run is not None:  # otherwise others are made from it
            _check_function(run)
            _check_options(cls)
            if "name" not in vars(cls) or cls.name is None:
                cls.name = cls.__name__

    @property
    def function(self):
        """What a call runs."""
        return self.run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here and now, for tests and for other procedures."""
        return self.function(*args, **kwargs)


class StreamingProcedure(Procedure):
    """A :class:`Procedure` whose ``run`` is a generator: its values are sent as they
    are yielded."""

    streaming = True


class _Decorated(Procedure):
    """A function that is a procedure."""

    function = None  # that of each object

    def __init__(self, function, *, streaming: bool, **options) -> None:
        _check_function(function)
        functools.update_wrapper(self, function)
        vars(self).update(options, function=function, streaming=streaming)
        if self.name is None:
            if not hasattr(function, "__name__"):
                raise TypeError(f"name of a procedure must be given for {function!r}")
            self.name = function.__name__
        _check_options(self)


def procedure(
    function: Callable | None = None,
    *,
    name: str | None = None,
    timeout: float | None = None,
    uid: str | int | None = None,
    gid: str | int | list | tuple | None = None,
    concurrency: int | None = None,
    context: bool | str = False,
    limits: dict | None = None,
) -> Any:
    """Mark a function as a procedure: its arguments come from the caller, what it
    returns (anything JSON) goes back. Used bare or with options, which are those of
    :class:`Procedure`.

    :raises TypeError: for an option of a wrong type, or a function that can't be a
        procedure (``async def``)
    :raises ValueError: for an option out of its range
    """
    mark = functools.partial(
        _Decorated,
        streaming=False,
        name=name,
        timeout=timeout,
        uid=uid,
        gid=gid,
        concurrency=concurrency,
        context=context,
        limits=limits,
    )
    return mark if function is None else mark(function)


def streaming_procedure(
    function: Callable | None = None,
    *,
    name: str | None = None,
    timeout: float | None = None,
    uid: str | int | None = None,
    gid: str | int | list | tuple | None = None,
    concurrency: int | None = None,
    context: bool | str = False,
    limits: dict | None = None,
) -> Any:
    """Mark a generator function as a procedure whose values are sent as they are
    yielded. Its result is what it returns, or the value of a :class:`Result` that it
    yields as the last. Options and errors as for :func:`procedure`.
    """
    mark = functools.partial(
        _Decorated,
        streaming=True,
        name=name,
        timeout=timeout,
        uid=uid,
        gid=gid,
        concurrency=concurrency,
        context=context,
        limits=limits,
    )
    return mark if function is None else mark(function)


# --- what options may be ------------------------------------------------------------


def _check_function(function) -> None:
    import inspect  # here, because it would double the time of ``import harp``

    if not callable(function):
        raise TypeError(f"a procedure is a function, not {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"a procedure can't be 'async def', as {function!r} is; "
            "call asyncio.run() in a plain one"
        )


def _check_options(options) -> None:
    """Check the options of a procedure or of a class of them."""
    name = options.name
    if name is not None and not (isinstance(name, str) and name):
        raise TypeError(f"name of a procedure must be a non-empty string: {name!r}")
    if options.timeout is not None:
        _check_timeout(options.timeout)
    if options.uid is not None:
        _check_account("uid", options.uid)
    if isinstance(options.gid, (list, tuple)):
        if not options.gid:
            raise ValueError("gid must not be an empty list")
        for group in options.gid:
            _check_account("gid", group)
    elif options.gid is not None:
        _check_account("gid", options.gid)
    if options.concurrency is not None:
        _check_count("concurrency", options.concurrency)
    if not (
        isinstance(options.context, bool)
        or (isinstance(options.context, str) and options.context.isidentifier())
    ):
        raise TypeError(
            f"context must be True or the name of an argument: {options.context!r}"
        )
    if options.limits is not None:
        limits_of(options)


def limits_of(procedure: Procedure) -> dict[str, int]:
    """Return the limits of a procedure as numbers, memory in bytes.

    :raises TypeError: if they are not what limits are
    :raises ValueError: if one is out of its range
    """
    from .size import parse_size

    limits = procedure.limits or {}
    if not isinstance(limits, dict):
        raise TypeError(f"limits must be a dict: {limits!r}")
    for key, value in limits.items():
        if key not in LIMITS:
            raise TypeError(f"limits may be {', '.join(LIMITS)}, not {key!r}")
        if key != "memory":
            _check_count(f"limits: {key}", value)
    numbers = dict(limits)
    if "memory" in numbers:
        try:
            numbers["memory"] = parse_size(numbers["memory"])
        except (TypeError, ValueError) as error:
            raise type(error)(f"limits: memory: {error}") from None
    return numbers


def _check_timeout(timeout) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds: {timeout!r}")
    if not 0 < timeout < float("inf"):
        raise ValueError(f"timeout must be above 0 and finite: {timeout!r}")


def _check_account(option: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError(f"{option} must be a name or a number: {value!r}")
    if value == "" or (isinstance(value, int) and value < 0):
        raise ValueError(f"{option} must not be empty or negative: {value!r}")


def _check_count(option: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be a positive integer: {value!r}")
    if value < 1:
        raise ValueError(f"{option} must be at least 1: {value!r}")
