"""What a procedures file says: ``from harp import procedure, streaming_procedure,
Result``."""

from __future__ import annotations

import functools


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


class Procedure:
    """A function that may be called from elsewhere. Made by the decorators below;
    called on the spot, it is the function.

    :ivar name: what callers call it
    :ivar function: the function itself
    :ivar streaming: True if its values are sent as they are yielded
    :ivar timeout: seconds that a call may take as a whole; None: as configured
    :ivar uid: user that calls run as, by name or number; None: as configured
    :ivar gid: group that calls run as, by name or number; None: the user's own
    """

    def __init__(
        self,
        function,
        *,
        streaming: bool,
        name: str | None = None,
        timeout: float | None = None,
        uid: str | int | None = None,
        gid: str | int | None = None,
    ) -> None:
        _check(function, name, timeout, uid, gid)
        functools.update_wrapper(self, function)
        self.function = function
        self.streaming = streaming
        self.name = function.__name__ if name is None else name
        self.timeout = timeout
        self.uid = uid
        self.gid = gid

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def procedure(
    function=None,
    *,
    name: str | None = None,
    timeout: float | None = None,
    uid: str | int | None = None,
    gid: str | int | None = None,
):
    """Mark a function as a procedure: its arguments come from the caller, what it
    returns (anything JSON) goes back. Used bare or with options.

    :param name: what callers call it; None: the function's own name
    :param timeout: seconds that a call may take as a whole, above 0; None: as
        configured in the daemon
    :param uid: user that calls run as, by name or number; None: as configured
    :param gid: group that calls run as, by name or number; None: the user's own
    :raises TypeError: for an option of a wrong type, or a function that can't be a
        procedure (``async def``)
    :raises ValueError: for an option out of its range
    """
    return _decorate(
        function, streaming=False, name=name, timeout=timeout, uid=uid, gid=gid
    )


def streaming_procedure(
    function=None,
    *,
    name: str | None = None,
    timeout: float | None = None,
    uid: str | int | None = None,
    gid: str | int | None = None,
):
    """Mark a generator function as a procedure whose values are sent as they are
    yielded. Its result is what it returns, or the value of a :class:`Result` that it
    yields as the last. Options and errors as for :func:`procedure`.
    """
    return _decorate(
        function, streaming=True, name=name, timeout=timeout, uid=uid, gid=gid
    )


def _decorate(function, **options):
    if function is None:
        return functools.partial(Procedure, **options)
    return Procedure(function, **options)


def _check(function, name, timeout, uid, gid) -> None:
    import inspect  # here, because it would double the time of ``import harp``

    if not callable(function):
        raise TypeError(f"a procedure is a function, not {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"a procedure can't be 'async def', as {function!r} is; "
            "call asyncio.run() in a plain one"
        )
    if name is None and not hasattr(function, "__name__"):
        raise TypeError(f"name of a procedure must be given for {function!r}")
    if name is not None and not (isinstance(name, str) and name):
        raise TypeError(f"name of a procedure must be a non-empty string: {name!r}")
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout must be a number of seconds: {timeout!r}")
        if not 0 < timeout < float("inf"):
            raise ValueError(f"timeout must be above 0 and finite: {timeout!r}")
    for option, value in (("uid", uid), ("gid", gid)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise TypeError(f"{option} must be a name or a number: {value!r}")
        if value == "" or (isinstance(value, int) and value < 0):
            raise ValueError(f"{option} must not be empty or negative: {value!r}")
