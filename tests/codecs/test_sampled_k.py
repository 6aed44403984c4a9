from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import selection
from quorate.codecs._sparsifier import count
from quorate.codecs.sampled_k import SampledK
from quorate.rand import At, Rand
from tests.codecs.sparse import AT, are_the_largest, energy, left
from tests.tiny import randn


@given(
    d=st.integers(1, 60_000),
    seed=st.integers(0, 99),
    ratio=st.sampled_from([0.001, 0.02, 0.1, 0.6]),
    power=st.sampled_from([0, 1, 9]),
)
@settings(max_examples=60)
def test_whatever_the_update_about_k_of_the_largest_are_chosen_and_their_energy_is_kept(d, seed, ratio, power):
    x, codec, k = randn(d, seed=seed) ** power, SampledK(ratio), count(ratio, d)
    chosen = codec.select(x, At(0, 0, 1, Rand(seed)))
    assert 0.97 * k <= len(chosen) <= max(1, 4 * k / 3)
    assert power == 0 or energy(codec, x, At(0, 0, 1, Rand(seed))) >= 0.97
    assert are_the_largest(x, chosen)
    assert left(codec, x) <= codec.bound(d) + 1e-6


def test_a_few_more_than_k_are_chosen_on_average_so_that_energy_is_kept():
    x, codec = randn(2_000_000), SampledK(0.001)
    ratios = [len(codec.select(x, At(0, rank, 10, Rand(0)))) / 2000 for rank in range(10)]
    assert 1.05 < sum(ratios) / 10 < 1.25
    assert len(set(ratios)) > 5  # each worker's sample begins elsewhere
    assert sum(energy(codec, x, At(0, rank, 10, Rand(0))) for rank in range(10)) / 10 > 1.0


def test_where_the_sample_tells_too_little_the_choice_is_exact():
    x = randn(100_000)
    assert torch.equal(SampledK(0.001).select(x, AT), selection.largest(x, 100).indices)


@pytest.mark.parametrize("value", [0.0, 2.0, float("nan"), float("-inf")])
def test_hostile_updates_stay_within_the_limit(value):
    x = torch.full((100_000,), value)
    assert len(SampledK(0.01).select(x, AT)) <= SampledK(0.01).at_most(len(x))
    x = randn(100_000)
    x[::13] = value
    assert len(SampledK(0.01).select(x, AT)) <= SampledK(0.01).at_most(len(x))
    assert len(SampledK().select(torch.empty(0), AT)) == 0
