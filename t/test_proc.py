"""What a procedures file says."""

import inspect

import pytest

from harp import (
    ProcedureError,
    Result,
    StreamingProcedure,
    procedure,
    streaming_procedure,
)
from harp.proc import Procedure, limits_of


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
        ({"gid": []}, ValueError),
        ({"gid": [0, 1.5]}, TypeError),
        ({"concurrency": 0}, ValueError),
        ({"concurrency": 1.0}, TypeError),
        ({"context": 1}, TypeError),
        ({"context": "no name"}, TypeError),
        ({"limits": 5}, TypeError),
        ({"limits": {"disk": 5}}, TypeError),
        ({"limits": {"memory": "5 MB"}}, TypeError),
        ({"limits": {"memory": 0}}, ValueError),
        ({"limits": {"open_files": True}}, TypeError),
        ({"limits": {"cpu_time": 0}}, ValueError),
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


# --- classes ------------------------------------------------------------------------


def test_class_is_a_procedure_with_its_attributes_as_options():
    class Add(Procedure):
        timeout = 5

        def run(self, a, b=0):
            return a + b

    made = Add()
    assert (made.name, made.timeout, made.streaming) == ("Add", 5, False)
    assert made(1, b=2) == made.function(1, 2) == 3


def test_streaming_class_may_have_a_name_and_may_be_inherited_from():
    class Count(StreamingProcedure):
        name = "count"

        def run(self, n):
            yield from range(n)

    class Further(Count):
        pass

    assert (Count().name, Further().name) == ("count", "Further")
    assert Count().streaming and list(Count()(2)) == [0, 1]


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"gid": []}, ValueError),
        ({"name": 5}, TypeError),
        ({"run": coroutine}, TypeError),
        ({"run": generator}, TypeError),
        ({"run": 5}, TypeError),
    ],
)
def test_class_with_a_wrong_option_is_an_error_where_it_is_made(attributes, error):
    with pytest.raises(error):
        type("Made", (Procedure,), {"run": lambda self: None} | attributes)


def test_class_without_run_is_for_others_to_be_made_from():
    class Base(Procedure):
        timeout = 5

    class Made(Base):
        def run(self):
            return None

    assert Made().timeout == 5


# --- limits, errors -----------------------------------------------------------------


def test_limits_are_numbers_and_memory_may_be_a_size():
    made = procedure(limits={"memory": "512 MiB", "cpu_time": 5})(add)
    assert limits_of(made) == {"memory": 512 << 20, "cpu_time": 5}
    assert limits_of(procedure(add)) == {}


def test_procedure_error_has_the_type_of_its_class_unless_it_says():
    class NotEnough(ProcedureError):
        pass

    assert (ProcedureError("m").type, NotEnough("m").type) == (
        "ProcedureError",
        "NotEnough",
    )
    error = NotEnough("m", type="other", data={"a": 1})
    assert (str(error), error.type, error.data) == ("m", "other", {"a": 1})
    with pytest.raises(TypeError):
        ProcedureError("m", type=5)
