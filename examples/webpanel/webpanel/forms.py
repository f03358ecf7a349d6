"""From a procedure's parameters to the fields of a form, and from what was typed there
to the arguments of a call.

What a field takes is told by its parameter's annotation, else by its default. A field
holds the default to begin with; where that is None, or is nothing that JSON has, it is
empty, and an empty one isn't sent.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import harp
from harp import jsonline
from harp.arguments import parse_value
from harp.protocol.listed import (
    KEYWORD_ONLY,
    POSITIONAL_ONLY,
    VAR_KEYWORD,
    VAR_POSITIONAL,
    ListedProcedure,
    Parameter,
)

# What a field takes.
TEXT = "text"
INTEGER = "integer"
NUMBER = "number"
BOOLEAN = "boolean"
CHOICE = "choice"
JSON = "json"
ANY = "any"  # JSON if it is that, else text
LINES = "lines"  # any number of ANY, a line each
OBJECT = "object"  # a JSON object

# How what is typed into a field of ANY or LINES is read.
MODES = (ANY, TEXT, JSON)

_NAMES = {
    "str": TEXT,
    "int": INTEGER,
    "float": NUMBER,
    "bool": BOOLEAN,
    "list": JSON,
    "tuple": JSON,
    "dict": JSON,
    "Sequence": JSON,
    "Iterable": JSON,
    "Mapping": JSON,
    "List": JSON,
    "Tuple": JSON,
    "Dict": JSON,
}

_SECRET = re.compile("pass(word|wd|phrase|code)|secret|token|credential|api_?key", re.I)

NOTHING = object()
"""In place of a value that there is not."""


class Field(NamedTuple):
    """A field of a form.

    :ivar name: the parameter's
    :ivar kind: its kind, as in :mod:`harp.protocol.listed`
    :ivar takes: one of the above
    :ivar choices: of a CHOICE, the values
    :ivar default: what it holds to begin with, a JSON value, or :data:`NOTHING`
    :ivar required: it has no default, so that something must be sent
    :ivar hint: annotation and default, as the procedure has them
    :ivar is_secret: what is typed is to be seen by nobody, to judge by its name
    """

    name: str
    kind: str
    takes: str
    choices: tuple
    default: object
    required: bool
    hint: str
    is_secret: bool


class Typed(NamedTuple):
    """What was typed into a field.

    :ivar text: as it is
    :ivar mode: one of :data:`MODES`, for fields that have a choice
    :ivar is_secret: it is to be masked
    """

    text: str
    mode: str = ANY
    is_secret: bool = False


# --- from parameters to fields -------------------------------------------------------


def fields_of(procedure: ListedProcedure) -> list[Field]:
    """Return the fields of a form, one for each parameter."""
    return [_field(parameter) for parameter in procedure.parameters]


def _field(parameter: Parameter) -> Field:
    default = _literal(parameter.default)
    takes, choices = _taken(parameter, default)
    is_secret = _SECRET.search(parameter.name) is not None
    if is_secret and takes == ANY:
        takes = TEXT  # a password of digits is no number
    default = NOTHING if default is None else _as_json(default)
    many = parameter.kind in (VAR_POSITIONAL, VAR_KEYWORD)
    hints = []
    if parameter.annotation is not None:
        hints.append(str(parameter.annotation))
    if parameter.default is not None:
        hints.append(f"default: {parameter.default}")
    return Field(
        parameter.name,
        parameter.kind,
        takes,
        choices,
        default,
        required=parameter.default is None and not many,
        hint=", ".join(hints),
        is_secret=is_secret,
    )


def _literal(text: object) -> Any:
    """The value of a default's source text; NOTHING if it isn't a plain one."""
    if not isinstance(text, str):
        return NOTHING
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return NOTHING
    return list(value) if isinstance(value, tuple) else value


def _as_json(value: object) -> object:
    """Return a value as it is sent, whose keys are strings; NOTHING: it can't be."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return NOTHING


def _taken(parameter: Parameter, default: object) -> tuple[str, tuple]:
    if parameter.kind == VAR_POSITIONAL:
        return LINES, ()
    if parameter.kind == VAR_KEYWORD:
        return OBJECT, ()
    annotation = _bare(str(parameter.annotation or ""))
    if annotation.startswith("Literal["):
        choices = _literal(annotation.removeprefix("Literal")) or ()
        if choices is not NOTHING and NOTHING not in map(_as_json, choices):
            return CHOICE, tuple(choices)
    name = annotation.partition("[")[0].rpartition(".")[2]
    if name in _NAMES:
        return _NAMES[name], ()
    return _of_default(default), ()


def _bare(annotation: str) -> str:
    """Return an annotation without quotes, None, and the module that it is from."""
    text = annotation.strip("'\"").replace("typing.", "")
    if text.startswith("Optional[") and text.endswith("]"):
        text = text.removeprefix("Optional[")[:-1]
    return text.removesuffix(" | None").removeprefix("None | ").strip()


def _of_default(default: object) -> str:
    for kind, takes in (
        (bool, BOOLEAN),
        ((int, float), NUMBER),
        (str, TEXT),
        ((list, dict), JSON),
    ):
        if isinstance(default, kind):
            return takes
    return ANY


def text_of(field: Field, value: object) -> Typed:
    """Return what one would type to send a value."""
    if value is NOTHING:
        return Typed("", ANY, field.is_secret)
    if field.takes == LINES and isinstance(value, list):
        lines = [_any_text(item) for item in value]
        if not any("\n" in line or "\r" in line for line in lines):
            return Typed("\n".join(lines), ANY, field.is_secret)
        return Typed(_json_text(value), JSON, field.is_secret)
    if field.takes == TEXT and isinstance(value, str):
        return Typed(value, TEXT, field.is_secret)
    if field.takes == ANY:
        return Typed(_any_text(value), ANY, field.is_secret)
    return Typed(_json_text(value), JSON, field.is_secret)


def _any_text(value: object) -> str:
    """Text that :func:`parse_value` reads as that value."""
    if isinstance(value, str) and value == value.strip() != "":
        try:
            if parse_value(value) == value and not _CHANGED.search(value):
                return value
        except ValueError:
            pass  # it looks like JSON that can't be sent
    return _json_text(value)


# What browsers don't send back as it is. JSON has escapes for these.
_CHANGED = re.compile("[\0\r\ud800-\udfff]")


def _json_text(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


# --- from what was typed to arguments ------------------------------------------------


def arguments(
    fields: Sequence[Field], typed: Mapping[str, Typed]
) -> tuple[tuple, dict, dict[str, str]]:
    """Return the arguments of a call: positional ones, or named ones, those that are
    secret as :class:`harp.Secret`; and the faults, by field's name."""
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for field in fields:
        entry = typed.get(field.name, Typed(""))
        try:
            value = _value(field, entry)
            if value is NOTHING and field.required:
                raise ValueError("something must stand here")
        except ValueError as error:
            faults[field.name] = str(error)
            continue
        if value is not NOTHING and entry.is_secret:
            value = _masked(field, value)
        values[field.name] = value
    if faults:
        return (), {}, faults
    if any(_needs_position(field, values[field.name]) for field in fields):
        positional, faults = _positional(fields, values)
        return positional, {}, faults
    named, faults = _named(fields, values)
    return (), named, faults


def _value(field: Field, typed: Typed) -> Any:
    text = typed.text
    if field.takes == TEXT:
        # A text that is cleared where one stood is the empty one.
        return text if text or field.default is not NOTHING else NOTHING
    if field.takes == LINES:
        return _lines(text, typed.mode)
    if field.takes == ANY:
        if typed.mode == TEXT:
            return text
        if text.strip():
            return _json(text) if typed.mode == JSON else parse_value(text)
        return NOTHING
    if not text.strip():
        return NOTHING
    value = _json(text, _EXPECTED[field.takes])
    if field.takes == CHOICE:
        if not any(_same(value, choice) for choice in field.choices):
            raise ValueError("must be one of those offered")
    elif not _FITS[field.takes](value):
        raise ValueError(f"must be {_EXPECTED[field.takes]}")
    return value


_EXPECTED = {
    INTEGER: "a whole number",
    NUMBER: "a number",
    BOOLEAN: "true or false",
    JSON: 'JSON, like [1, 2] or {"a": "b"}',
    OBJECT: 'a JSON object, like {"name": "value"}',
    CHOICE: "one of those offered",
}

_FITS = {
    INTEGER: lambda value: type(value) is int,
    NUMBER: lambda value: type(value) in (int, float),
    BOOLEAN: lambda value: isinstance(value, bool),
    JSON: lambda value: True,
    OBJECT: lambda value: isinstance(value, dict),
}


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _json(text: str, expected: str = "JSON; a text stands in quotes") -> Any:
    try:
        value = json.loads(text, parse_constant=_no_constant)
        jsonline.encode(value)  # 1e999 is too large to be sent
    except (ValueError, RecursionError):
        raise ValueError(f"must be {expected}") from None
    return value


def _lines(text: str, mode: str) -> Any:
    if mode == JSON and text.strip():
        value = _json(text)
        if not isinstance(value, list):
            raise ValueError('must be a JSON array, like [1, "two"]')
        return value or NOTHING
    # Other ends of lines than this one may stand in a value.
    lines = [line for line in text.split("\n") if line.strip()]
    read = str if mode == TEXT else parse_value
    return [read(line) for line in lines] or NOTHING


def _same(one: object, other: object) -> bool:
    """Tell whether two values are the same JSON: 1 is not true, nor 1.0."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _is_default(field: Field, value: object) -> bool:
    if field.default is NOTHING or isinstance(value, harp.Secret):
        return False
    return _same(value, field.default)


def _masked(field: Field, value: Any) -> Any:
    if field.takes == LINES:
        return [harp.Secret(item) for item in value]
    if field.takes == OBJECT:
        return {name: harp.Secret(item) for name, item in value.items()}
    return harp.Secret(value)


def _needs_position(field: Field, value: object) -> bool:
    return value is not NOTHING and field.kind in (POSITIONAL_ONLY, VAR_POSITIONAL)


def _named(
    fields: Sequence[Field], values: Mapping[str, Any]
) -> tuple[dict, dict[str, str]]:
    """Arguments by name. Those that are the default needn't be sent."""
    named: dict[str, Any] = {}
    for field in fields:
        value = values[field.name]
        if value is NOTHING:
            continue
        if field.kind == VAR_KEYWORD:
            twice = sorted(value.keys() & {other.name for other in fields})
            if twice:
                return {}, {field.name: f"has a field of its own: {twice[0]}"}
            named |= value
        elif not _is_default(field, value):
            named[field.name] = value
    return named, {}


def _positional(
    fields: Sequence[Field], values: Mapping[str, Any]
) -> tuple[tuple, dict[str, str]]:
    """Arguments by position: all up to the last one that is given."""
    positional: list = []
    gap = None
    for field in fields:
        value = values[field.name]
        if field.kind in (KEYWORD_ONLY, VAR_KEYWORD):
            if value is not NOTHING and not _is_default(field, value):
                text = "can't be sent together with those that have no name"
                return (), {field.name: text}
        elif value is NOTHING:
            if field.kind != VAR_POSITIONAL:
                gap = gap or field.name
        elif gap is not None:
            return (), {gap: f"must be given, because {field.name} follows it"}
        elif field.kind == VAR_POSITIONAL:
            positional += value
        else:
            positional.append(value)
    return tuple(positional), {}
