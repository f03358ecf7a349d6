"""What an entry of ``authorization`` allows."""

import pytest

from harp.rights import EVERYTHING, NOTHING, OPERATIONS, Rights, parse_rights


def rights(**more) -> Rights:
    return parse_rights({"panel": {"operations": ["*"], **more}})["panel"]


def test_every_operation_is_what_a_star_means():
    assert rights() == EVERYTHING and EVERYTHING.operations == OPERATIONS
    assert not NOTHING.operations


@pytest.mark.parametrize(
    ("patterns", "text", "allowed"),
    [
        (["web*"], "web01", True),
        (["web*"], "db01", False),
        (["web*"], "Web01", False),
        (["web0?", "db*"], "db01", True),
        (["web0[12]"], "web03", False),
        (["web01"], "web01.example.net", False),
        ([], "web01", False),
        (["*"], "", True),
    ],
)
def test_one_of_the_patterns_must_match_the_whole_name(patterns, text, allowed):
    assert rights(hosts=patterns).allow_host(text) is allowed
    assert rights(procedures=patterns).allow_procedure(text) is allowed
    assert rights(queues=patterns).allow_queue(text) is allowed


def test_no_queue_is_matched_as_an_empty_text():
    assert rights(queues=[""]).allow_queue(None)
    assert not rights(queues=["{*"]).allow_queue(None)
    assert rights().allow_queue(None)


@pytest.mark.parametrize(
    "more",
    [
        {"hosts": ["*"]},
        {"procedures": []},
        {"queues": ["*"]},
        {"own_jobs": True},
    ],
)
def test_jobs_are_limited_by_every_key_but_the_operations(more):
    assert rights(**more).are_limited
    assert not rights(own_jobs=False).are_limited
    assert not NOTHING.are_limited
