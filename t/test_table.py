"""Listings: a table on a terminal, JSON lines elsewhere."""

import json
import subprocess
import sys

import pytest
from terminals import run_on_terminal

SHOW = """
import json, sys
from harp.cli import table
rows, as_json = json.loads(sys.argv[1])
columns = [
    table.Column("ID", lambda row: row["id"], whole=True),
    table.Column("TEXT", lambda row: row["text"]),
    table.Column("N", lambda row: row["n"]),
]
table.show(iter(rows), columns, as_json)
"""


@pytest.fixture
def on_terminal():
    def show(rows, columns=80, as_json=False, **environment):
        command = [sys.executable, "-c", SHOW, json.dumps([rows, as_json])]
        return run_on_terminal(command, columns, environment).splitlines()

    return show


ROWS = [{"id": "a", "text": "some", "n": 5}, {"id": "bcd", "text": None, "n": 1234}]


def test_listing_on_a_terminal_is_a_table_in_columns(on_terminal):
    assert on_terminal(ROWS) == [
        "ID   TEXT     N",
        "a    some     5",
        "bcd        1234",
    ]


def test_listing_elsewhere_is_a_line_of_json_for_each_entry():
    command = [sys.executable, "-c", SHOW, json.dumps([ROWS, False])]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    assert [json.loads(line) for line in printed.splitlines()] == ROWS


def test_json_is_printed_on_a_terminal_when_asked_for(on_terminal):
    assert [json.loads(line) for line in on_terminal(ROWS, as_json=True)] == ROWS


def test_no_entries_print_nothing(on_terminal):
    assert on_terminal([]) == []


@pytest.mark.parametrize("columns", [21, 33, 60])
def test_wide_column_is_cut_to_the_terminal(on_terminal, columns):
    rows = [{"id": "0123456789", "text": "x" * 100, "n": 7}]
    titles, line = on_terminal(rows, columns, PYTHONUTF8="1")
    assert len(line) == columns == len(titles)
    assert line.startswith("0123456789  xx") and line.endswith("x…  7")


def test_id_is_never_cut(on_terminal):
    rows = [{"id": "x" * 50, "text": "some long text", "n": 1}]
    _, line = on_terminal(rows, 20, PYTHONUTF8="1")
    assert line == "x" * 50 + "  some …  1"


def test_text_from_elsewhere_stays_in_its_cell(on_terminal):
    rows = [{"id": "a\nb", "text": "\x1b[31m\ud800", "n": 1}]
    _, line = on_terminal(rows)
    assert line == r"a\nb  \x1b[31m\ud800  1"


def test_what_the_locale_cannot_say_is_escaped(on_terminal):
    rows = [{"id": "a", "text": "grün", "n": 1}, {"id": "b", "text": "x" * 99, "n": 1}]
    _, first, second = on_terminal(
        rows, 40, PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert r"gr\xfcn" in first
    assert "x~" in second


def test_times_are_local_and_durations_in_two_units(run_python):
    code = """
import os, time
os.environ["TZ"] = "XYZ-2"  # two hours before UTC
time.tzset()
from harp.cli.table import moment, span
assert moment(0) == "1970-01-01 02:00:00"
assert moment(None) is span(None) is None
assert moment(10**20) == str(10**20)
found = [span(seconds) for seconds in (0, 59, 60, 3599, 3600, 93600, -5)]
assert found == ["0s", "59s", "1m 00s", "59m 59s", "1h 00m", "1d 02h", "0s"], found
"""
    run_python(code)
