"""The procedures file: loaded once, in the spawner."""

from __future__ import annotations

import inspect
import sys
import traceback
import types
from collections import namedtuple
from collections.abc import MutableMapping

from ..proc import Procedure
from .control import Description

_MODULE = "procedures"

class Loaded(
    namedtuple("Loaded", ("procedure", "signature", "account"), defaults=(None,))
):
    """A procedure, and what would take each call its time to find out.

    :ivar account: what calls run as; None: it has to be looked for then
    """

    __slots__ = ()


class LoadingError(Exception):
    """Raised when the procedures can't be used. Its text is a line with file, line
    and reason."""


def load(path: str) -> dict[str, Loaded]:
    """Run a procedures file and return its procedures by name.

    :raises LoadingError: if that can't be done
    """
    names = _Names(path)
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        module = types.ModuleType(_MODULE)
        module.__file__ = path
        sys.modules[_MODULE] = module
        names.variables = vars(module)
        exec(code, vars(module), names)
    except LoadingError:
        raise
    # A procedures file can raise anything, sys.exit() too.
    except BaseException as error:
        raise LoadingError(_explain(path, error)) from None
    found: dict[str, Loaded] = {}
    for value in list(vars(module).values()):
        if isinstance(value, Procedure):
            _add(found, value, path)
    return found


def _add(found: dict[str, Loaded], procedure: Procedure, path: str) -> None:
    other = found.get(procedure.name)
    if other is None:
        try:
            signature = inspect.signature(procedure.function)
        except (TypeError, ValueError) as error:
            where = _where(procedure, path)
            raise LoadingError(f"{where}: {procedure.name}: {error}") from None
        found[procedure.name] = Loaded(procedure, signature)
    elif other.procedure is not procedure:
        raise _duplicate(path, other.procedure, procedure)


def describe(loaded: Loaded) -> Description:
    """Return what callers may know of a procedure."""
    parameters = []
    for parameter in loaded.signature.parameters.values():
        entry = {"name": parameter.name, "kind": parameter.kind.name.lower()}
        if parameter.default is not parameter.empty:
            entry["default"] = repr(parameter.default)
        if parameter.annotation is not parameter.empty:
            entry["annotation"] = inspect.formatannotation(parameter.annotation)
        parameters.append(entry)
    procedure = loaded.procedure
    return Description(
        procedure.name,
        inspect.getdoc(procedure.function),
        parameters,
        procedure.streaming,
        procedure.timeout,
    )


class _Names(MutableMapping):
    """The variables of the procedures file while it runs. Only so is a second
    procedure of a name noticed that replaces the first."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.variables: dict = {}

    def __setitem__(self, name, value) -> None:
        old = self.variables.get(name)
        if isinstance(old, Procedure) and isinstance(value, Procedure):
            if old is not value and old.name == value.name:
                raise _duplicate(self._path, old, value)
        self.variables[name] = value

    def __getitem__(self, name):
        return self.variables[name]

    def __delitem__(self, name) -> None:
        del self.variables[name]

    def __iter__(self):
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)


def _duplicate(path: str, first: Procedure, second: Procedure) -> LoadingError:
    return LoadingError(
        f"{_where(second, path)}: another procedure is called {second.name!r}: "
        f"{_where(first, path)}"
    )


def _where(procedure: Procedure, path: str) -> str:
    code = getattr(procedure.function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else path


def _explain(path: str, error: BaseException) -> str:
    """Say in a line what went wrong while a file was run: its own line, the reason,
    and the place where that arose if it is elsewhere."""
    reason = " ".join("".join(traceback.format_exception_only(error)).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}"
    if isinstance(error, OSError) and error.filename == path:
        return f"{path}: {error.strerror}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == path]
    if not own:
        return f"{path}: {reason}"
    text = f"{path}:{own[-1].lineno}: {reason}"
    last = frames[-1]
    if last.filename != path and not last.filename.startswith("<frozen"):
        text += f" (raised at {last.filename}:{last.lineno})"
    return text
