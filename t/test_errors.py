"""The exceptions that a program may catch."""

import copy
import errno
import pickle

import pytest

from harp import errors

ERRORS = [
    errors.HarpException("text"),
    errors.CommunicationError("127.0.0.1:3502: refused"),
    errors.CancelledException(),
    errors.CancelledException("text"),
    errors.RemoteException("ValueError", "no such disk"),
    errors.RemoteException("ValueError", "no such disk", {"class": "ValueError"}),
    errors.RemoteError("timeout", "took more than 5 s"),
    errors.RemoteError("timeout", "took more than 5 s", [1], "maybe"),
    errors.Refusal("parse_error", "not JSON"),
    errors.Refusal("parse_error", "not UTF-8", closes=True),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("again", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_error_passes_through_a_pickle(error, again):
    other = again(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert other.args == error.args
    assert vars(other) == vars(error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.RemoteException("ValueError", "no"), "ValueError: no"),
        (errors.RemoteError("timeout", "too long", [1], "no"), "timeout: too long"),
        (errors.Refusal("parse_error", "not JSON"), "parse_error: not JSON"),
    ],
)
def test_error_says_its_type_and_message(error, text):
    assert str(error) == text


def test_parts_of_an_error_can_be_read():
    error = errors.RemoteError("timeout", "too long", {"a": 1}, "yes")
    assert (error.type, error.message, error.data, error.ran) == (
        "timeout", "too long", {"a": 1}, "yes"
    )  # fmt: skip
    error = errors.RemoteException("ValueError", "no")
    assert (error.type, error.message, error.data) == ("ValueError", "no", None)
    assert errors.RemoteError("timeout", "too long").ran is None


@pytest.mark.parametrize("error", [e for e in ERRORS if type(e) is not errors.Refusal])
def test_what_the_library_raises_has_one_root(error):
    assert isinstance(error, errors.HarpException)


def test_refusal_is_a_matter_of_servers():
    assert not issubclass(errors.Refusal, errors.HarpException)


def test_error_types_are_all_different_and_spelled_as_their_names():
    types = {
        name: value
        for name, value in vars(errors).items()
        if name.isupper() and isinstance(value, str)
    }
    assert {name.lower(): value for name, value in types.items()} == {
        value: value for value in types.values()
    }
    assert len(types) == 21


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOENT, "No such file", "/x"), "/x: No such file"),
        (OSError(errno.ENOENT, "No such file"), "No such file"),
        (OSError("only a text"), "only a text"),
        (OSError(), ""),
    ],
)
def test_reason_of_an_error_is_said_in_words(error, text):
    assert errors.reason(error) == text
