"""The check that each test is followed by finds what a test leaves behind."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import leftovers
import pytest

BRIEF = 0.05  # s


@pytest.fixture
def left(tmp_path):
    before = leftovers.take(tmp_path)
    return lambda seconds=BRIEF: leftovers.wait_until_gone(tmp_path, before, seconds)


def test_nothing_is_left_where_nothing_was_made(left):
    assert left() == []


def test_thread_is_found_until_it_ends(left):
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="straggler")
    thread.start()
    assert left() == ["thread straggler"]
    end.set()
    assert left(5) == []


def test_descriptor_is_found_until_it_is_closed(left):
    reader, writer = os.pipe()
    try:
        found = left()
    finally:
        os.close(reader)
        os.close(writer)
    assert [line.split(":")[0] for line in found] == [
        f"descriptor {number}" for number in sorted((reader, writer), key=str)
    ]
    assert left() == []


def test_file_is_found_until_it_is_removed(left, tmp_path):
    with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
        assert f"file {file.name}" in left()
    assert left() == []


def test_child_is_found_until_it_ends(left):
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert left() == ["process sleep 60"]
    finally:
        child.kill()
        child.wait()
    assert left() == []


ORPHAN = """
import subprocess
print(subprocess.Popen(["/bin/sleep", "60"], start_new_session=True, env={},
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""


def test_process_whose_parent_has_gone_is_found(left):
    # given: a grandchild in a session and with an environment of its own
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ORPHAN], stdout=subprocess.PIPE
    )
    # then
    try:
        assert left() == ["process /bin/sleep 60"]
    finally:
        os.kill(int(made.stdout), signal.SIGKILL)
    assert left(5) == []


def run_tests(directory, conftest, tests, *options):
    """Run tests of their own with these settings."""
    here = Path(__file__).parent
    (directory / "conftest.py").write_text(conftest)
    (directory / "pytest.ini").write_text(
        (here / "pytest.ini").read_text().replace("../lib", f"{here} {here}/../lib")
    )
    (directory / "test_it.py").write_text(tests)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-c", directory / "pytest.ini", directory]
        + ["-q", f"--basetemp={directory / 'base'}", *options],
        stdout=subprocess.PIPE,
        text=True,
        timeout=50,
    )


def test_what_a_program_leaves_open_is_found_under_dev(tmp_path):
    ran = run_tests(
        tmp_path,
        (Path(__file__).parent / "conftest.py").read_text(),
        "import subprocess, sys\n"
        "import pytest\n"
        "@pytest.mark.parametrize('end', ['', '.close()'])\n"
        "def test_opens(tmp_path, end):\n"
        "    with open(tmp_path / 'it.log', 'w') as log:\n"
        "        code = 'open(\"/dev/null\")' + end\n"
        "        subprocess.run([sys.executable, '-c', code], stderr=log)\n",
        "--dev",
    )
    assert "it.log: ResourceWarning: unclosed file" in ran.stdout
    assert "2 passed, 1 error" in ran.stdout


def test_test_that_hangs_is_ended_and_what_it_started_too(tmp_path):
    # given: tests that hang, with these settings but less time
    tests = Path(__file__).parent
    text = (tests / "conftest.py").read_text()
    for old, new in [
        ("\n_TEST_SECONDS = 60\n", "\n_TEST_SECONDS = 1\n"),
        ("\n_SECONDS_TO_END = 5.0\n", "\n_SECONDS_TO_END = 0.1\n"),
    ]:
        assert text.count(old) == 1
        text = text.replace(old, new)
    # when
    ran = run_tests(
        tmp_path,
        text,
        "import subprocess, time\n"
        "def test_hangs():\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        "    child.returncode = 0\n"
        "    time.sleep(60)\n"
        "def test_goes_on(): pass\n",
    )
    # then
    assert "not done within 1 s" in ran.stdout
    assert "this test has left behind:" in ran.stdout
    assert "process sleep 60" in ran.stdout
    assert "1 failed, 1 passed, 1 error" in ran.stdout


def test_child_with_the_command_line_of_an_earlier_one_is_no_leftover(tmp_path):
    # given: a daemon that ran before, as the ones that tests share
    with subprocess.Popen(["sleep", "60"]) as daemon:
        before = leftovers.take(tmp_path)
        # when: it has another process of its own kind
        with subprocess.Popen(["sleep", "60"]) as standby:
            # then
            try:
                assert leftovers.wait_until_gone(tmp_path, before, BRIEF) == []
            finally:
                standby.kill()
                daemon.kill()
