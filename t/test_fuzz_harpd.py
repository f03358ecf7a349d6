"""Odd lines and bytes at the port of harpd: each call gets one well-formed end and a
clean close, and whoever is in order is served all the time."""

import daemon_setup
import fuzzing
import pytest
from attacks import (
    DAEMON_ERRORS,
    Unharmed,
    check_error,
    client_hello,
    half_close,
    is_message,
    make_data,
    reset,
    send_pieces,
    speak_raw,
)

MAX_LINE = 128 * 1024

PROCEDURES = '''
from harp import procedure, streaming_procedure


@procedure
def echo(*values, **named):
    return [values, named]


@procedure(concurrency=2)
def fail(message):
    raise ValueError(message)


@streaming_procedure
def stream(*values, **named):
    yield from values
    return named
'''

long = pytest.mark.slow


@pytest.fixture(scope="module")
def harpd(tmp_path_factory, certificate):
    directory = tmp_path_factory.mktemp("fuzzed-harpd")
    procedures = directory / "procedures.py"
    procedures.write_text(PROCEDURES)
    changes = {
        "auth": {"failure_delay": 0.001, "max_failure_delay": 0.001},
        "limits": {"standby": 2, "arguments": "64 KiB", "value": "256 KiB"},
    }
    program = daemon_setup.Harpd(directory, certificate, procedures, changes)
    program.start()
    assert program.end("echo") == {"result": [[], {}]}
    yield program
    assert program.stop() == 0


BASE_CALLS = [
    daemon_setup.request("echo", [1, {"a": [True, None]}, "é\udcff"]),
    daemon_setup.request("echo", {"a": 1, "b": {"c": 0.5}}, job_id="some job"),
    daemon_setup.request("stream", [1, "two", [3]]),
    daemon_setup.request("stream", {"end": 4}),
    daemon_setup.request("fail", ["so it is"]),
    daemon_setup.request("fail", []),
    daemon_setup.request("nope", []),
    {"harp": 1, "procedures": True}
    | {"auth": {"user": daemon_setup.USER, "password": daemon_setup.PASSWORD}},
]


def check_conversation(messages: list[dict]) -> None:
    """A call's messages: acknowledgement, values, end; or an error at any point."""
    assert messages
    if "procedures" in messages[0]:
        assert len(messages) == 1
        return
    *begin, end = messages
    if "error" in end:
        assert end.keys() == {"harp", "error"} and end["harp"] == 1
        check_error(end["error"], DAEMON_ERRORS, "data")
    else:
        assert begin, "an end without an acknowledgement"
        assert end.keys() in ({"result"}, {"exception"})
    if begin:
        acknowledgement, *values = begin
        assert acknowledgement.keys() == {"harp", "stream_result"}
        assert acknowledgement["stream_result"] or not values
        assert all(value.keys() == {"stream"} for value in values)


def check_call(sent: bytes, messages: list[dict]) -> None:
    first, newline, _ = sent.partition(b"\n")
    if not sent:
        assert not messages
        return
    check_conversation(messages)
    if not (newline and is_message(first)):
        assert messages[0]["error"]["type"] in {"parse_error", "invalid_request"}


@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=long)])
def test_odd_calls_get_one_end_and_harm_nobody(harpd, wait_for, seed, count):
    unharmed = Unharmed(harpd, wait_for)
    for number, mutator in enumerate(fuzzing.cases(f"{seed}/harpd", count)):
        data = make_data(mutator, BASE_CALLS, MAX_LINE)
        with harpd.connect() as caller:
            send_pieces(caller.sock, mutator, data)
            if mutator.happens(0.15):
                reset(caller.sock)
            elif not mutator.happens(0.15):
                if b"\n" not in data:
                    half_close(caller.sock)  # behind a whole request it would cancel
                try:
                    check_call(data, caller.messages())
                except (AssertionError, OSError) as error:
                    error.add_note(f"{mutator}: {data[:2000]!r}")
                    raise
        if number % 10 == 0:
            assert harpd.end("echo", number) == {"result": [[number], {}]}
    unharmed.check()


def test_odd_texts_come_back_as_they_were_sent(harpd):
    texts = [text for text in fuzzing.NASTY_STRINGS if len(text) < 1000]
    named = dict.fromkeys(texts, 1)
    assert harpd.end("echo", *texts) == {"result": [texts, {}]}
    assert harpd.end("echo", **named) == {"result": [[], named]}
    assert harpd.call("stream", *texts)[1:-1] == [{"stream": text} for text in texts]
    for text in texts:
        with harpd.connect() as caller:
            caller.send_message(daemon_setup.request("fail", [text], job_id=text))
            assert caller.messages()[-1]["exception"]["message"] == text


@long
def test_each_nasty_value_in_each_place_of_a_call_gets_one_end(harpd, wait_for):
    unharmed = Unharmed(harpd, wait_for)
    for message in (BASE_CALLS[1], BASE_CALLS[2], BASE_CALLS[-1]):
        for line in fuzzing.everywhere(message):
            with harpd.connect() as caller:
                caller.send(line)
                check_call(line, caller.messages())
    unharmed.check()


@pytest.mark.parametrize("count", [60, pytest.param(4000, marks=long)])
def test_odd_bytes_at_the_port_of_harpd_are_dropped(harpd, wait_for, seed, count):
    unharmed = Unharmed(harpd, wait_for)
    hello = client_hello()
    for number, mutator in enumerate(fuzzing.cases(f"{seed}/raw harpd", count)):
        speak_raw(mutator, harpd.port, hello)
        if number % 10 == 0:
            assert harpd.end("echo", number) == {"result": [[number], {}]}
    unharmed.check()
