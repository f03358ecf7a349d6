"""The demo, run for real. That nothing is left behind is checked after each test here
as everywhere."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import harp
import pytest
from conftest import TOP
from harp.cli import demo

COMMAND = [sys.executable, str(TOP / "bin" / "harpcaller"), "demo"]
STEPS = 9


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the demo makes its temporary directory."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def run(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, **options
    )


def daemons(place) -> list[int]:
    """Processes of both daemons whose files are there."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"/sbin/harp" in command and os.fsencode(place) in command:
            found.append(int(directory.name))
    return found


def test_demo_shows_all_steps_in_less_than_15_seconds_and_removes_all(place):
    begin = time.monotonic()
    process = run()
    assert time.monotonic() - begin < 15
    assert (process.returncode, process.stderr) == (0, "")
    for step in range(1, STEPS + 1):
        assert f"\n{step}. " in process.stdout
    assert "All as it should be." in process.stdout
    assert list(place.iterdir()) == []


def test_demo_keeps_its_files_in_a_directory_that_is_named(place):
    process = run("--dir", str(place / "new" / "demo"))
    assert process.returncode == 0
    assert list((place / "new" / "demo" / "jobs" / "done").rglob("*.jsonl"))


def test_demo_touches_no_directory_that_holds_something(place):
    (place / "file").touch()
    process = run("--dir", str(place))
    assert process.returncode == 2
    assert f"{place} is not empty" in process.stderr
    assert process.stderr.count("\n") == 1
    assert [path.name for path in place.iterdir()] == ["file"]


def test_demo_that_keeps_running_prints_commands_that_work(place, wait_for):
    process = run("--keep")
    told = process.stdout.partition("to talk to them:")[2]
    lines = [line.split() for line in told.splitlines() if line.startswith("   ")]
    call, _, status, _, kill, remove = lines
    for command in (call, status):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert json.loads(answer.stdout)
    assert daemons(place)
    subprocess.run(kill, check=True)
    wait_for(lambda: not daemons(place), 30)
    subprocess.run(remove, check=True)
    assert list(place.iterdir()) == []


# --- interrupted --------------------------------------------------------------------


@pytest.mark.parametrize(
    "step, number",
    [(step, signal.SIGINT) for step in range(1, STEPS + 1)]
    + [(3, signal.SIGTERM), (7, signal.SIGHUP)],
)
def test_interrupted_step_leaves_nothing_behind(place, step, number):
    with start() as process:
        for line in process.stdout:
            if line.startswith(f"{step}. "):
                break
        interrupt(process, number, place)


@pytest.mark.parametrize("name", ["", "cert.pem", "harpd.log", "harpcallerd.log"])
def test_interrupted_start_leaves_nothing_behind(place, wait_for, name):
    with start() as process:
        wait_for(lambda: list(place.glob(f"harpcaller-demo-*/{name}")))
        interrupt(process, signal.SIGINT, place)


def test_interrupted_stop_leaves_nothing_behind(place):
    with start() as process:
        for line in process.stdout:
            if line.startswith("All as it should be."):
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert list(place.iterdir()) == []
    assert daemons(place) == []


def test_second_interrupt_leaves_nothing_behind_either(place):
    with start() as process:
        for line in process.stdout:
            if line.startswith("6. "):
                break
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert told == "interrupted; both daemons are stopped\n"
    assert list(place.iterdir()) == []
    assert daemons(place) == []


def start() -> subprocess.Popen:
    return subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupt(process, number, place) -> None:
    """As a terminal does: the signal goes to all processes of the group."""
    os.killpg(process.pid, number)
    _, told = process.communicate(timeout=30)
    # The last steps are short: it may have been through.
    assert (process.returncode, told) in (
        (128 + number, "interrupted; both daemons are stopped\n"),
        (0, ""),
    )
    assert list(place.iterdir()) == []
    assert daemons(place) == []


# --- not as it should be ------------------------------------------------------------


def test_demo_without_openssl_says_what_to_install(place):
    process = run(env=os.environ | {"PATH": str(place)})
    assert process.returncode == 1
    assert "no 'openssl' command" in process.stderr
    assert process.stderr.count("\n") == 1
    assert list(place.iterdir()) == []


def test_demo_whose_output_nobody_reads_stops_quietly(place):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed_pipe:
        process = subprocess.run(
            COMMAND, stdout=closed_pipe, stderr=subprocess.PIPE, timeout=60
        )
    assert (process.returncode, process.stderr) == (141, b"")
    assert list(place.iterdir()) == []


def test_chart_shows_who_ran_when():
    assert demo.chart([(10.0, 11.0), (10.0, 10.5), (10.5, 12.0)]) == [
        "1  |########################                        |  0.00 to 1.00 s",
        "2  |############                                    |  0.00 to 0.50 s",
        "3  |            ####################################|  0.50 to 2.00 s",
    ]


@pytest.mark.parametrize(
    "runs, fault",
    [
        ([(0, 2), (0, 2), (1, 3)], "3 ran at a time"),
        ([(0, 1), (1, 2), (2, 3)], "1 ran at a time"),
        ([(1, 3), (1, 2), (0, 1)], "order"),
    ],
)
def test_queue_that_does_not_keep_its_rules_is_noticed(runs, fault):
    with pytest.raises(demo.CheckFailed, match=fault):
        demo.check_queue(runs, 2)


def test_queue_that_keeps_its_rules_is_fine():
    demo.check_queue([(0.1, 2), (0, 1), (1, 3), (2, 3)], 2)


def test_console_shows_what_it_runs(capsys):
    console = demo.Console(harp=harp)
    console.run("x = 5")
    console.run("for y in [x]:\n    print(y)")
    console.run("x + 1")
    console.run("1 / 0", raises=ZeroDivisionError)
    assert capsys.readouterr().out == (
        "   >>> x = 5\n"
        "   >>> for y in [x]:\n"
        "   ...     print(y)\n"
        "5\n"
        "   >>> x + 1\n"
        "   6\n"
        "   >>> 1 / 0\n"
        "   ZeroDivisionError: division by zero\n"
    )
    assert console.names["_"] == 6
    with pytest.raises(demo.CheckFailed):
        console.run("pass", raises=ZeroDivisionError)
