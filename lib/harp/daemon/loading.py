"""The procedures: a file, or a directory of them, loaded once, in the spawner."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import traceback
import types
from collections import namedtuple
from collections.abc import MutableMapping

from ..proc import Procedure, limits_of
from .control import Description

_MODULE = "procedures"
_OLD_NAMES = ("harpd", "harp.proc")
_NEW_IMPORT = "from harp import procedure, streaming_procedure, Result"


class Loaded(
    namedtuple("Loaded", ("procedure", "signature", "whole", "context", "account"))
):
    """A procedure, and what would take each call its time to find out.

    :ivar signature: what callers may give
    :ivar whole: the signature of the function itself
    :ivar context: the parameter that gets the :class:`harp.Context`; None: none does
    :ivar account: what calls run as; None: it has to be looked for then
    """

    __slots__ = ()


class LoadingError(Exception):
    """Raised when the procedures can't be used. Its text is a line with file, line
    and reason."""


def load(path: str) -> tuple[dict[str, Loaded], str]:
    """Run a procedures file, or all ``*.py`` of a directory in the order of their
    names, and return the procedures by name.

    :returns: the procedures, and a digest of the source: of one file its SHA-256, of a
        directory that of its lines ``DIGEST  NAME``, as ``sha256sum *.py`` prints them
    :raises LoadingError: if that can't be done
    """
    found: dict[str, tuple[Procedure, str]] = {}
    digests = []
    for file, module in _files(path):
        source = _read(file)
        digests.append((hashlib.sha256(source).hexdigest(), os.path.basename(file)))
        for procedure in _run(source, file, module):
            other, other_file = found.setdefault(procedure.name, (procedure, file))
            if other is not procedure:
                raise _duplicate(other, other_file, procedure, file)
    if os.path.isdir(path):
        lines = "".join(f"{digest}  {name}\n" for digest, name in digests)
        digest = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    else:
        ((digest, _),) = digests
    loaded = {name: _examine(*procedure) for name, procedure in found.items()}
    return loaded, digest


def _files(path: str) -> list[tuple[str, str]]:
    """Return the files to run, each with the name of its module."""
    if not os.path.isdir(path):
        return [(path, _MODULE)]
    # One file may say ``from procedures.other import ...`` of those before it.
    sys.modules[_MODULE] = package = types.ModuleType(_MODULE)
    package.__path__ = []
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise LoadingError(f"{path}: {error.strerror}") from None
    return [
        (os.path.join(path, name), f"{_MODULE}.{name.removesuffix('.py')}")
        for name in names
        if name.endswith(".py") and not name.startswith(".")
    ]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise LoadingError(f"{path}: {error.strerror}") from None


def _run(source: bytes, path: str, name: str) -> list[Procedure]:
    """Run a file, and return its procedures."""
    names = _Names(path)
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    names.variables = vars(module)
    try:
        code = compile(source, path, "exec", dont_inherit=True)
        exec(code, vars(module), names)
    except LoadingError:
        raise
    # A procedures file can raise anything, sys.exit() too.
    except BaseException as error:
        raise LoadingError(_explain(path, error)) from None
    found = []
    for value in list(vars(module).values()):
        if isinstance(value, Procedure):
            found.append(value)
        elif _is_procedure_class(value) and value.__module__ == name:
            try:
                found.append(value())
            except BaseException as error:  # as above
                text = f"{_where(value, path)}: {value.name}: {_reason(error)}"
                raise LoadingError(text) from None
    return found


def _is_procedure_class(value: object) -> bool:
    # One without ``run`` is for others to be made from.
    return (
        isinstance(value, type)
        and issubclass(value, Procedure)
        and hasattr(value, "run")
    )


def _examine(procedure: Procedure, path: str) -> Loaded:
    try:
        whole = inspect.signature(procedure.function)
        context = _context_parameter(procedure, whole)
        limits_of(procedure)
    except (TypeError, ValueError) as error:
        where = _where(procedure, path)
        raise LoadingError(f"{where}: {procedure.name}: {error}") from None
    signature = whole
    if context is not None:
        others = [
            parameter
            for parameter in whole.parameters.values()
            if parameter.name != context
        ]
        signature = whole.replace(parameters=others)
    return Loaded(procedure, signature, whole, context, None)


def _context_parameter(
    procedure: Procedure, signature: inspect.Signature
) -> str | None:
    """Return the name of the parameter that gets the context, None if none does.

    :raises TypeError: if there is no such parameter
    """
    parameters = signature.parameters
    if procedure.context is False:
        return None
    if procedure.context is True:
        first = next(iter(parameters.values()), None)
        if first is None or first.kind not in (
            first.POSITIONAL_ONLY,
            first.POSITIONAL_OR_KEYWORD,
        ):
            raise TypeError("context=True, but it takes no first argument")
        return first.name
    parameter = parameters.get(procedure.context)
    if parameter is None or parameter.kind not in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    ):
        raise TypeError(
            f"context={procedure.context!r}, but it has no argument of that name"
        )
    return procedure.context


def describe(loaded: Loaded, uid: int | None) -> Description:
    """Return what the front knows of a procedure.

    :param uid: what calls of it run as; None: unknown
    """
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
        _doc(procedure),
        parameters,
        procedure.streaming,
        procedure.timeout,
        procedure.concurrency,
        uid,
    )


def _doc(procedure: Procedure) -> str | None:
    doc = getattr(procedure.function, "__doc__", None)
    if doc is None and _is_procedure_class(type(procedure)):
        doc = type(procedure).__doc__
    return None if doc is None else inspect.cleandoc(str(doc))


class _Names(MutableMapping):
    """The variables of the procedures file while it runs. Only so is a second
    procedure of a name noticed that replaces the first."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.variables: dict = {}

    def __setitem__(self, name, value) -> None:
        old = self.variables.get(name)
        if old is not value and _is_procedure(old) and _is_procedure(value):
            if old.name == value.name:
                raise _duplicate(old, self._path, value, self._path)
        self.variables[name] = value

    def __getitem__(self, name):
        return self.variables[name]

    def __delitem__(self, name) -> None:
        del self.variables[name]

    def __iter__(self):
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)


def _is_procedure(value: object) -> bool:
    return isinstance(value, Procedure) or _is_procedure_class(value)


def _duplicate(first, first_path: str, second, second_path: str) -> LoadingError:
    return LoadingError(
        f"{_where(second, second_path)}: another procedure is called "
        f"{second.name!r}: {_where(first, first_path)}"
    )


def _where(procedure, path: str) -> str:
    """Say where a procedure, or a class of them, stands."""
    function = procedure.run if isinstance(procedure, type) else procedure.function
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else path


def _explain(path: str, error: BaseException) -> str:
    """Say in a line what went wrong while a file was run: its own line, the reason,
    and the place where that arose if it is elsewhere."""
    reason = _reason(error)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}"
    if isinstance(error, ImportError) and _is_old(error.name):
        reason += f"; it is now: {_NEW_IMPORT}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == path]
    if not own:
        return f"{path}: {reason}"
    text = f"{path}:{own[-1].lineno}: {reason}"
    last = frames[-1]
    if last.filename != path and not last.filename.startswith("<frozen"):
        text += f" (raised at {last.filename}:{last.lineno})"
    return text


def _reason(error: BaseException) -> str:
    return " ".join("".join(traceback.format_exception_only(error)).split())


def _is_old(module: str | None) -> bool:
    return module is not None and any(
        module == old or module.startswith(old + ".") for old in _OLD_NAMES
    )
