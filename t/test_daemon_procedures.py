"""What a procedures file may say, and what a real harpd makes of it."""

import signal
import subprocess

import pytest
from daemon_setup import (  # noqa: F401
    TOP,
    USER,
    Harpd,
    error_of,
    make_harpd,
    request,
)

PROCEDURES = TOP / "t" / "more_daemon_procedures.py"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, certificate):
    program = Harpd(tmp_path_factory.mktemp("harpd"), certificate, PROCEDURES)
    program.start()
    yield program
    assert program.stop() == 0
    assert "Traceback" not in program.log()


def load_fails(make_harpd, source, name="procedures.py"):  # noqa: F811
    """Return what harpd says to a file that doesn't load."""
    daemon = make_harpd(source, start=False)
    process = subprocess.run(daemon.argv, capture_output=True, text=True, timeout=30)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.count("\n") == 1
    return process.stderr


# --- classes ------------------------------------------------------------------------


def test_class_is_called_by_its_name_or_that_of_its_class(daemon):
    assert daemon.call("Add", 1, 2)[-1] == {"result": 3}
    assert daemon.call("count", 2)[1:] == [
        {"stream": 0},
        {"stream": 1},
        {"result": "done"},
    ]


def test_class_inherits_options_from_one_that_is_no_procedure_itself(daemon):
    assert daemon.end("Who") == {"result": USER}
    assert error_of(daemon.end("Base"))[0] == "no_such_procedure"


# --- context ------------------------------------------------------------------------


def test_context_comes_first_and_tells_of_the_call(daemon):
    with daemon.connect() as caller:
        caller.send_message(request("who", {"a": 1, "b": 2}, job_id="job-7"))
        found = caller.messages()[-1]["result"]
    user, address, job_id, name, a, others = found
    assert (user, job_id, name) == (USER, "job-7", "who")
    assert address.startswith("127.0.0.1:")
    assert (a, others) == (1, {"b": 2})


def test_context_comes_as_the_keyword_that_is_named(daemon):
    _, value, _ = daemon.call("who_by_name", 1, 5)
    assert value == {"stream": [USER, 1, 5, {}]}
    _, value, _ = daemon.call("who_by_name", a=1, c=3)
    assert value == {"stream": [USER, 1, 2, {"c": 3}]}


@pytest.mark.parametrize(
    "procedure, arguments, text",
    [
        ("who", {"context": 5}, "got an unexpected keyword argument 'context'"),
        ("who_by_name", {"a": 1, "me": 5}, "got an unexpected keyword argument 'me'"),
        ("who", [1, 2], "too many positional arguments"),
    ],
)
def test_caller_cannot_give_the_context(daemon, procedure, arguments, text):
    with daemon.connect() as caller:
        caller.send_message(request(procedure, arguments))
        assert error_of(caller.messages()[-1]) == ("invalid_argument_list", text)


def test_name_of_a_context_that_has_only_a_position_is_free_for_callers(daemon):
    result = daemon.end("who_by_position", context=5)["result"]
    assert result == ["who_by_position", {"context": 5}]


# --- concurrency --------------------------------------------------------------------


def test_call_beyond_a_procedures_concurrency_is_overloaded(daemon, tmp_path):
    path = str(tmp_path / "go")
    running = [daemon.begin("two_at_a_time", path) for _ in range(2)]
    for caller in running:
        caller.message()
    assert error_of(daemon.end("two_at_a_time", path)) == (
        "overloaded",
        "2 calls of 'two_at_a_time' are running already, as many as may",
    )
    # It counts for that procedure alone, and only as long as they run.
    assert daemon.end("Add", 1) == {"result": 1}
    (tmp_path / "go").touch()
    for caller in running:
        assert caller.messages() == [{"result": "there"}]
    assert daemon.end("two_at_a_time", path) == {"result": "there"}
    for caller in running:
        caller.close()


def test_cancelled_call_counts_until_its_process_is_gone(daemon, tmp_path):
    path = str(tmp_path / "go")
    for _ in range(4):
        with daemon.begin("two_at_a_time", path) as first:
            with daemon.begin("two_at_a_time", path) as second:
                assert first.message() and second.message()
                for caller in (first, second):
                    caller.half_close()
                    assert caller.messages() == []


def test_caller_who_has_a_result_may_call_again_at_once(daemon):
    for _ in range(30):
        caller = daemon.begin("one_at_a_time")
        assert caller.message() and caller.message() == {"result": "done"}
        # Without having closed: the call is over all the same.
        assert daemon.end("one_at_a_time") == {"result": "done"}
        caller.close()


# --- limits -------------------------------------------------------------------------


def test_limits_hold_in_the_process_of_the_call(daemon):
    assert daemon.end("limited")["result"] == {
        "memory": [400 << 20] * 2,
        "open_files": [20, 20],
        "processes": [1000, 1000],
        "cpu_time": [50, 51],
    }


def test_call_that_takes_more_memory_than_its_limit_ends_with_memory_error(daemon):
    assert daemon.end("takes_memory")["exception"]["type"] == "MemoryError"


def test_call_that_takes_more_time_than_its_limit_dies_by_that_signal(daemon):
    message = daemon.end("takes_time")
    assert error_of(message)[0] == "process_died"
    assert message["error"]["data"] == {"signal": signal.SIGXCPU}


# --- errors -------------------------------------------------------------------------


def test_procedure_error_decides_what_the_caller_sees(daemon):
    assert daemon.end("fails", "chosen")["exception"] == {
        "type": "a.type",
        "message": "a text",
        "data": {"a": [1]},
    }
    assert daemon.end("fails", "subclass")["exception"] == {
        "type": "NotEnough",
        "message": "too little",
    }


def test_data_of_a_procedure_error_that_is_no_json_does_not_hide_the_error(daemon):
    assert daemon.end("fails", "invalid data")["exception"] == {
        "type": "NotEnough",
        "message": "too little",
        "data": {"invalid_data": "$.price: Decimal"},
    }


@pytest.mark.parametrize(
    "kind, code, stderr",
    [
        ("command", 3, "one\ntwo\n"),
        ("command, text", 3, "y\n" * 2048),
        ("command, nothing kept", 1, None),
    ],
    ids=["bytes", "text", "none"],
)
def test_command_that_fails_brings_its_status_and_the_tail_of_stderr(
    daemon, kind, code, stderr
):
    exception = daemon.end("fails", kind)["exception"]
    assert exception["type"] == "CalledProcessError"
    assert exception["data"] == {
        "class": "CalledProcessError",
        "module": "subprocess",
        "returncode": code,
        "stderr": stderr,
    }


@pytest.mark.parametrize("kind, value", [("return", "x"), ("Result", "x"), ("", None)])
def test_stream_ends_by_return_by_result_or_simply(daemon, kind, value):
    assert daemon.call("ends", kind)[1:] == [{"stream": 1}, {"result": value}]


# --- loading ------------------------------------------------------------------------

HEAD = "from harp import *\n"


@pytest.mark.parametrize(
    "source, text",
    [
        ("@procedure\nasync def a(): pass\n", ":2: TypeError: a procedure can't be"),
        (
            "@streaming_procedure\nasync def a():\n  yield\n",
            ":2: TypeError: a procedure can't be",
        ),
        (
            "class A(Procedure):\n  async def run(self): pass\n",
            ":2: TypeError: a procedure can't be",
        ),
        (
            "class A(Procedure):\n  timeout = 0\n  def run(self): pass\n",
            ":2: ValueError: timeout must be above 0",
        ),
        (
            "class A(Procedure):\n  def __init__(self, a): pass\n"
            "  def run(self): pass\n",
            ":4: A: TypeError: ",
        ),
        (
            "class A(Procedure):\n  def __init__(self): raise SystemExit('no')\n"
            "  def run(self): pass\n",
            ":4: A: SystemExit: no",
        ),
        (
            "class A(Procedure):\n  def run(self): pass\n"
            "class A(Procedure):\n  def run(self): pass\n",
            ":5: another procedure is called 'A': ",
        ),
        (
            "class A(Procedure):\n  name = 'a'\n  def run(self): pass\n"
            "@procedure\ndef a(): pass\n",
            ": another procedure is called 'a': ",
        ),
        (
            "@procedure(context=True)\ndef a(): pass\n",
            ":2: a: context=True, but it takes no first argument",
        ),
        (
            "@procedure(context='me')\ndef a(you): pass\n",
            ":2: a: context='me', but it has no argument of that name",
        ),
        (
            "@procedure(limits={'memory': '5 apples'})\ndef a(you): pass\n",
            ":2: TypeError: limits: memory: no size",
        ),
        (
            "from harpd.proc import procedure, Result\n",
            ":2: ModuleNotFoundError: No module named 'harpd'; it is now: from harp "
            "import procedure, streaming_procedure, Result",
        ),
        (
            "from harp.proc import HarpProcedure\n",
            "; it is now: from harp import procedure",
        ),
    ],
)
def test_what_cannot_be_a_procedure_is_refused_with_file_line_and_reason(
    make_harpd, tmp_path, source, text  # noqa: F811
):
    file = tmp_path / "procedures.py"
    file.write_text(HEAD + source)
    output = load_fails(make_harpd, file)
    assert output.startswith(f"harpd: {file}:") and text in output


def test_all_files_of_a_directory_are_loaded_in_their_order(
    make_harpd, tmp_path  # noqa: F811
):
    directory = tmp_path / "procedures.d"
    directory.mkdir()
    (directory / "20-b.py").write_text(
        HEAD + "from procedures import a\n@procedure\ndef b(): return a.VALUE\n"
    )
    (directory / "a.py").write_text("raise SystemExit\n")
    output = load_fails(make_harpd, directory)
    assert "20-b.py:2: ImportError" in output
    (directory / "10-c.py").write_text(HEAD + "@procedure\ndef c(): return __name__\n")
    (directory / "20-b.py").rename(directory / "b.py")
    (directory / "a.py").write_text("VALUE = 5\n")
    (directory / "notes.txt").write_text("1/0\n")
    (directory / ".hidden.py").write_text("1/0\n")
    daemon = make_harpd(directory)
    assert daemon.end("b") == {"result": 5}
    assert daemon.end("c") == {"result": "procedures.10-c"}


def test_name_in_two_files_of_a_directory_is_refused_with_both(
    make_harpd, tmp_path  # noqa: F811
):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(HEAD + "\n@procedure\ndef same(): pass\n")
    output = load_fails(make_harpd, tmp_path)
    assert output == (
        f"harpd: {tmp_path}/b.py:3: another procedure is called 'same': "
        f"{tmp_path}/a.py:3\n"
    )


def test_procedure_of_one_file_that_another_imports_is_one(
    make_harpd, tmp_path  # noqa: F811
):
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "a.py").write_text(HEAD + "@procedure\ndef a(): return 1\n")
    (directory / "b.py").write_text("from procedures.a import a\n")
    assert make_harpd(directory).end("a") == {"result": 1}
