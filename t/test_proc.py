"""What a procedures file says."""

import inspect

import pytest

from harp import Result, procedure, streaming_procedure
from harp.proc import Procedure


def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


def count(n):
    yield from range(n)


DECORATORS = pytest.mark.parametrize("decorator", [procedure, streaming_procedure])


@DECORATORS
def test_decorator_is_used_bare(decorator):
    made = decorator(add)
    assert isinstance(made, Procedure)
    assert (made.name, made.timeout, made.uid, made.gid) == ("add", None, None, None)
    assert made.function is add
    assert made.streaming is (decorator is streaming_procedure)


@DECORATORS
def test_decorator_is_used_with_options(decorator):
    made = decorator(name="plus", timeout=2.5, uid="nobody", gid=0)(add)
    assert (made.name, made.timeout, made.uid, made.gid) == ("plus", 2.5, "nobody", 0)
    assert made.function is add


@DECORATORS
def test_decorator_is_used_with_no_option(decorator):
    assert decorator()(add).name == "add"


def test_procedure_is_its_function_when_called_on_the_spot():
    made = procedure(add)
    assert made(1, b=2) == 3
    assert list(streaming_procedure(count)(3)) == [0, 1, 2]
    assert (made.__name__, made.__doc__) == ("add", "Add two numbers.")
    assert inspect.signature(made) == inspect.signature(add)


def test_options_have_names_only():
    with pytest.raises(TypeError):
        procedure(add, "plus")


async def coroutine():
    pass


async def generator():
    yield


class Callable:
    def __call__(self, a):
        return a


@DECORATORS
@pytest.mark.parametrize("function", [coroutine, generator, 5, "add", [add]])
def test_what_cannot_be_a_procedure_is_a_type_error_at_once(decorator, function):
    with pytest.raises(TypeError):
        decorator(function)


@DECORATORS
def test_callable_without_a_name_needs_one(decorator):
    with pytest.raises(TypeError, match="name"):
        decorator(Callable())
    assert decorator(name="same")(Callable()).name == "same"


@DECORATORS
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": ""}, TypeError),
        ({"name": 5}, TypeError),
        ({"name": b"x"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"timeout": True}, TypeError),
        ({"timeout": "5"}, TypeError),
        ({"uid": -1}, ValueError),
        ({"uid": ""}, ValueError),
        ({"uid": 1.0}, TypeError),
        ({"uid": True}, TypeError),
        ({"gid": -1}, ValueError),
        ({"gid": ""}, ValueError),
        ({"gid": [0]}, TypeError),
        ({"unknown": 1}, TypeError),
    ],
)
def test_wrong_option_is_an_error_that_names_it(decorator, options, error):
    with pytest.raises(error, match=next(iter(options))):
        decorator(**options)(add)


def test_result_is_told_by_its_value():
    assert Result(5) == Result(5) != Result(6)
    assert Result(5) != 5
    assert Result().value is None
    assert repr(Result({"a": 1})) == "Result({'a': 1})"
    with pytest.raises(TypeError):
        hash(Result(5))
    with pytest.raises(AttributeError):
        Result(5).other = 1
