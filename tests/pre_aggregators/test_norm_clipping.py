from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.pre_aggregators.norm_clipping import norm_clipping
from tests.tiny import randn


@given(n=st.integers(1, 9), seed=st.integers(0, 999), radius=st.floats(0.1, 5))
def test_agrees_with_the_definition(n, seed, radius):
    updates = randn(n, 3, seed=seed, dtype=torch.float64)
    right = torch.stack([row * min(1, radius / float(row.norm())) for row in updates])
    torch.testing.assert_close(norm_clipping(updates, radius=radius), right)


@pytest.mark.parametrize("size", [1e-30, 1e19, 1e30, 3e38])
def test_however_long_an_update_is_it_becomes_as_long_as_the_radius(size):
    found = norm_clipping(torch.tensor([[size, -size, 0.0], [1e-3, 0.0, 0.0]]), radius=1e-2)
    assert float(found[0].double().norm()) == pytest.approx(min(1e-2, size * 2**0.5), rel=1e-5)
    assert found[1].tolist() == pytest.approx([1e-3, 0, 0])


def test_a_norm_that_float64_can_not_hold():
    found = norm_clipping(torch.full((2, 4), 1.7e308, dtype=torch.float64), radius=1.0)
    assert found.isfinite().all()
    assert float(found.norm(dim=1).max()) <= 1


def test_what_is_not_finite_stays_for_the_aggregator_to_find():
    updates = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [3.0, 4.0]])
    found = norm_clipping(updates, radius=1.0)
    assert torch.equal(found.isfinite(), updates.isfinite())
    assert found[2].tolist() == pytest.approx([0.6, 0.8])


def test_short_updates_are_not_copied():
    updates = randn(3, 4)
    assert norm_clipping(updates, radius=100.0) is updates


@pytest.mark.parametrize("radius", [0.0, -1.0, torch.inf, torch.nan])
def test_a_radius_is_above_0(radius):
    with pytest.raises(ValueError, match=f"^norm_clipping needs a radius above 0, got {radius}$"):
        norm_clipping(torch.zeros(2, 2), radius=radius)
