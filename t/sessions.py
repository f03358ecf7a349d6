"""The commands that a page of the documentation shows, run one after the other, and
what they print compared with what the page says they do.

A page is reStructuredText, or Markdown. Its blocks of ``console`` are commands behind
``$``, each with its output below; ``...`` there stands for anything. A block with a
path as its caption is the content of that file. All commands of a page go to one
shell, which has a terminal, and a home directory of its own.
"""

import doctest
import getpass
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from conftest import TOP
from terminals import run_on_terminal

HOME, USER = "/srv/ada", "ada"
"""Those that pages show."""

_BLOCK = re.compile(
    r"^\.\. code-block:: (?P<kind>\w+)\n(?P<options>(?:   :.*\n)*)\n"
    r"(?P<text>(?:   .*\n|\n)+)"
    r"|^```(?P<fence>\w+)\n(?P<fenced>(?s:.*?))^```$",
    re.M,
)
_CAPTION = re.compile(r":caption: (~/\S+)")
_MARK = "@@ command {} @@"
_WIDTH = 110
_CHANGING = [
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b", "ID"),
    (r"\b(?=\d*[a-f])[0-9a-f]{12,64}(\b|…)", "HEX"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d(:\d\d:\d\d([.,]\d+)?Z?)?", "TIME"),
    (r"\b\d\d:\d\d:\d\d\b", "TIME"),
    (r"\b\d{9,}(\.\d+)?\b", "NUMBER"),
    (r"\b\d+[dhm] \d\d[hms]\b", "DURATION"),
    (r"\b\d+(\.\d+)? ?m?s\b", "DURATION"),
    (r"\bok +\d+\b", "ok DURATION"),  # of a table whose column says ms
    (r"\b[pu]id\W+\d+", "NUMBER"),
    (r"\bprocess \d+", "process PID"),
    (r"127\.0\.0\.1:\d{5}\b", "PEER"),
    (r'"duration": [\d.]+', "DURATION"),
    (r"\x1b\[[0-9;]*[mK]", ""),
]


class Block(NamedTuple):
    """A block of a page.

    :ivar kind: the language that it says it is
    :ivar file: path of the file that it is the content of; None: of none
    """

    kind: str
    file: str | None
    text: str


class Step(NamedTuple):
    """A command, and what the page says it prints."""

    command: str
    output: str


def blocks(page: str) -> Iterator[Block]:
    """Find the blocks of code of a page, a path below the checkout."""
    text = (TOP / page).read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        kind, content = found["kind"], found["text"]
        if kind is None:
            yield Block(found["fence"], None, found["fenced"])
            continue
        caption = _CAPTION.search(found["options"])
        content = textwrap.dedent(content).strip("\n") + "\n"
        yield Block(kind, caption and caption[1], content)


def steps(block: Block) -> list[Step]:
    """Take a block of ``console`` apart."""
    found: list[Step] = []
    goes_on = False  # the command, in the next line
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:], ""))
        elif goes_on:
            found[-1] = Step(f"{found[-1].command}\n{line}", "")
        elif found:
            found[-1] = found[-1]._replace(output=f"{found[-1].output}{line}\n")
        goes_on = (goes_on or line.startswith("$ ")) and line.endswith("\\")
    return found


def run(page: str, home: Path, replace: dict[str, str]) -> tuple[int, list[str]]:
    """Run all commands of a page in the checkout.

    :param replace: from texts in commands and files to what stands for them here
    :returns: the number of commands, and those that printed something else, with what
    """
    wanted: list[Step] = []
    script = [
        'mark() { local status=$?; printf "\\n%s\\n" "$1"; return $status; }',
        f'cd "{TOP}"',
    ]
    for block in blocks(page):
        if block.file is not None:
            source = home / ".files" / str(len(script))
            source.parent.mkdir(exist_ok=True)
            source.write_text(_replaced(block.text, replace), encoding="utf-8")
            target = f'"$HOME/{block.file[2:]}"'
            script.append(f'mkdir -p "$(dirname {target})"; cp "{source}" {target}')
        elif block.kind == "console":
            for step in steps(block):
                script.append(f"mark '{_MARK.format(len(wanted))}'")
                script.append(_replaced(step.command, replace))
                wanted.append(step)
    (home / ".script").write_text("\n".join(script) + "\nexit 0\n", encoding="utf-8")
    printed = run_on_terminal(
        ["bash", str(home / ".script")],
        columns=_WIDTH,
        environment=_environment(home),
        answer=b"",
    )
    back = {there: here for here, there in replace.items()}
    back |= {str(home): HOME, getpass.getuser(): USER}
    return len(wanted), list(_differences(wanted, _replaced(printed, back)))


def _differences(wanted: list[Step], printed: str) -> Iterator[str]:
    compare: Callable = doctest.OutputChecker().check_output
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for number, step in enumerate(wanted):
        _, _, rest = printed.partition(_MARK.format(number))
        got, _, _ = rest.partition(_MARK.format(number + 1))
        said, got = step.output.strip("\n") + "\n", got.strip("\n") + "\n"
        if not compare(_steady(said), _steady(got), options):
            yield f"$ {step.command}\n--- the page says:\n{said}--- it printed:\n{got}"


def _environment(home: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "TERM": "dumb",
        "NO_COLOR": "1",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HARPCALLER_URL": "",
        "PYTHONPATH": "",
    }


def _steady(text: str) -> str:
    """Return a text without what is another with each run."""
    for pattern, name in _CHANGING:
        text = re.sub(pattern, name, text)
    return text


def _replaced(text: str, replace: dict[str, str]) -> str:
    for here, there in replace.items():
        text = text.replace(here, there)
    return text
