"""The reference of both configurations, and the files in examples/, are made of the
tables of keys, and what they say is true."""

import os
import pwd
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import TOP
from harp import config, template

from example_configurations import EXAMPLES, TABLES, anew

TEXTS = {name: (EXAMPLES / name).read_text(encoding="utf-8") for name in TABLES}
names = pytest.mark.parametrize("name", TABLES)
_DIRECTORIES = {"harpd.toml": "/etc/harpd", "harpcaller.toml": "/etc/harpcaller"}
_ELSEWHERE = {"/run/harpcaller": "run", "/var/lib/harpcaller": "jobs"}


def section_of(row: config.Key) -> str:
    return row.name if template.is_table(row) else row.name.rpartition(".")[0]


@names
def test_example_is_as_made_from_the_table(name):
    """If it isn't: PYTHONPATH=lib python3 t/example_configurations.py"""
    assert TEXTS[name] == anew(name)
    assert max(map(len, TEXTS[name].splitlines())) <= 88


@names
def test_what_is_commented_out_in_an_example_is_the_default(name):
    table = TABLES[name]
    text = re.sub(r"(?m)^# (\w+ = .+)$", r"\1", TEXTS[name])
    loaded = config.check(tomllib.loads(text), table, name)
    as_it_is = config.check(tomllib.loads(TEXTS[name]), table, name)
    assert loaded == as_it_is != table()


@names
def test_each_key_has_a_reason_and_an_example_that_could_stand_there(name):
    for _, row in config.keys(TABLES[name]).values():
        assert row.reason, row.name
        if row.example is None:
            # There is a default to look at.
            assert row.default is not None and not template.is_table(row), row.name
            continue
        lines = template.example(row)
        assert all(f"# Example: {line}\n" in TEXTS[name] for line in lines)
        section = section_of(row)
        text = "\n".join([f"[{section}]" if section else "", *lines])
        config.check(tomllib.loads(text), TABLES[name], name)


@pytest.mark.parametrize(
    "name, program", [("harpd.toml", "harpd"), ("harpcaller.toml", "harpcallerd")]
)
def test_example_passes_the_check_of_its_daemon(name, program, tmp_path):
    """With the files that ``setup`` makes, and no other users than there are."""
    command = [sys.executable, str(TOP / "sbin" / program)]
    directory = tmp_path / "etc"
    setup = [*command, "setup", "--directory", str(directory), "--no-user"]
    subprocess.run(setup, check=True, capture_output=True, timeout=60)
    text = TEXTS[name].replace(_DIRECTORIES[name], str(directory))
    for path, place in _ELSEWHERE.items():
        text = re.sub(rf"(?m)^# (\w+ = .*){path}", rf"\1{tmp_path / place}", text)
    me = pwd.getpwuid(os.geteuid()).pw_name
    text = re.sub(r'(?m)^user = "\w+"$', f'user = "{me}"', text)
    (directory / name).write_text(text)
    checked = subprocess.run(
        [*command, "-t", "-c", str(directory / name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr
    assert not checked.stderr or "good" in checked.stderr + checked.stdout


@names
def test_reference_has_each_section_once(name):
    page = (TOP / "doc" / f"{name}.rst").read_text(encoding="utf-8")
    table = TABLES[name]
    found = re.findall(
        rf"^\.\. config-keys:: {table.__name__}\n(?:   :section: (\w+)\n)?", page, re.M
    )
    sections = {section_of(row) for _, row in config.keys(table).values()}
    assert sorted(found) == sorted(sections)
