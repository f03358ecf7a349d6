"""The documentation builds, and what it shows is so."""

import contextlib
import functools
import io
import itertools
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
import sessions
from harp.cli import main as cli
from harp.cli.admin import command as admin
from harp.daemon import command as daemon

from conftest import TOP

COMMANDS = {"harpd": daemon, "harpcallerd": admin, "harpcaller": cli}
PAGES = ["README.md"] + [
    f"doc/{name}.rst"
    for name in (
        *("harpcallerd", "harpd", "installing", "moving", "operating", "overview"),
        *("procedures", "quickstart", "security"),
    )
]


@pytest.fixture
def port() -> str:
    """A free port with as many digits as the one that the pages show."""
    for number in range(9999, 1024, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            return str(number)
    pytest.fail("no port of four digits is free")


@pytest.fixture
def replace(port) -> dict[str, str]:
    """What commands must say here in place of what they say in the page."""
    found = {"4306": port}
    if os.geteuid() == 0:
        found["harpd call "] = "harpd call -u nobody "
    return found


@pytest.mark.parametrize("page", ["doc/quickstart.rst", "doc/procedures.rst"])
def test_commands_of_a_page_print_what_it_shows(page, tmp_path, replace):
    count, differences = sessions.run(page, tmp_path, replace)
    assert count > 5
    assert not differences, "\n\n".join(differences)


def commands(page: str) -> list[list[str]]:
    """Find the commands of ours that a page shows, each as its words."""
    lines = []
    for block in sessions.blocks(page):
        text = block.text.replace("\\\n", " ")
        if block.kind == "console":
            lines += re.findall(r"^(?:\$|root@\w+:~#) (.*)", text, re.M)
        elif block.kind == "sh":
            lines += text.splitlines()
    return [words for line in lines for words in _commands_in(line)]


def _commands_in(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for is_end, words in itertools.groupby(lexer, lambda w: set(w) <= set("();<>|&")):
        program, *others = words
        if not is_end and os.path.basename(program) in COMMANDS:
            yield [os.path.basename(program), *others]


@functools.cache
def help_of(program: str, *action: str) -> str:
    """What a command prints for ``--help``."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        COMMANDS[program].main([*action, "--help"])
    return told.getvalue()


@pytest.mark.parametrize("page", PAGES)
def test_options_and_actions_that_a_page_shows_exist(page):
    shown = commands(page)
    assert shown or page in ("doc/moving.rst", "doc/overview.rst")
    for program, *words in shown:
        known = help_of(program)
        actions = [
            word
            for word in words
            if re.fullmatch("[a-z][a-z-]*", word) and re.search(rf"\b{word}\b", known)
        ]
        if actions:
            known += help_of(program, actions[0])
        for word in words:
            if re.match(r"--?[a-z]", word):
                option = word.partition("=")[0]
                assert re.search(rf"(?<![\w-]){option}\b", known), [program, *words]
        assert actions or {"-t", "--version"} & {*words}, [program, *words]


@pytest.mark.parametrize("page", PAGES)
def test_python_and_toml_of_a_page_can_be_read(page):
    for block in sessions.blocks(page):
        if block.kind == "python":
            compile(block.text, page, "exec")
        elif block.kind == "toml":
            tomllib.loads(block.text)


def test_documentation_builds_without_a_warning(tmp_path):
    for builder in ("html", "man"):
        command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", builder]
        command += ["-d", tmp_path / "doctrees", TOP / "doc", tmp_path / builder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "index.html").exists()
    assert (tmp_path / "man" / "harpcaller.1").exists()
