"""After a mixed load, reloads, restarts and kills all is where it was before."""

import pytest
import soak


@pytest.mark.parametrize(
    "seconds",
    [3, pytest.param(600, marks=pytest.mark.slow(seconds=1200))],
)
def test_nothing_is_left_behind_by_a_mixed_load(tmp_path, seed, seconds):
    soak.Soak(tmp_path / "soak", seed).run(seconds, print)
