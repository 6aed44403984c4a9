from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import selection
from tests.tiny import randn

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
dtypes = st.sampled_from(DTYPES)
lengths = st.integers(0, 60) | st.sampled_from([1_000, 40_000, selection._PIECE + 1])


def drawn(d: int, seed: int, dtype: torch.dtype = torch.float32, kind: str = "normal"):
    """Return a vector (d,) with ties, zeros, heavy tails or large entries in a row."""
    x = randn(d, seed=seed)
    made = {
        "normal": lambda: x,
        "ties": lambda: x.round(),
        "rare": lambda: torch.where(x > 2.5, x, torch.zeros(())),
        "zero": lambda: torch.zeros(d),
        "constant": lambda: torch.full((d,), -3.0),
        "heavy": lambda: x / randn(d, seed=seed + 1).abs().clamp_min(1e-3),
        "a row": lambda: torch.cat([x[: d // 50] * 100, x[d // 50 :]]),
        "a comb": lambda: x * (1 + 100 * (torch.arange(d) % 2)),
    }
    return made[kind]().to(dtype)


kinds = st.sampled_from(["normal", "ties", "rare", "zero", "constant", "heavy", "a row", "a comb"])


@given(d=lengths, seed=st.integers(0, 99), dtype=dtypes, kind=kinds, threshold=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
@settings(max_examples=40)
def test_above_finds_what_its_definition_finds(d, seed, dtype, kind, threshold):
    x = drawn(d, seed, dtype, kind)
    found, wanted = selection.above(x, threshold), selection.plain_above(x, threshold)
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.magnitudes, wanted.magnitudes)
    higher = found.above(2.0)
    assert torch.equal(higher.indices, selection.plain_above(x, max(threshold, 2.0)).indices)
    assert torch.equal(higher.magnitudes, x[higher.indices].abs().to(higher.magnitudes.dtype))


@given(
    d=lengths, seed=st.integers(0, 99), dtype=dtypes, kind=kinds, ratio=st.sampled_from([0, 0.001, 0.03, 0.3, 0.9, 1])
)
@settings(max_examples=40)
def test_largest_finds_entries_as_large_as_its_definition_does(d, seed, dtype, kind, ratio):
    x, k = drawn(d, seed, dtype, kind), math.ceil(ratio * d)
    before = x.clone()
    found, wanted = selection.largest(x, k), selection.plain_largest(x, k)
    assert torch.equal(x, before)
    assert (found.indices.dtype, len(found.indices)) == (torch.int64, k)
    assert (found.indices.diff() > 0).all()
    assert torch.equal(found.magnitudes, x[found.indices].abs().to(found.magnitudes.dtype))
    assert torch.equal(found.magnitudes.sort().values, wanted.magnitudes.sort().values)
    more = selection.at_least(x, k)
    assert torch.equal(more.magnitudes, x[more.indices].abs().to(more.magnitudes.dtype))
    assert torch.equal(selection.most(more, k).indices, found.indices)


@given(d=lengths.filter(bool), seed=st.integers(0, 99), wrong=st.sampled_from([math.nan, math.inf, -math.inf]))
@settings(max_examples=40)
def test_nan_and_infinity_never_make_more_or_fewer_than_asked_for(d, seed, wrong):
    x, k = randn(d, seed=seed), math.ceil(0.01 * d)
    x[:: max(1, d // 7)] = wrong
    for each in (x, torch.full((d,), wrong)):
        found = selection.largest(each, k).indices
        assert (len(found), len(found.unique())) == (k, k)
        assert len(selection.above(torch.full((d,), math.nan), 0.0).indices) == 0
        assert len(selection.largest_of_blocks(each, 8)) == -(-d // 8)
        selection.moments(each)
        selection.mean_and_largest_magnitude(each)


def test_a_sample_that_misleads_costs_time_only():
    """The largest entries stand where the sample does not look, or only there."""
    d, k = 100_000, 100
    seen = torch.zeros(d, dtype=torch.bool)
    selection.strided(seen, selection._SAMPLE)[:] = True
    for hidden in (seen, ~seen):
        x = torch.where(hidden, torch.ones(()), 10 + randn(d))
        found = selection.largest(x, k)
        assert torch.equal(found.magnitudes.sort().values, selection.plain_largest(x, k).magnitudes.sort().values)


@given(d=st.integers(0, 300_000), size=st.integers(1, 20_000), offset=st.integers(0, 2**63 - 1))
def test_a_sample_is_about_as_large_as_asked_for_and_never_half_of_all(d, size, offset):
    sample = selection.strided(torch.empty(d), size, offset)
    wanted = min(size, d // 16)
    assert wanted - 1 <= len(sample) <= 2 * wanted
    assert len(sample) <= d / 8


@given(d=st.integers(0, 300_000), size=st.integers(1, 20_000), offset=st.integers(0, 2**63 - 1))
def test_where_a_sample_may_be_all_it_is_never_smaller_than_asked_for(d, size, offset):
    sample = selection.strided(torch.empty(d), size, offset, part=1)
    assert len(sample) >= min(d, size)
    assert len(sample) <= max(2 * size, 1) or len(sample) == d < 2 * size


def test_a_stride_does_not_keep_step_with_rows():
    x = torch.arange(784).repeat(1000)
    assert len(selection.strided(x, 10_000).unique()) == 784


@given(d=lengths.filter(bool), seed=st.integers(0, 99), dtype=dtypes, kind=kinds)
@settings(max_examples=40)
def test_moments_are_those_of_the_definition(d, seed, dtype, kind):
    x = drawn(d, seed, dtype, kind)
    wide = x.double()
    mean, deviation = selection.moments(x)
    scale = float(wide.square().mean().sqrt()) + 1e-30
    assert mean == pytest.approx(float(wide.mean()), abs=1e-5 * scale)
    assert deviation == pytest.approx(float(wide.std(correction=0)), abs=1e-3 * scale)
    average, top = selection.mean_and_largest_magnitude(x)
    assert average == pytest.approx(float(wide.abs().mean()), rel=1e-5)
    assert top == float(x.abs().max())


@given(d=lengths, seed=st.integers(0, 99), dtype=dtypes, kind=kinds, block=st.sampled_from([1, 2, 7, 256, 9_000]))
@settings(max_examples=40)
def test_each_block_gives_its_largest(d, seed, dtype, kind, block):
    x = drawn(d, seed, dtype, kind)
    found = selection.largest_of_blocks(x, block)
    blocks = x.abs().split(block) if d else ()
    assert [int(index) // block for index in found] == list(range(len(blocks)))
    assert torch.equal(x[found].abs(), torch.stack([each.max() for each in blocks]) if d else x)


@given(d=st.integers(1, 60), seed=st.integers(0, 99), number=st.integers(0, 59), dtype=dtypes)
def test_a_threshold_is_the_entry_of_that_rank(d, seed, number, dtype):
    x, rank = randn(d, seed=seed).to(dtype), number % d + 1
    assert selection.threshold_of(x, rank) == float(x.abs().sort(descending=True).values[rank - 1])
    places = torch.arange(0, d, 2)
    assert torch.equal(selection.entries(x, places), x[places])


def test_vectors_that_are_not_contiguous_are_read_as_they_are():
    x = randn(5_000, 2)[:, 1]
    assert torch.equal(selection.largest(x, 50).indices, selection.plain_largest(x.clone(), 50).indices)
    assert torch.equal(selection.largest_of_blocks(x, 64), selection.largest_of_blocks(x.clone(), 64))
    assert selection.moments(x) == pytest.approx(selection.moments(x.clone()), rel=1e-3)
