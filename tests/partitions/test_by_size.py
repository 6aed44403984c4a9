from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RecipeError
from quorate.partitions.by_size import by_size
from quorate.rand import Rand
from quorate.tasks import Data


def sizes_of(n, size, **settings):
    return [len(part) for part in by_size(Data(torch.zeros(n), torch.zeros(n)), size, Rand(0), **settings)]


@given(parts=st.lists(st.integers(1, 20), min_size=1, max_size=6), times=st.integers(1, 5))
def test_whole_proportions_are_met_exactly(parts, times):
    assert sizes_of(times * sum(parts), len(parts), sizes=tuple(parts)) == [times * part for part in parts]


@given(n=st.integers(6, 100), sizes=st.tuples(*[st.floats(1e-300, 1e300)] * 6))
def test_sizes_are_within_one_of_their_proportion_unless_that_would_leave_somebody_without(n, sizes):
    got = sizes_of(n, 6, sizes=sizes)
    largest = max(sizes)
    total = sum(part / largest for part in sizes)
    ideal = [n * (part / largest / total) for part in sizes]
    assert sum(got) == n
    assert min(got) >= 1
    if min(ideal) >= 1:
        assert all(abs(a - b) <= 1 for a, b in zip(got, ideal, strict=True))


@pytest.mark.parametrize(
    ("exponent", "sizes"), [(0.0, [10] * 3), (1.0, [16, 8, 6]), (2.0, [22, 6, 2]), (1e9, [28, 1, 1])]
)
def test_power_law(exponent, sizes):
    assert sizes_of(30, 3, exponent=exponent) == sizes


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"sizes": (1.0, 2.0)},
            "`by_size` needs one size per worker, 3; got 2\nhint: leave out `sizes` for a power law",
        ),
        (
            {"sizes": (1.0, 0.0, 2.0)},
            "sizes are positive, finite numbers; got [1.0, 0.0, 2.0]\nhint: leave out `sizes` for a power law",
        ),
        (
            {"sizes": (1.0, float("inf"), 2.0)},
            "sizes are positive, finite numbers; got [1.0, inf, 2.0]\nhint: leave out `sizes` for a power law",
        ),
        ({"exponent": -1.0}, "exponent is a number from 0 up; got -1.0\nhint: set exponent = 1.0"),
        ({"exponent": float("nan")}, "exponent is a number from 0 up; got nan\nhint: set exponent = 1.0"),
    ],
)
def test_refuses_sizes_that_are_none(settings, says):
    with pytest.raises(RecipeError) as error:
        sizes_of(30, 3, **settings)
    assert str(error.value) == says
