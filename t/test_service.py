"""A daemon's life: signals, readiness, log lines."""

import io
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from harp import log, service

# --- signals ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_a_wait_in_progress(number):
    with service.Signals() as signals:
        sender = threading.Timer(0.01, os.kill, (os.getpid(), number))
        sender.start()
        assert signals.wait() == number
        sender.join()


def test_signals_come_in_their_order_and_none_is_lost():
    sent = [signal.SIGHUP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
    with service.Signals() as signals:
        for number in sent:
            signal.raise_signal(number)
        assert [signals.wait() for _ in sent] == sent


def test_other_signals_are_none_of_its_business():
    previous = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        with service.Signals() as signals:
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGHUP)
            assert signals.wait() == signal.SIGHUP
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_another_thread_can_end_the_wait(in_thread):
    with service.Signals() as signals:
        stopping = in_thread(signals.stop)
        assert signals.wait() == signal.SIGTERM
        stopping.result()


def test_stop_and_signals_never_block_however_many():
    with service.Signals() as signals:
        for _ in range(100_000):
            signals.stop()
        signal.raise_signal(signal.SIGHUP)
        assert signals.wait() == signal.SIGTERM


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with service.Signals():
        assert signal.getsignal(signal.SIGINT) != before[1]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


STACKS = """
import os, signal
from harp import service
with service.Signals() as signals:
    signal.raise_signal(signal.SIGUSR1)
    signals.stop()
    signals.wait()
"""


def test_sigusr1_shows_where_all_threads_are():
    process = subprocess.run(
        [sys.executable, "-c", STACKS], stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert process.returncode == 0
    assert "stack of thread MainThread (most recent call last)" in process.stderr
    assert ", in wait" in process.stderr


# --- readiness ----------------------------------------------------------------------


@pytest.fixture
def notify_socket(tmp_path, monkeypatch):
    """``notify_socket(abstract)``: where a service manager listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(30)

        def bind(abstract: bool):
            path = f"harp-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
            listener.bind("\0" + path if abstract else path)
            monkeypatch.setenv("NOTIFY_SOCKET", "@" + path if abstract else path)
            return listener

        yield bind


@pytest.mark.parametrize("abstract", [False, True])
def test_service_manager_is_told_what_it_asks(notify_socket, abstract):
    listener = notify_socket(abstract)
    service.notify(READY="1", X_HARP_ADDRESS="127.0.0.1:1")
    assert listener.recv(1000) == b"READY=1\nX_HARP_ADDRESS=127.0.0.1:1"


@pytest.mark.parametrize("path", [None, ""])
def test_nobody_is_told_where_nobody_asks(monkeypatch, caplog, path):
    if path is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    service.notify(READY="1")
    assert not caplog.records


@pytest.mark.parametrize("path", ["/nonexistent/notify", "@nobody", "/" + "x" * 200])
def test_service_manager_that_is_not_there_is_logged_and_no_error(
    monkeypatch, caplog, path
):
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    service.notify(READY="1")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "can't notify" in record.getMessage()


# --- the rest -----------------------------------------------------------------------

LIMIT = """
import resource
from harp import service
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard))
service.raise_descriptor_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
service.raise_descriptor_limit()
"""


def test_descriptor_limit_is_raised_as_far_as_may_be(run_python):
    run_python(LIMIT)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 16


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "{}"),
        ({"a": 1, "b": None, "c": "x"}, '{"a": 1, "c": "x"}'),
        ({"a": "two\nlines\x1b[0m"}, '{"a": "two\\nlines\\u001b[0m"}'),
        ({"a": "ä\udcff"}, '{"a": "\\u00e4\\udcff"}'),
        ({"a": OSError("why")}, '{"a": "why"}'),
    ],
)
def test_fields_of_a_log_line_are_json_in_one_line(fields, text):
    assert str(log.fields(**fields)) == text
    json.loads(text)


def test_fields_are_written_only_if_the_line_is():
    class Costly:
        def __str__(self):
            raise AssertionError("asked for")

    logger = logging.getLogger("harp.test")
    logger.debug("never written %s", log.fields(a=Costly()))


LOGGING = """
import logging, os, sys
from harp import log
log.to_stderr()
logger = logging.getLogger("harp.daemon.front")
logger.info("call ended %s", log.fields(outcome="result"))
logger.debug("not shown")
os.close(2)
logger.error("nobody reads that")
print("goes on")
"""


def test_log_goes_to_standard_error_and_its_loss_harms_nobody():
    process = subprocess.run(
        [sys.executable, "-c", LOGGING], capture_output=True, text=True, timeout=60
    )
    assert (process.returncode, process.stdout) == (0, "goes on\n")
    (line,) = io.StringIO(process.stderr).readlines()
    assert line.endswith(' INFO harp.daemon.front: call ended {"outcome": "result"}\n')


# --- where the log goes -------------------------------------------------------------

FILES = """
import logging, os, sys
from harp import log
os.chdir({directory!r})
log.{start}
logger = logging.getLogger("harp.dispatcher.life")
logger.info("first")
os.rename("log", "log.1")
assert log.reopen() == []
logger.info("second")
os.mkdir("gone"), os.rename("log", "gone/log"), os.mkdir("log")
print(log.reopen())
"""


@pytest.mark.parametrize(
    ("start", "faults"),
    [
        # It looks by itself, with the next line.
        ('to_file("log")', []),
        (
            'from_content({"root": {"level": "INFO", "handlers": ["a"]}, "handlers": '
            '{"a": {"class": "logging.FileHandler", "filename": "log"}}})',
            ["Is a directory"],
        ),
    ],
)
def test_log_files_that_were_moved_are_made_anew(run_python, tmp_path, start, faults):
    printed = run_python(FILES.format(directory=str(tmp_path), start=start))
    assert "first" in (tmp_path / "log.1").read_text()
    second = (tmp_path / "gone" / "log").read_text()
    assert "second" in second and "first" not in second
    assert all(fault in printed for fault in faults)
    assert bool(faults) != ("[]" in printed)


CONFIGURED = """
import logging
from harp import log
log.to_stderr()
log.from_content({
    "formatters": {"a": {"format": "%(threadName)s %(process)d %(filename)s"}},
    "handlers": {"a": {
        "class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "a"
    }},
    "root": {"level": "INFO", "handlers": ["a"]},
})
logging.getLogger("harp").info("any")
"""


def test_configured_log_can_show_what_our_own_formats_do_not(run_python):
    thread, pid, file = run_python(CONFIGURED).split()
    assert (thread, file) == ("MainThread", "<string>") and pid.isdigit()


def test_wait_for_signals_ends_at_its_deadline_and_when_it_is_woken(in_thread):
    with service.Signals() as signals:
        assert signals.wait(time.monotonic() + 0.01) is None
        signals.wake()
        assert signals.wait() is None
        waking = in_thread(signals.wake)
        assert signals.wait(time.monotonic() + 30) is None
        waking.result()
        signals.wake()
        signal.raise_signal(signal.SIGTERM)
        assert [signals.wait(), signals.wait(0.0)] == [None, signal.SIGTERM]
