"""Lines of the log for programs: JSON, and systemd's journal."""

import json
import logging
import os
import shutil
import socket
import sys

import pytest

from harp import log, testing


@pytest.fixture
def journal(tmp_path):
    """Where a journal listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        listener.settimeout(20)
        yield listener


@pytest.fixture
def handler(journal):
    made = log.Journal("harpd", journal.getsockname())
    yield made
    made.close()


def record(message, *arguments, level=logging.INFO, exc_info=None):
    return logging.LogRecord(
        "harp.test", level, __file__, 1, message, arguments, exc_info
    )


def failure():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        return sys.exc_info()


def entry_of(data: bytes) -> dict[str, str]:
    """Return the fields of an entry of the journal."""
    found = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size, data = int.from_bytes(data[:8], "little"), data[8:]
            value, end, data = data[:size], data[size : size + 1], data[size + 1 :]
            assert end == b"\n"
        found[name.decode()] = value.decode()
    return found


def test_line_of_json_has_the_fields_apart_from_the_message():
    line = log.JSONLines().format(
        record("call %s ended %s", "1", log.fields(job="x", ran=None, packets=2))
    )
    assert "\n" not in line
    content = json.loads(line)
    assert content.pop("time").endswith("Z")
    assert content == {
        "level": "INFO",
        "logger": "harp.test",
        "message": "call 1 ended",
        "fields": {"job": "x", "packets": 2},
    }


@pytest.mark.parametrize(
    ("message", "arguments"),
    [("a 100 % plain one", ()), ("of %s", ("others",)), ("%d %s", (1, 'a "b"\n'))],
)
def test_line_of_json_without_fields_has_the_message_as_it_is(message, arguments):
    content = json.loads(log.JSONLines().format(record(message, *arguments)))
    assert content["message"] == (message % arguments if arguments else message)
    assert "fields" not in content


def test_line_of_json_with_an_exception_is_one_line():
    line = log.JSONLines().format(record("failed", exc_info=failure()))
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: two\nlines")


def test_journal_gets_priority_logger_and_each_field(handler, journal):
    values = log.fields(job="x", packets=2)
    handler.emit(record("ended %s", values, level=logging.ERROR))
    assert entry_of(journal.recv(10_000)) == {
        "MESSAGE": 'ended {"job": "x", "packets": 2}',
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "harpd",
        "LOGGER": "harp.test",
        "HARP_JOB": "x",
        "HARP_PACKETS": "2",
    }


def test_nobody_can_slip_a_field_into_the_journal(handler, journal):
    handler.emit(record("of %s %s", "him\nPRIORITY=0", log.fields(peer="x\nLOGGER=y")))
    entry = entry_of(journal.recv(10_000))
    assert entry["MESSAGE"].startswith("of him\nPRIORITY=0 {")
    assert entry["HARP_PEER"] == "x\nLOGGER=y"
    assert (entry["PRIORITY"], entry["LOGGER"]) == ("6", "harp.test")


def test_journal_gets_an_exception_behind_the_message(handler, journal):
    handler.emit(record("failed", exc_info=failure()))
    message = entry_of(journal.recv(10_000))["MESSAGE"]
    assert message.startswith("failed\nTraceback")
    assert message.endswith("ValueError: two\nlines")


def test_what_is_too_long_for_a_datagram_comes_as_a_sealed_file(handler, journal):
    text = "x" * (4 << 20)
    handler.emit(record("%s", text))
    data, fds, _, _ = socket.recv_fds(journal, 100, 1)
    assert data == b""
    with open(fds[0], "rb") as file:
        file.seek(0)
        assert entry_of(file.read())["MESSAGE"] == text
        with pytest.raises(OSError):
            os.ftruncate(file.fileno(), 0)


def test_journal_that_is_gone_does_no_harm(handler, journal, monkeypatch, capfd):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    os.unlink(journal.getsockname())
    handler.emit(record("lost"))
    assert capfd.readouterr().err == ""


def test_where_there_is_no_journal_the_configuration_is_at_fault(tmp_path):
    handlers = {"journal": {"class": "harp.log.Journal", "identifier": "x"}}
    handlers["journal"]["path"] = str(tmp_path / "none")
    with pytest.raises(ValueError, match="none"):
        log.from_content({"handlers": handlers})


# --- what can't be logged ------------------------------------------------------------


@pytest.fixture
def root_logger():
    """The log, as it was afterwards."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield root
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("kind", ["path", "toml"])
def test_log_that_can_not_be_written_stops_nobody(tmp_path, root_logger, kind):
    directory = tmp_path / "log"
    directory.mkdir()
    path = directory / "harpd.log"
    if kind == "path":
        log.send(str(path), "harpd")
    else:
        (tmp_path / "logging.toml").write_text(
            '[handlers.file]\nclass = "logging.handlers.WatchedFileHandler"\n'
            f'filename = "{path}"\n[root]\nlevel = "INFO"\nhandlers = ["file"]\n'
        )
        log.send(str(tmp_path / "logging.toml"), "harpd")
    logging.info("first")
    shutil.rmtree(directory)
    for _ in range(3):
        logging.info("lost")
    directory.mkdir()
    logging.info("last")
    assert "last" in path.read_text()


def test_log_that_is_removed_from_a_full_disk_begins_anew(tmp_path, root_logger):
    path = tmp_path / "harpd.log"
    path.symlink_to("/dev/full")
    log.send(str(path), "harpd")
    logging.info("lost")
    path.unlink()
    for _ in range(3):
        logging.info("anew")
    assert "anew" in path.read_text()


def test_jobs_are_done_while_the_log_can_not_be_written(tmp_path):
    directory = tmp_path / "log"
    directory.mkdir()
    logs = [{"logging": str(directory / f"{name}.log")} for name in ("one", "other")]
    procedures = tmp_path / "procedures.py"
    procedures.write_text("import harp\n\n@harp.procedure\ndef four():\n    return 4\n")
    with (
        testing.Servers(
            procedures, tmp_path / "servers", daemon=logs[0], dispatcher=logs[1]
        ) as servers,
        servers.caller() as rpc,
    ):
        assert rpc.localhost.four().get(timeout=60) == 4
        assert len(list(directory.iterdir())) == 2
        shutil.rmtree(directory)
        assert [rpc.localhost.four().get(timeout=60) for _ in range(3)] == [4, 4, 4]
