"""The manual of the command line has the commands and options that there are, and no
others; that of the library all public names."""

import argparse
import re

import harp
import harp.testing
from conftest import TOP
from harp import errors
from harp.cli import main

PAGE = (TOP / "doc" / "cli.rst").read_text(encoding="utf-8")
API = (TOP / "doc" / "api.rst").read_text(encoding="utf-8")
FORMATS = {"--json", "--jsonl"}


def part(text: str, title: str) -> str:
    """What stands below a title, up to the next one of its kind."""
    return text[text.index(f"\n{title}\n---") :].split("\n\n\n")[0] + "\n"


def entries(text: str) -> dict[str, str]:
    """The entries of definition lists: first word of the term, and the whole entry."""
    found = re.findall(r"^(``\S.*``\n(?:    .*\n|\n(?=    ))+)", text, re.M)
    return {re.match(r"``([\w-]+)", entry)[1]: entry for entry in found}


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {
        option
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        for option in action.option_strings
        if option.startswith("--")
    }


def named(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


COMMANDS = entries(part(PAGE, "Commands"))
COMMON = entries(part(PAGE, "Options of all commands")).keys()


def test_manual_has_each_command():
    assert COMMANDS.keys() == main.COMMANDS.keys()


def test_manual_has_the_options_of_all_commands():
    assert COMMON == options(main.top_parser()) - {"--version"}


def test_manual_has_each_option_of_a_command_and_no_other():
    for name in main.COMMANDS:
        there_are = options(main.command_parser(name))
        told = named(COMMANDS[name])
        assert told <= there_are, name
        assert there_are - told <= COMMON | FORMATS, name


def test_manual_tells_which_commands_have_no_json():
    sentence = re.search(r"All\s+commands but (.*?) have\n", PAGE, re.S)[1]
    without = {
        name
        for name in main.COMMANDS
        if not FORMATS & options(main.command_parser(name))
    }
    assert {*re.findall(r"``(\w+)``", sentence)} == without
    assert FORMATS <= named(part(PAGE, "Output"))


def test_manual_names_the_words_that_a_command_takes():
    for name in main.COMMANDS:
        usage = re.match(r"``[\w-]+ ?(.*)``", COMMANDS[name])[1]
        words = {
            word
            for action in main.command_parser(name)._actions
            if not action.option_strings
            for word in re.findall(r"\w+", action.metavar or action.dest)
        }
        assert {*re.findall(r"\w+", usage)} == words, name


# Modules that both daemons have in use, and what reads errors, but reports none.
SHARED = {"jsonline", "wire", "server_tls", "auth", "protocol.parts"}
READERS = {"dispatcher.explain", "protocol.explain", "errors"}
ASKED = {"protocol.daemon": "daemon", "protocol.asked": "dispatcher"}


def reporters() -> dict[str, set[str]]:
    """Which daemons report an error, by its type, as the code has it."""
    found: dict[str, set[str]] = {name: set() for name in errors.ERROR_TYPES}
    package = TOP / "lib" / "harp"
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        who = {ASKED.get(module, parts[0])} & {"daemon", "dispatcher"}
        if module in SHARED:
            who = {"daemon", "dispatcher"}
        if who and module not in READERS:
            names = re.findall(r"\b[A-Z_]+\b", path.read_text(encoding="utf-8"))
            for name in {name.lower() for name in names} & found.keys():
                found[name] |= who
    return found


def test_page_of_errors_tells_who_reports_each():
    page = (TOP / "doc" / "errors.rst").read_text(encoding="utf-8")
    entries = re.findall(r"^``(\w+)``\n    (Exit status .*?)\n\n", page, re.M | re.S)
    told = {
        name: {*re.findall(r"the\s+(daemon|dispatcher)\b", text.rpartition("from")[2])}
        for name, text in entries
    }
    # Others' daemons may report it.
    assert told.pop("procedure_loading_error") == {"daemon"}
    assert {**told, "procedure_loading_error": set()} == reporters()


def test_reference_has_each_public_name():
    documented = re.findall(r"^\.\. auto\w+:: ([\w.]+)", API, re.M)
    assert sorted(documented) == sorted([*harp.__all__, "harp.testing"])
    members = re.search(r":: harp.testing\n   :members: ((?:.+\n?)+)", API)[1]
    public = {
        name
        for name, value in vars(harp.testing).items()
        if getattr(value, "__module__", None) == "harp.testing" and name[0] != "_"
    }
    assert {*re.findall(r"\w+", members)} == public


def test_each_public_method_says_what_it_does():
    silent = [
        f"{name}.{member}"
        for name in harp.__all__
        if isinstance(owner := getattr(harp, name), type)
        for member, value in vars(owner).items()
        if (member[0] != "_" or member == "__call__")
        and (callable(value) or isinstance(value, property))
        and not value.__doc__
    ]
    assert not silent
