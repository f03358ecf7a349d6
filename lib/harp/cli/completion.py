"""What a shell asks to complete this command's words: scripts for bash and zsh that ask
back, and the answers. One place knows all commands and options, the parsers."""

from __future__ import annotations

import argparse
import re

import harp
from harp.commandline import Parser

from . import options as cli_options
from . import output

_BASH = """\
# harpcaller: completion for bash. To use it: eval "$(harpcaller completion bash)"
_harpcaller() {
    local line=${COMP_LINE:0:COMP_POINT} current=${COMP_WORDS[COMP_CWORD]} words prefix=
    # Not COMP_WORDS: bash takes addresses apart there, at each colon.
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    mapfile -t COMPREPLY < <(
        "${words[0]/#\\~/$HOME}" completion --words "${words[@]:1}" 2>/dev/null
    )
    # But what is put in takes the place of such a part.
    [[ ${words[-1]} == *"$current" ]] && prefix=${words[-1]%"$current"}
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}
complete -o default -F _harpcaller harpcaller
"""
_ZSH = """\
#compdef harpcaller
# harpcaller: completion for zsh. To use it: eval "$(harpcaller completion zsh)"
_harpcaller() {
    local -a found
    found=("${(@f)$("${words[1]}" completion --words "${(@)words[2,CURRENT]}" \\
        2>/dev/null)}")
    [[ -n $found[1] ]] && compadd -U -- "${found[@]}" || _files
}
(( $+functions[compdef] )) && compdef _harpcaller harpcaller
"""
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")
_HOST_COMMANDS = ("call", "ping", "procedures")
_SECONDS = 2.0  # that somebody waits who has pressed a key


def add_completion(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_completion)
    parser.add_argument("shell", metavar="bash|zsh", choices=("bash", "zsh"), nargs="?")
    parser.add_argument("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.epilog = (
        "To use it, put a line into ~/.bashrc: eval \"$(harpcaller completion bash)\"; "
        "or in ~/.zshrc, behind compinit: eval \"$(harpcaller completion zsh)\""
    )


COMMANDS = {"completion": add_completion}


def _completion(options: argparse.Namespace) -> int:
    if options.words is not None:
        for word in _candidates(options.words or [""]):
            output.text(word)
        return 0
    if options.shell is None:
        raise output.UsageError("name bash or zsh")
    script = _BASH if options.shell == "bash" else _ZSH
    output.line(script.encode())
    return 0


def _candidates(words: list[str]) -> list[str]:
    """Return what the last word can be completed to.

    :param words: behind ``harpcaller``, up to where the cursor is
    """
    from . import main  # here, because that imports this by name

    current = words[-1]
    before = words[:-1]
    place = _command_position(before)
    if place is None:
        if current.startswith("-"):
            return _options(main.top_parser(), current)
        return _beginning(current, main.COMMANDS)
    command = before[place]
    if command not in main.COMMANDS:
        return []
    parser = main.command_parser(command)
    if current.startswith("-"):
        return _options(parser, current)
    if command == "completion":
        return _beginning(current, ("bash", "zsh"))
    positionals = _positionals(parser, before[place + 1 :])
    if positionals is not None and command in _HOST_COMMANDS:
        if command == "ping" or not positionals:
            return _hosts(before, current)
    return []


def _command_position(words: list[str]) -> int | None:
    """Return where the command stands among the words, None if it isn't there."""
    number = 0
    while number < len(words):
        if not words[number].startswith("-"):
            return number
        # All options that stand in front of it but --help take a value.
        number += 1 if "=" in words[number] or words[number] == "--help" else 2
    return None


def _positionals(parser: argparse.ArgumentParser, words: list[str]) -> list[str] | None:
    """Return those words that are no options and not the values of any; None: the next
    word is an option's value."""
    usage = parser.format_usage()
    found = []
    is_value = False
    for word in words:
        if is_value:
            is_value = False
        elif word.startswith("-") and word != "-":
            # "[--timeout SECONDS]" in the usage, but "[--detach]".
            is_value = re.search(rf"{re.escape(word)}\s+[A-Z{{]", usage) is not None
        else:
            found.append(word)
    return None if is_value else found


def _options(parser: argparse.ArgumentParser, current: str) -> list[str]:
    known = set(_OPTION.findall(parser.format_help())) - {"-h"}
    return _beginning(current, known)


def _beginning(current: str, known) -> list[str]:
    return sorted(word for word in known if word.startswith(current))


def _hosts(before: list[str], current: str) -> list[str]:
    """Hosts, also behind a comma, of the dispatcher that the words name."""
    from .hostnames import list_hosts

    parser = Parser(add_help=False)
    cli_options.add_dispatcher(parser)
    options, _ = parser.parse_known_args(before)
    head, comma, begun = current.rpartition(",")
    try:
        with cli_options.caller(options) as caller:
            known = list_hosts(caller, _SECONDS)
    except (harp.HarpException, output.UsageError):
        return []  # a shell has no place for the reason
    return [head + comma + name for name in _beginning(begun, known)]
