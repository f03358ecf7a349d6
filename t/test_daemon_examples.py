"""The procedures in examples/ do what they say."""

import os

import pytest
from daemon_setup import TOP, Harpd


@pytest.fixture(scope="module")
def examples(tmp_path_factory, certificate):
    program = Harpd(
        tmp_path_factory.mktemp("examples"),
        certificate,
        TOP / "examples" / "procedures.py",
    )
    program.start()
    yield program
    assert program.stop() == 0


def test_load_and_uptime(examples):
    result = examples.end("load")["result"]
    assert len(result["load"]) == 3 and result["processors"] == os.cpu_count()
    assert examples.end("uptime")["result"] > 0


def test_disk_usage_of_a_path_and_of_all(examples):
    (root,) = examples.end("disk_usage", "/")["result"]
    assert root["path"] == "/" and root["total"] >= root["free"] > 0
    assert isinstance(examples.end("disk_usage")["result"], list)


def test_state_of_a_process_by_name(examples):
    found = examples.end("process_state", "harpd-spawner")["result"]
    (process,) = [entry for entry in found if entry["pid"] == examples.spawner()]
    fronts = examples.end("process_state", name="harpd")["result"]
    assert examples.pid in [entry["pid"] for entry in fronts]
    assert process["state"] in "RSD" and process["memory"] > 1_000_000
    assert examples.end("process_state", "nothing of that name") == {"result": []}


def test_file_is_followed_until_the_call_is_cancelled(examples, tmp_path):
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthree\n")
    with examples.begin("follow_file", str(path), 2) as caller:
        assert caller.message()["stream_result"]
        assert caller.message() == {"stream": "two"}
        assert caller.message() == {"stream": "three"}
        with open(path, "a") as file:
            file.write("four\n")
        assert caller.message() == {"stream": "four"}
        caller.half_close()
        assert caller.messages() == []


def test_watching_the_load(examples):
    _, first, second, end = examples.call("watch_load", 0.01, 2)
    assert first["stream"].keys() == {"time", "load"}
    assert end["result"] >= second["stream"]["load"]


def test_output_of_a_command_comes_line_by_line_with_its_status(examples):
    messages = examples.call("run", "kernel")
    assert messages[1]["stream"].startswith("Linux")
    assert messages[-1] == {"result": {"exit_status": 0}}
    exception = examples.end("run", "rm -rf /")["exception"]
    assert exception["message"].startswith("no such command, there are: disks, ")


def test_exception_of_its_own_kind(examples):
    assert examples.end("withdraw", 30) == {"result": 70}
    assert examples.end("withdraw", 300)["exception"] == {
        "type": "NotEnough",
        "message": "300 is more than the balance of 100",
        "data": {"class": "NotEnough", "module": "procedures"},
    }


def test_long_call_reports_its_process_and_can_be_cancelled(examples):
    result = examples.end("wait", 0.01)["result"]
    assert result["end"] >= result["begin"]
    with examples.begin("count_down", 1000) as caller:
        caller.message()
        pid = caller.message()["stream"]["pid"]
        assert caller.message() == {"stream": 1000}
        caller.half_close()
        assert caller.messages() == []
    assert not os.path.exists(f"/proc/{pid}")
