"""The pid file."""

import os
import signal
import subprocess
import sys

import pytest

from harp import accounts, pidfile
from harp.errors import reason

_HOLDER = """
import sys
sys.path.insert(0, {lib!r})
from harp.pidfile import Pidfile
Pidfile({path!r}).take()
print("taken", flush=True)
sys.stdin.read()
"""


def start_holder(path):
    lib = os.path.dirname(os.path.dirname(pidfile.__file__))
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER.format(lib=lib, path=path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"taken\n"
    return process


def end(process, number=signal.SIGTERM):
    process.send_signal(number)
    process.communicate()


def test_pidfile_names_the_process_that_took_it(tmp_path):
    path = str(tmp_path / "pid")
    mine = pidfile.Pidfile(path)
    mine.take()
    try:
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
        assert pidfile.running(path) == os.getpid()
    finally:
        mine.release()
    assert not os.path.exists(path)
    assert pidfile.running(path) is None


def test_pidfile_of_a_running_process_is_not_taken(tmp_path):
    path = str(tmp_path / "pid")
    holder = start_holder(path)
    try:
        assert pidfile.running(path) == holder.pid
        with pytest.raises(pidfile.AlreadyRunning) as error:
            pidfile.Pidfile(path).take()
        assert error.value.pid == holder.pid
        assert path in str(error.value) and str(holder.pid) in str(error.value)
    finally:
        end(holder)


def test_pidfile_that_a_killed_process_left_is_stale(tmp_path):
    path = str(tmp_path / "pid")
    end(start_holder(path), signal.SIGKILL)
    assert os.path.exists(path)
    assert pidfile.running(path) is None
    mine = pidfile.Pidfile(path)
    mine.take()
    assert pidfile.running(path) == os.getpid()
    mine.release()


def test_pidfile_with_garbage_and_no_holder_is_stale(tmp_path):
    (tmp_path / "pid").write_text("no number")
    assert pidfile.running(str(tmp_path / "pid")) is None


def test_pidfile_that_was_not_taken_is_not_removed_by_release(tmp_path):
    (tmp_path / "pid").write_text("1\n")
    pidfile.Pidfile(str(tmp_path / "pid")).release()
    assert (tmp_path / "pid").exists()


def test_service_whose_pid_file_is_refused_says_which_option_names_another(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir(mode=0o500)
    # Root may write everywhere.
    account = accounts.find("nobody", None) if os.getuid() == 0 else None
    with accounts.acting_as(account), pytest.raises(PermissionError) as error:
        pidfile.take_pidfile(str(directory / "pid"))
    assert "-p names another" in reason(error.value)
    assert pidfile.take_pidfile(None) is None
