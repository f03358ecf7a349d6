"""The page of errors, and what it says of the code."""

import re
import subprocess
import sys

import pytest
from conftest import TOP
from harp import errors
from harp.cli import main, output

PAGE = (TOP / "doc" / "errors.rst").read_text(encoding="utf-8")


def test_page_has_each_type_of_error_with_its_exit_status():
    entries = re.findall(r"^``(\w+)``\n    Exit status (\d+); (.*)", PAGE, re.M)
    found = {type: int(status) for type, status, _ in entries}
    assert len(entries) == len(found)
    assert found.keys() == errors.ERROR_TYPES == output.STATUSES.keys()
    assert found == output.STATUSES
    # Each says at once whether the procedure ran.
    assert all(re.match("ran: |nothing ran", rest) for *_, rest in entries)


def constants():
    return {
        value
        for name, value in vars(output).items()
        if name.isupper() and isinstance(value, int)
    }


def test_page_has_each_exit_status():
    table = PAGE.partition("status  meaning")[2].partition("The daemon, reading")[0]
    told = set(map(int, re.findall(r"^(\d+) ", table, re.M)))
    # 78 is harpcallerd's.
    assert told == constants() - {output.MISCONFIGURED} | {0}


def test_help_has_the_exit_statuses_that_a_program_may_meet():
    process = subprocess.run(
        [sys.executable, str(TOP / "bin" / "harpcaller"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    listed = process.stdout.partition("exit status:")[2]
    told = set(map(int, re.findall(r"(?:^|\s{2,})(\d+) ", listed, re.M)))
    others = {output.MISCONFIGURED, output.BROKEN_PIPE}
    assert told == constants() - others | {0}


def test_manual_tells_of_each_command():
    manual = (TOP / "doc" / "cli.rst").read_text(encoding="utf-8")
    assert {name for name in main.COMMANDS if f"``{name}" not in manual} <= {
        "completion"  # which has a section of its own
    }


LIGHT = f"""
import sys
sys.path.insert(0, {str(TOP / "lib")!r})
sys.argv = ["harpcaller"]
before = set(sys.modules)
from harp.cli.main import main
try:
    main([*{{words!r}}, "--dispatcher"])
except SystemExit:
    pass
print(*(set(sys.modules) - before))
"""
HEAVY = {
    "typing", "tomllib", "dataclasses", "subprocess", "logging", "threading", "ssl",
    "datetime", "tempfile", "pathlib", "shlex", "queue", "inspect", "harp.config",
}  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [["version"], ["call", "web01", "x"], ["status", "x"], ["list"], ["cancel", "x"]],
    ids=" ".join,
)
def test_command_loads_only_what_it_needs(run_python, words):
    """Whoever calls it in a loop waits for each import."""
    loaded = set(run_python(LIGHT.format(words=words), "-I", "-S").split())
    assert "harp.client" in loaded
    assert not HEAVY & loaded
