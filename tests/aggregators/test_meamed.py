from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.aggregators.meamed import meamed
from tests.aggregators.test_trimmed_mean import few
from tests.tiny import randn


def slow_meamed(updates, f):
    """Sort each coordinate by the distance from its median."""
    found = []
    for column in updates.T.tolist():
        middle = statistics.median(column)
        closest = sorted(column, key=lambda value: (abs(value - middle), value))[: len(column) - f]
        found.append(sum(closest) / len(closest))
    return found


@given(f_n=few, d=st.integers(1, 5), seed=st.integers(0, 999), scale=st.sampled_from([1, 2, 1000]))
def test_agrees_with_the_definition(f_n, d, seed, scale):
    """Few different values, whole numbers so that distances are exact, make for many ties."""
    f, n = f_n
    updates = (scale * randn(n, d, seed=seed, dtype=torch.float64)).round()
    assert meamed(updates, f=f).tolist() == pytest.approx(slow_meamed(updates, f), abs=1e-10)


@given(n=st.integers(130, 140), f=st.integers(0, 60), seed=st.integers(0, 99))
def test_of_more_updates_than_a_network_is_made_for(n, f, seed):
    updates = randn(n, 3, seed=seed, dtype=torch.float64)
    assert meamed(updates, f=f).tolist() == pytest.approx(slow_meamed(updates, f), abs=1e-13)


@given(f=st.integers(1, 4), lies=st.lists(st.sampled_from([3.4e38, -3.4e38, 1e-45, 0.0]), min_size=4, max_size=4))
def test_values_that_are_too_far_apart_for_float32(f, lies):
    honest = torch.tensor([[-1.0], [1.0], [3.0], [3.0], [4.0]])
    updates = torch.cat([torch.tensor(lies[:f])[:, None], honest])
    found = meamed(updates, f=f)
    assert found.item() == pytest.approx(slow_meamed(updates.double(), f)[0], rel=1e-6)
    assert -1 <= found.item() <= 4


def test_honest_values_that_are_too_far_apart_for_float32():
    updates = torch.tensor([[-3.4e38], [3.4e38], [3.3e38], [3.2e38]])
    assert meamed(updates, f=1).item() == pytest.approx(3.3e38)
