"""Job ids: UUIDs of version 7."""

import time
import uuid

import pytest

from harp import jobid


def test_id_is_a_uuid_of_version_7_in_its_usual_form():
    for _ in range(1000):
        made = jobid.make()
        parsed = uuid.UUID(made)
        assert str(parsed) == made
        assert (parsed.int >> 76 & 0xF, parsed.int >> 62 & 0x3) == (7, 2)
        assert jobid.is_valid(made)


def test_ids_made_at_the_same_time_differ():
    assert len({jobid.make(0) for _ in range(10_000)}) == 10_000


def test_id_tells_when_it_was_made():
    before = time.time_ns() // 1_000_000 / 1000
    made = jobid.make()
    assert before <= jobid.time_of(made) <= time.time()


@pytest.mark.parametrize(
    "milliseconds", [0, 1, 999, 1_700_000_000_000, 2**47, 2**48 - 1]
)
def test_time_inside_is_what_was_put_in(milliseconds):
    made = jobid.make(milliseconds)
    assert jobid.is_valid(made)
    assert jobid.time_of(made) == milliseconds / 1000


def test_ids_sort_by_time():
    times = [0, 1, 255, 256, 65536, 2**32, 2**47]
    ids = [jobid.make(milliseconds) for milliseconds in times]
    assert sorted(ids) == ids


VALID = "01930000-0000-7000-8000-0123456789ab"


@pytest.mark.parametrize("variant", "89ab")
def test_id_of_another_maker_is_one_too(variant):
    assert jobid.is_valid(f"00000000-0000-7fff-{variant}fff-ffffffffffff")


NO_IDS = [
    None, True, 5, 5.0, [], {}, [VALID], VALID.encode(), uuid.UUID(VALID),
    "", " ", "0", "../../etc/passwd", "/etc/passwd", ".", "..",
    VALID.upper(), VALID[:-1], VALID + "0", VALID + "\n", " " + VALID, VALID + "\0",
    VALID.replace("-", ""), "{" + VALID + "}", "urn:uuid:" + VALID,
    VALID.replace("-7", "-4"), VALID.replace("-7", "-6"), VALID.replace("-8", "-7"),
    VALID.replace("-8", "-c"), VALID.replace("-8", "-0"),
    VALID.replace("a", "g"), VALID.replace("1", "١"), VALID.replace("-", "‐"),
    VALID.replace("0", "/", 1), VALID + ".jsonl", VALID + "/..",
]  # fmt: skip


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
def test_anything_else_is_no_id(value):
    assert jobid.is_valid(VALID)
    assert jobid.is_valid(value) is False


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (jobid.make(0), jobid.make(2**48 - 1)),
        (
            "01a20a3d-f636-7fff-bfff-ffffffffffff",
            "01a20a3d-f637-7000-8000-000000000000",
        ),
        (
            "01a20a3d-f636-7000-bfff-ffffffffffff",
            "01a20a3d-f636-7001-8000-000000000001",
        ),
        *(tuple(sorted((jobid.make(5), jobid.make(5)))) for _ in range(20)),
    ],
)
def test_what_is_between_two_ids_has_their_form_and_sorts_there(low, high):
    for _ in range(100):
        found = jobid.between(low, high)
        assert jobid.is_valid(found) and low < found <= high
