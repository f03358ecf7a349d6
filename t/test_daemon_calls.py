"""Calls on a real harpd: what goes in, what comes out."""

import pytest
from daemon_setup import error_of, harpd, make_harpd, request  # noqa: F401

ACKNOWLEDGED = {"harp": 1, "stream_result": False}
ACKNOWLEDGED_STREAM = {"harp": 1, "stream_result": True}


# --- results ------------------------------------------------------------------------


def test_single_result_follows_the_acknowledgement(harpd):
    assert harpd.call("echo", {"a": [1, None]}) == [
        ACKNOWLEDGED,
        {"result": {"a": [1, None]}},
    ]


def test_named_arguments_are_passed_by_name(harpd):
    assert harpd.end("add", a=1, c=5) == {"result": 6}


def test_no_arguments_may_be_given_either_way(harpd):
    assert harpd.end("echo") == {"result": None}
    with harpd.connect() as caller:
        caller.send_message(request("echo", {}))
        assert caller.messages()[-1] == {"result": None}


def test_procedure_is_called_by_the_name_it_chose(harpd):
    assert harpd.end("a name with blanks") == {"result": "renamed"}
    assert error_of(harpd.end("renamed"))[0] == "no_such_procedure"


def test_tuples_become_arrays_and_other_json_stays_as_it_is(harpd):
    assert harpd.end("valid") == {
        "result": {
            "tuple": [1, [2]],
            "true": True,
            "float": 1.5,
            "none": None,
            "": "ä",
        }
    }


def test_file_name_that_is_not_utf8_passes_through(harpd):
    assert harpd.end("surrogate") == {"result": "\udcff"}
    assert harpd.end("echo", "\udcff") == {"result": "\udcff"}


def test_large_argument_and_result_arrive_whole(harpd):
    text = "ä" * 500_000
    assert harpd.end("echo", text) == {"result": text}


# --- streams ------------------------------------------------------------------------


def test_streamed_values_come_before_what_the_generator_returns(harpd):
    assert harpd.call("count", 2) == [
        ACKNOWLEDGED_STREAM,
        {"stream": 0},
        {"stream": 1},
        {"result": 2},
    ]


def test_result_yielded_ends_the_stream_and_closes_the_generator(harpd, wait_for):
    assert harpd.call("result_in_stream")[1:] == [{"stream": 1}, {"result": "the end"}]
    wait_for(lambda: "generator was closed" in harpd.log())


def test_stream_that_simply_ends_has_null_as_result(harpd):
    assert harpd.call("nothing") == [ACKNOWLEDGED_STREAM, {"result": None}]


def test_streaming_procedure_may_return_an_iterable_or_a_result(harpd):
    assert harpd.call("listed")[1:] == [{"stream": 1}, {"stream": 2}, {"result": None}]
    assert harpd.call("only_result")[1:] == [{"result": 5}]


def test_streaming_procedure_that_streams_nothing_iterable_is_told(harpd):
    assert error_of(harpd.end("text")) == (
        "invalid_result",
        "a streaming procedure yields its values, or returns an iterator, not str",
    )


def test_exception_in_the_middle_of_a_stream_comes_after_its_values(harpd):
    messages = harpd.call("stream_that_fails")
    assert messages[1] == {"stream": 1}
    assert messages[2]["exception"]["type"] == "KeyError"


def test_value_that_is_not_json_ends_a_stream_as_invalid_result(harpd):
    messages = harpd.call("stream_of_anything")
    assert messages[1] == {"stream": 1}
    assert error_of(messages[2]) == ("invalid_result", "$: set")


def test_stream_values_longer_than_the_relay_buffers_arrive_whole(harpd):
    messages = harpd.call("lines_of", 3_000_000, 3)
    assert [len(message["stream"]) for message in messages[1:-1]] == [3_000_000] * 3
    assert messages[-1] == {"result": None}


# --- invalid results ----------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, text",
    [
        ("decimal", "$.disks[3].size: Decimal"),
        ("key", "$.a: key 5 is no string"),
        ("nan", "$[0]: nan is no JSON"),
        ("infinity", "$['x y']: inf is no JSON"),
        ("set", "$: set"),
        ("deep", "$[0][0][0][0][0][0][0][0]...: nested deeper than 128 levels"),
        ("circle", "$[0][0][0][0][0][0][0][0]...: nested deeper than 128 levels"),
        ("digits", "$[0]: integer of more than 4300 digits"),
        ("generator", "$: generator"),
        ("class", "$: type"),
        (
            "large",
            "value is too large: 17825794 bytes, limit 16777216 (limits.value)",
        ),
    ],
)
def test_result_that_cannot_be_sent_is_invalid_and_says_where(harpd, kind, text):
    messages = harpd.call("invalid", kind)
    assert messages[0] == ACKNOWLEDGED
    assert error_of(messages[1]) == ("invalid_result", text)


# --- exceptions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, type_, text",
    [
        ("value", "ValueError", "a text"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("generator exit", "GeneratorExit", ""),
        ("stop", "StopIteration", "1"),
        ("memory", "MemoryError", ""),
        ("unprintable", "Unprintable", "(no text: its str() raised RuntimeError)"),
        ("surrogate", "OSError", "\udcff"),
        ("object", "Exception", "<class 'object'>"),
        ("recursion", "RecursionError", None),
        ("long", "ValueError", "x" * 65536 + "... (34464 characters more)"),
    ],
)
def test_whatever_is_raised_reaches_the_caller(harpd, kind, type_, text):
    acknowledged, message = harpd.call("raise_", kind)
    assert acknowledged == ACKNOWLEDGED
    exception = message["exception"]
    assert exception["type"] == type_
    assert text is None or exception["message"] == text
    module = "procedures" if type_ == "Unprintable" else "builtins"
    assert exception["data"] == {"class": type_, "module": module}


def test_traceback_is_sent_only_if_configured(make_harpd):
    daemon = make_harpd(procedures={"traceback": True})
    traceback = daemon.end("raise_", "value")["exception"]["data"]["traceback"]
    assert "daemon_procedures.py" in traceback and "a text" in traceback
    assert "runner.py" not in traceback


# --- arguments and names ------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([], "missing a required argument: 'a'"),
        ([1, 2, 3], "too many positional arguments"),
        ({"b": 1}, "missing a required argument: 'a'"),
        ({"a": 1, "d": 1}, "got an unexpected keyword argument 'd'"),
        ({"a": 1, "self": 1}, "got an unexpected keyword argument 'self'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_the_procedure_runs(
    harpd, arguments, text
):
    with harpd.connect() as caller:
        caller.send_message(request("add", arguments))
        (message,) = caller.messages()
    assert error_of(message) == ("invalid_argument_list", text)


def test_unknown_procedure_is_refused(harpd):
    (message,) = harpd.call("nope")
    assert error_of(message) == ("no_such_procedure", "no procedure is called 'nope'")


def test_calls_beyond_the_limit_are_refused_as_overloaded(make_harpd, tmp_path):
    daemon = make_harpd(limits={"calls": 1})
    with daemon.begin("wait_until", str(tmp_path / "file")) as first:
        assert first.message() == ACKNOWLEDGED
        assert error_of(daemon.end("echo"))[0] == "overloaded"
        (tmp_path / "file").touch()
        assert first.message() == {"result": "there"}


def test_more_calls_at_a_time_than_standby_processes_all_run(harpd, tmp_path):
    callers = [harpd.begin("wait_until", str(tmp_path / "file")) for _ in range(12)]
    for caller in callers:
        assert caller.message() == ACKNOWLEDGED
    (tmp_path / "file").touch()
    for caller in callers:
        assert caller.messages() == [{"result": "there"}]
        caller.close()


# --- the log ------------------------------------------------------------------------


def test_log_has_a_line_for_each_call_without_its_arguments(harpd, wait_for):
    with harpd.connect() as caller:
        caller.send_message(request("echo", ["hidden-4711"], job_id="job-1"))
        caller.messages()

    def line():
        lines = [line for line in harpd.log().splitlines() if '"job-1"' in line]
        return lines and lines[0]

    text = wait_for(line)
    for part in ('"user": "caller"', '"procedure": "echo"', '"end": "result"', '"pid"'):
        assert part in text
    assert "hidden-4711" not in harpd.log() and "correct horse" not in harpd.log()


def test_output_is_logged_line_by_line_with_procedure_and_job_id(harpd, wait_for):
    with harpd.connect() as caller:
        caller.send_message(request("prints", ["one\ntwo"], job_id="job-2"))
        caller.messages()
    names = '{"procedure": "prints", "job_id": "job-2", "text": '
    for text in ("one", "two", "error", "from below", "no newline"):
        wait_for(lambda text=text: f'output {names}"{text}"' in harpd.log())


def test_what_is_printed_cannot_forge_a_log_line(harpd, wait_for):
    harpd.call("prints", "2026 ERROR forged\x1b[2J" + "y" * 20_000)
    wait_for(lambda: '"text": "2026 ERROR forged\\u001b[2Jyyy' in harpd.log())
    assert max(map(len, harpd.log().splitlines())) < 9000
