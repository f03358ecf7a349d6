"""Durations as people write them."""

import pytest
from harp.duration import parse_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1, 1),
        (0.5, 0.5),
        ("40s", 40),
        ("15m", 900),
        ("12h", 43200),
        ("30d", 2_592_000),
        ("2 w", 1_209_600),
        (10**9, 10**9),
    ],
)
def test_duration_is_taken_in_seconds(value, seconds):
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value",
    [0, -1, "0d", "-1d", True, None, [], "", "d", "30", "1.5d", "1d1h", "1  d", "1d\n"]
    + ["30D", "1y", "٣d", 10**9 + 1, "99999999999d", float("nan"), float("inf")],
)
def test_what_is_no_duration_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        parse_duration(value)
