from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators.geometric_median import geometric_median
from tests.tiny import randn

median = geometric_median


def cost(updates, y):
    """Return the sum of the distances, in float64."""
    return (updates.double() - y.double()).norm(dim=1).sum()


def slow_median(updates, steps=3000):
    """Weiszfeld's steps in the space of the updates, smoothed by almost nothing."""
    y = updates.mean(dim=0)
    for _ in range(steps):
        weights = 1 / (updates - y).norm(dim=1).clamp_min(1e-9)
        y = weights @ updates / weights.sum()
    return y


@given(n=st.integers(1, 12), d=st.integers(2, 8), seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=30)
def test_costs_no_more_than_what_weiszfeld_finds_nor_any_update(n, d, seed):
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    found = cost(updates, median(updates, f=0))
    for other in (slow_median(updates), *updates):
        assert found <= cost(updates, other) * (1 + 1e-12)


@given(
    n=st.integers(2, 12),
    d=st.integers(2, 6),
    seed=st.integers(0, 9999),
    tight=st.sampled_from([1e-9, 1e-4, 1e-2, 1.0]),
    apart=st.sampled_from([1.0, 1e3, 1e7]),
)
@settings(deadline=None, max_examples=60)
def test_no_direction_leads_down_wherever_updates_are(n, d, seed, tight, apart):
    """Groups of any tightness, at any distance: the derivative along every direction is at least 0, up to rounding."""
    updates = tight * randn(n, d, seed=seed, dtype=torch.float64)
    updates[: n // 2] += apart * randn(1, d, seed=seed + 1, dtype=torch.float64)
    y = median(updates, f=0)
    away = updates - y
    lengths = away.norm(dim=1)
    there = lengths <= 1e-9 * lengths.max()
    pull = (away[~there] / lengths[~there, None]).sum(dim=0).norm()
    assert pull <= int(there.sum()) + 1e-6 or cost(updates, y) <= cost(updates, slow_median(updates)) * (1 + 1e-11)


@given(values=st.lists(st.integers(-50, 50), min_size=1, max_size=9))
@settings(deadline=None)
def test_on_a_line_is_the_median_or_the_middle_between_two(values):
    found = median(torch.tensor(values, dtype=torch.float64)[:, None] * torch.tensor([3.0, 4.0]).double(), f=0)
    low, high = statistics.median_low(values), statistics.median_high(values)
    repeats = [value for value in values if value in (low, high)]
    middle = sum(repeats) / len(repeats)
    assert found.tolist() == pytest.approx([3 * middle, 4 * middle], abs=1e-9)


@given(n=st.integers(3, 11), seed=st.integers(0, 999))
@settings(deadline=None)
def test_is_what_most_say_whatever_the_others_say(n, seed):
    updates = 1e6 * randn(n, 4, seed=seed)
    updates[: n // 2 + 1] = updates[0].clone()
    assert median(updates, f=(n - 1) // 2).tolist() == pytest.approx(updates[0].tolist(), rel=1e-6)


def test_an_update_that_is_the_median_is_returned():
    """Of a triangle with an angle of more than 120 degrees it is that corner."""
    updates = torch.tensor([[0.0, 0.0], [10.0, 1.0], [-10.0, 1.0]])
    assert median(updates, f=0).tolist() == [0.0, 0.0]
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    assert median(square, f=0).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    fermat = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]], dtype=torch.float64)
    assert median(fermat, f=0).tolist() == pytest.approx(fermat.mean(dim=0).tolist(), abs=1e-12)


@pytest.mark.parametrize("huge", [1e10, 1e38, 3.4e38])
def test_a_huge_update_pulls_by_one_in_its_direction(huge):
    honest = randn(6, 5, dtype=torch.float64)
    near = torch.cat([honest, 1e6 * torch.ones(1, 5)])
    far = torch.cat([honest.float(), huge * torch.ones(1, 5)])
    torch.testing.assert_close(median(far, f=1).double(), median(near, f=1), rtol=1e-4, atol=1e-4)


def test_float32_costs_what_float64_does():
    updates = 0.5 * randn(1, 20_000) + randn(15, 20_000, seed=3)
    updates[:3] *= 30
    found = cost(updates, median(updates, f=3))
    assert found <= cost(updates, median(updates.double(), f=3)) * (1 + 1e-9)
