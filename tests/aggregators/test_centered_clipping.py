from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.aggregators import what_it_is_given
from quorate.aggregators._blocks import BLOCK
from quorate.aggregators.centered_clipping import centered_clipping
from quorate.aggregators.median import median
from tests.threads import on_threads
from tests.tiny import randn


def slow_centered_clipping(updates, radius, steps, last):
    """Definition by the book."""
    v = last.clone()
    for _ in range(steps):
        v = v + sum((x - v) * min(1, radius / max(1e-300, float((x - v).norm()))) for x in updates) / len(updates)
    return v


@given(
    n=st.integers(1, 9),
    d=st.integers(1, 5),
    seed=st.integers(0, 999),
    radius=st.floats(0.01, 9),
    steps=st.integers(1, 4),
)
def test_agrees_with_the_definition(n, d, seed, radius, steps):
    updates, last = randn(n, d, seed=seed, dtype=torch.float64), randn(d, seed=seed + 1, dtype=torch.float64)
    given_last = last.clone()
    found = centered_clipping(updates, f=0, radius=radius, steps=steps, last=given_last)
    torch.testing.assert_close(found, slow_centered_clipping(updates, radius, steps, last))
    assert torch.equal(given_last, last)
    first = centered_clipping(updates, f=0, radius=radius, steps=steps)
    torch.testing.assert_close(first, slow_centered_clipping(updates, radius, steps, median(updates, f=0)))


def test_with_a_large_radius_is_the_mean():
    updates = randn(6, 2 * BLOCK + 3)
    torch.testing.assert_close(centered_clipping(updates, f=0, radius=1e9), updates.mean(dim=0))


@given(f=st.integers(1, 4), seed=st.integers(0, 999), radius=st.floats(0.1, 2), far=st.sampled_from([1.0, 1e3, 1e38]))
def test_comes_to_rest_near_honest_updates_that_agree(f, seed, radius, far):
    """However far off it begins; whatever the liars say: here, all the same, the worst there is."""
    n, honest = 2 * f + 1, randn(3, seed=seed)
    updates = torch.cat([honest.repeat(n - f, 1), torch.full((f, 3), far)])
    steps = 10 + int(n * (10 / radius + 1) / (n - 2 * f)) + 60
    found = centered_clipping(updates, f=f, radius=radius, steps=steps, last=honest + 10 / 3**0.5)
    assert float((found - honest).norm()) <= f * radius / (n - f) * (1 + 1e-3) + 1e-3


@given(f=st.integers(0, 3), seed=st.integers(0, 99), steps=st.integers(1, 4), lie=st.sampled_from([3e38, 1e19, 1e-45]))
def test_no_step_is_longer_than_the_radius(f, seed, steps, lie):
    updates, last = randn(7, 4, seed=seed), randn(4, seed=seed + 1)
    updates[:f] = lie
    found = centered_clipping(updates, f=f, radius=0.25, steps=steps, last=last)
    assert float((found - last).norm()) <= 0.25 * steps * (1 + 1e-5)


def test_updates_that_are_not_finite_have_no_say():
    updates, last = randn(7, 4), torch.zeros(4)
    updates[1, 2], updates[4] = torch.nan, -torch.inf
    others = updates[[0, 2, 3, 5, 6]]
    found = centered_clipping(updates, f=2, radius=1.0, last=last)
    torch.testing.assert_close(found, centered_clipping(others, f=0, radius=1.0, last=last))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_same_bits_on_any_number_of_threads(dtype):
    updates, found = randn(5, 3 * BLOCK + 7).to(dtype), []
    for threads in (1, 2, 3):
        with on_threads(threads):
            found.append(centered_clipping(updates, f=1, radius=50.0, steps=2))
    assert found[0].dtype == dtype
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_is_given_the_last_combination():
    assert what_it_is_given(centered_clipping) == {"last"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"radius": 0.0}, "centered_clipping needs a radius above 0 and steps >= 1; got 0.0 and 1"),
        ({"radius": torch.inf}, "centered_clipping needs a radius above 0 and steps >= 1; got inf and 1"),
        ({"radius": 1.0, "steps": 0}, "centered_clipping needs a radius above 0 and steps >= 1; got 1.0 and 0"),
        ({"radius": 1.0, "last": torch.zeros(3)}, "centered_clipping needs last of shape (2,), got (3,)"),
    ],
)
def test_says_what_it_needs(settings, says):
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        centered_clipping(torch.zeros(3, 2), f=1, **settings)
