"""HTML made in Python. Whatever is not an :class:`Element` is text, and is escaped;
there is no way to put markup in as text, so that escaping can't be forgotten::

    tag.p("Job ", tag.a(job_id, href=url("/job", id=job_id)), class_="note")
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator

_VOID = frozenset(("input", "link", "meta", "br", "hr"))

# What of the controls HTML allows; all others are shown as pictures of themselves.
_KEPT = "\t\n"
_PICTURES = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in _KEPT},
    0x7F: 0x2421,
    # These change the direction of what stands beside them.
    **dict.fromkeys((0x202A, 0x202B, 0x202C, 0x202D, 0x202E), 0xFFFD),
    **dict.fromkeys((0x2066, 0x2067, 0x2068, 0x2069), 0xFFFD),
}

# A link that is made of data could run a script, or lead elsewhere.
_LINKS = frozenset(("href", "src", "action", "formaction"))


class Element:
    """An element with what is in it.

    :param children: elements, texts, numbers; lists of them; None and False are nothing
    :param attributes: ``class_`` is ``class``, ``data_since`` is ``data-since``; True
        is an attribute without a value, None and False are none
    :raises ValueError: for a link that leads out of this site
    """

    __slots__ = ("_attributes", "_children", "_name")

    def __init__(self, name: str, children: tuple, attributes: dict) -> None:
        self._name = name
        self._children = children
        self._attributes = {
            key.rstrip("_").replace("_", "-"): value
            for key, value in attributes.items()
            if value is not None and value is not False
        }
        for key in _LINKS & self._attributes.keys():
            _check_link(self._attributes[key])

    def __str__(self) -> str:
        return "".join(self._parts())

    def _parts(self) -> Iterator[str]:
        yield f"<{self._name}"
        for key, value in self._attributes.items():
            text = html.escape(str(value))
            yield f" {key}" if value is True else f' {key}="{text}"'
        yield ">"
        if self._name not in _VOID:
            # What is sent back has to be what it was.
            escaping = html.escape if self._name == "textarea" else shown
            yield from _render(self._children, escaping)
            yield f"</{self._name}>"


def _render(children: tuple | list, escaping: Callable[[str], str]) -> Iterator[str]:
    for child in children:
        if isinstance(child, Element):
            yield from child._parts()
        elif isinstance(child, (list, tuple)):
            yield from _render(child, escaping)
        elif child is not None and child is not False:
            yield escaping(str(child))


def shown(text: str) -> str:
    """Return a text as it stands in HTML to be read."""
    return html.escape(text.translate(_PICTURES))


def _check_link(link: object) -> None:
    text = str(link)
    if not text.startswith(("/", "?", "#")) or text.startswith(("//", "/\\")):
        raise ValueError(f"link leads out of this site: {text!a}")


class _Tags:
    def __getattr__(self, name: str):
        def make(*children: object, **attributes: object) -> Element:
            return Element(name, children, attributes)

        return make


tag = _Tags()
"""``tag.p(…)`` makes a ``p``, and so on."""


def document(*children: Element) -> bytes:
    """Return a whole page. Of a text, what is no Unicode becomes question marks."""
    text = "<!DOCTYPE html>\n" + str(Element("html", children, {"lang": "en"})) + "\n"
    return text.encode("utf-8", "replace")
