"""What a real harpd tells about its procedures."""

import hashlib

import pytest
from daemon_setup import (  # noqa: F401
    PASSWORD,
    TOP,
    USER,
    error_of,
    make_harpd,
)
from harp import __version__, protocol, wire
from harp.errors import Refusal

PROCEDURES = TOP / "t" / "more_daemon_procedures.py"


def introspect(daemon, user=USER, password=PASSWORD) -> dict:
    with daemon.connect() as caller:
        caller.send_message(
            protocol.build_list_procedures(protocol.ListProcedures(user, password))
        )
        (message,) = caller.messages()
    return message


@pytest.fixture(scope="module")
def listed(tmp_path_factory, certificate):
    from daemon_setup import Harpd

    program = Harpd(
        tmp_path_factory.mktemp("harpd"),
        certificate,
        PROCEDURES,
        {"procedures": {"timeout": 60}},
    )
    program.start()
    yield introspect(program)
    program.stop()


def test_reply_has_exactly_the_keys_of_the_protocol(listed):
    assert listed.keys() == {"harp", "procedures", "version", "digest"}
    assert listed["harp"] == 1 and listed["version"] == __version__
    assert listed["digest"] == hashlib.sha256(PROCEDURES.read_bytes()).hexdigest()


def test_each_procedure_is_described(listed):
    by_name = {entry["name"]: entry for entry in listed["procedures"]}
    assert by_name["Add"] == {
        "name": "Add",
        "doc": "Add two numbers.",
        "parameters": [
            {"name": "a", "kind": "positional_or_keyword"},
            {"name": "b", "kind": "positional_or_keyword", "default": "0"},
        ],
        "streaming": False,
        "timeout": 60,
        "concurrency": None,
    }
    assert by_name["count"] == {
        "name": "count",
        "doc": "Count up to a number.",
        "parameters": [
            {"name": "n", "kind": "positional_or_keyword", "annotation": "int"}
        ],
        "streaming": True,
        "timeout": 60,
        "concurrency": 3,
    }
    assert "Base" not in by_name


def test_context_is_not_shown(listed):
    for entry in listed["procedures"]:
        names = [parameter["name"] for parameter in entry["parameters"]]
        assert not {"context", "me"} & set(names)


def test_only_what_this_user_may_call_is_shown(make_harpd):
    daemon = make_harpd(
        PROCEDURES,
        users={"some": "plain:x"},
        authorization={"some": ["w*", "count"]},
    )
    found = introspect(daemon, "some", "x")
    assert sorted(entry["name"] for entry in found["procedures"]) == [
        "count",
        "who",
        "who_by_name",
        "who_by_position",
    ]
    nothing = introspect(daemon)
    assert nothing["procedures"] == [] and nothing["digest"] == found["digest"]
    assert error_of(introspect(daemon, "some", "wrong"))[0] == "auth_error"
    assert "procedures listed" in daemon.log()


def test_digest_changes_with_the_source_and_only_with_it(make_harpd, tmp_path):
    directory = tmp_path / "procedures.d"
    directory.mkdir()
    (directory / "a.py").write_text("# empty\n")
    daemon = make_harpd(directory)
    first = introspect(daemon)
    assert first["procedures"] == []
    lines = f"{hashlib.sha256(b'# empty' + bytes([10])).hexdigest()}  a.py\n"
    assert first["digest"] == hashlib.sha256(lines.encode()).hexdigest()
    daemon.reload()
    assert introspect(daemon) == first
    (directory / "a.py").write_text("# also empty\n")
    daemon.reload()
    assert introspect(daemon)["digest"] != first["digest"]


def test_key_procedures_beside_a_procedure_means_nothing(make_harpd):
    daemon = make_harpd(PROCEDURES)
    with daemon.connect() as caller:
        caller.send_message(
            {
                "harp": 1,
                "procedure": "Add",
                "arguments": [1],
                "procedures": True,
                "auth": {"user": USER, "password": PASSWORD},
            }
        )
        assert caller.messages()[-1] == {"result": 1}


def test_reply_is_parsed_as_it_was_built():
    found = protocol.ProcedureList(
        [
            protocol.build_procedure(
                name="a",
                doc=None,
                parameters=[],
                streaming=False,
                timeout=None,
                concurrency=1,
            )
        ],
        "1.0",
        "abc",
    )
    message = wire.decode(wire.encode(protocol.build_procedure_list(found))[:-1])
    assert protocol.parse_procedure_list(message) == found


@pytest.mark.parametrize(
    "change",
    [
        {"procedures": {}},
        {"procedures": [5]},
        {"procedures": [{}]},
        {"procedures": [{"name": 5}]},
        {"version": 1},
        {"digest": None},
    ],
)
def test_reply_that_is_none_is_refused(change):
    message = {"harp": 1, "procedures": [], "version": "1", "digest": ""}
    assert protocol.parse_procedure_list(message)
    with pytest.raises(Refusal):
        protocol.parse_procedure_list(message | change)


@pytest.mark.parametrize(
    "change, type_",
    [
        ({"harp": 2}, "invalid_protocol"),
        ({"auth": {"user": USER}}, "invalid_request"),
        ({"procedures": False}, "invalid_request"),
        ({"procedures": 1}, "invalid_request"),
    ],
)
def test_request_that_is_none_is_refused(change, type_):
    request = protocol.build_list_procedures(protocol.ListProcedures("u", "p"))
    assert protocol.parse_daemon_request(request) == protocol.ListProcedures("u", "p")
    with pytest.raises(Refusal) as caught:
        protocol.parse_daemon_request(request | change)
    assert caught.value.type == type_
