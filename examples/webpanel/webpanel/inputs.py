"""The inputs of the form that calls a procedure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import forms, show
from .forms import Field, Typed
from .markup import Element, tag

if TYPE_CHECKING:
    from .submit import Entered

_MODE_TEXTS = {
    forms.ANY: "JSON if it is that, else text",
    forms.TEXT: "text",
    forms.JSON: "JSON",
}


def identity(name: str) -> str:
    """Return the id of an input's element, which the links to faults lead to."""
    return "in-" + "".join(
        char if char.isascii() and char.isalnum() else f"_{ord(char):x}_"
        for char in name
    )


def line(
    name: str, label: str, entered: Entered, hint: str, number: bool = False
) -> Element:
    """Return an input of one line."""
    control = tag.input(
        id=identity(name),
        name=name,
        value=entered.rest.get(name, ""),
        inputmode="numeric" if number else None,
        autocomplete="off",
        spellcheck="false",
        **_described(name, entered),
    )
    return _with_label(name, label, [control], entered, hint)


def argument(field: Field, entered: Entered) -> Element:
    """Return what takes an argument."""
    name = f"arg.{field.name}"
    typed = entered.typed.get(field.name, Typed("", forms.ANY, field.is_secret))
    has_modes = field.takes in (forms.ANY, forms.LINES) and not field.is_secret
    controls = [
        _control(field, name, typed, _described(name, entered)),
        has_modes and _modes(field, typed),
        tag.label(
            tag.input(
                type="checkbox",
                name=f"secret.{field.name}",
                value="yes",
                checked=typed.is_secret,
            ),
            " secret",
            class_="secret",
            title="shown to nobody; the job's file on the dispatcher holds it",
        ),
    ]
    hints = [field.hint, _HINTS.get(field.takes), field.required and "needed"]
    return _with_label(
        name, field.name, controls, entered, "; ".join(filter(None, hints))
    )


_HINTS = {
    forms.LINES: "any number, a line each",
    forms.JSON: "as JSON",
    forms.OBJECT: 'further ones, as JSON: {"name": "value"}',
}


def _described(name: str, entered: Entered) -> dict:
    return {
        "aria_describedby": f"{identity(name)}-hint",
        "aria_invalid": "true" if name in entered.faults else None,
    }


def _with_label(
    name: str, label: str, controls: list, entered: Entered, hint: str
) -> Element:
    fault = entered.faults.get(name)
    return tag.div(
        tag.label(label, for_=identity(name), class_="name"),
        tag.div(controls, class_="controls"),
        tag.p(
            fault and tag.strong(fault[0].upper() + fault[1:] + ". "),
            hint,
            id=f"{identity(name)}-hint",
            class_="hint",
        ),
        class_="field faulty" if fault else "field",
    )


def _control(field: Field, name: str, typed: Typed, described: dict) -> Element:
    common = {"id": identity(name), "name": name, **described}
    common["aria_required"] = "true" if field.required else None
    if field.is_secret and field.takes in (forms.TEXT, forms.ANY):
        # What was typed isn't sent back.
        return tag.input(type="password", autocomplete="new-password", **common)
    if field.takes == forms.BOOLEAN:
        return _select(field, (True, False), typed, common)
    if field.takes == forms.CHOICE:
        return _select(field, field.choices, typed, common)
    common |= {"autocomplete": "off", "spellcheck": "false", "autocapitalize": "none"}
    text = "" if typed.is_secret else typed.text
    if "\n" in text or field.takes in (forms.LINES, forms.JSON, forms.OBJECT):
        rows = min(12, max(3, text.count("\n") + 2))
        # A newline that comes first isn't the text's.
        return tag.textarea("\n", text, rows=rows, **common)
    mode = {forms.INTEGER: "numeric", forms.NUMBER: "decimal"}.get(field.takes)
    return tag.input(value=text, inputmode=mode, **common)


def _select(field: Field, choices: tuple, typed: Typed, attributes: dict) -> Element:
    options = []
    if field.default is forms.NOTHING:
        options.append(tag.option("", value=""))
    for choice in choices:
        value = forms.text_of(field, choice).text
        shown = show.plain(choice)
        options.append(tag.option(shown, value=value, selected=value == typed.text))
    return tag.select(options, **attributes)


def _modes(field: Field, typed: Typed) -> Element:
    options = [
        tag.option(text, value=mode, selected=mode == typed.mode)
        for mode, text in _MODE_TEXTS.items()
    ]
    return tag.select(
        options,
        name=f"mode.{field.name}",
        aria_label=f"how {field.name} is read",
        class_="mode",
    )
