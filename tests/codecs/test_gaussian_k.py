from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import selection
from quorate.codecs._sparsifier import count
from quorate.codecs.gaussian_k import GaussianK
from quorate.rand import At, Rand
from tests.codecs.sparse import AT, are_the_largest, energy
from tests.tiny import randn


def heavy(d: int, seed: int):
    """Return numbers of Student's t distribution with 3 degrees of freedom."""
    return randn(d, seed=seed) / (randn(3, d, seed=seed + 1).square().sum(dim=0) / 3).sqrt()


def laplace(d: int, seed: int):
    return randn(2, d, seed=seed).square().sum(dim=0) * randn(d, seed=seed + 1).sign()


def plain(x, ratio: float, corrections: int = 3):
    """Select as the source does, by counting all entries again; without the limits to few and to many.

    Returns:
        Indices, and the lowest threshold that was tried.
    """
    d, k = len(x), count(ratio, len(x))
    wide = x.double()
    deviation = float(wide.std(correction=0))
    threshold = abs(float(wide.mean())) + deviation * NormalDist().inv_cdf(1 - k / d / 2)
    lowest = threshold
    for _ in range(corrections):
        exceed = int((wide.abs() > threshold).sum())
        if exceed < 2 * k / 3:
            threshold *= 0.5
        elif exceed > 4 * k / 3:
            threshold *= 1.5
        else:
            break
        lowest = min(lowest, threshold)
    return (wide.abs() > threshold).nonzero()[:, 0], lowest


@given(
    d=st.integers(1, 20_000),
    seed=st.integers(0, 99),
    ratio=st.sampled_from([0.001, 0.01, 0.1, 0.7]),
    kind=st.sampled_from([lambda d, s: randn(d, seed=s), heavy, laplace, lambda d, s: randn(d, seed=s) ** 9]),
    corrections=st.integers(0, 4),
)
@settings(max_examples=100)
def test_candidates_counted_again_give_what_counting_all_again_gives(d, seed, ratio, kind, corrections):
    x, codec = kind(d, seed).double(), GaussianK(ratio, corrections=corrections)
    (wanted, lowest), got, k = plain(x, ratio, corrections), codec.select(x, AT), count(ratio, d)
    if len(wanted) > codec.at_most(d):
        assert len(got) == codec.at_most(d)
        assert are_the_largest(x, got)
    elif len(wanted) < 2 * k / 3:
        assert len(got) == min(k, int((x.abs() > lowest).sum()))
        assert are_the_largest(x, got)
    else:
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("make", [lambda d, s: randn(d, seed=s), heavy, laplace])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_usual_distributions_give_about_k(make, seed):
    x, codec = make(300_000, seed), GaussianK(0.001)
    assert 2 / 3 <= len(codec.select(x, AT)) / 300 <= 4 / 3
    assert energy(codec, x) > 0.75
    assert codec.bell_shaped_bound(300_000) == pytest.approx(0.999**2)


@pytest.mark.parametrize("make", [lambda d, s: randn(d, seed=s), heavy, laplace, lambda d, s: randn(d, seed=s) ** 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_sample_of_a_thirtieth_gives_about_as_many_as_all_would_and_the_largest(make, seed):
    d = 2_000_000
    x, codec = make(d, seed), GaussianK(0.001)
    got, all_of_it = codec.select(x, AT), GaussianK(0.001, sample=d).select(x, AT)
    assert are_the_largest(x, got)
    assert 2 / 3 <= len(got) / 2000 <= 4 / 3
    assert abs(len(got) - len(all_of_it)) <= 0.2 * len(all_of_it)


def test_each_worker_samples_other_entries():
    x, codec = randn(300_000), GaussianK(0.01, sample=1000)
    assert len({len(codec.select(x, At(0, rank, 8, Rand(0)))) for rank in range(8)}) > 4


def test_one_pass_finds_the_candidates_whatever_has_to_be_corrected(monkeypatch):
    passes, above = [], selection.above
    monkeypatch.setattr(selection, "above", lambda x, threshold: passes.append(len(x)) or above(x, threshold))
    for power in (1, 3, 9):
        GaussianK(0.001, corrections=8).select(randn(200_000) ** power, AT)
    assert passes == [200_000] * 3


def test_a_sharp_edge_below_the_last_threshold_does_not_leave_out_almost_all():
    """As error feedback makes it: a hundredth of the entries, a few of them huge, all others small."""
    d = 100_000
    x = randn(d) * 0.01
    x[:1000] = 1.0
    x[0] = 1.01
    assert len(plain(x, 0.001)[0]) == 0
    assert 2 / 3 * 100 <= len(GaussianK(0.001).select(x, AT)) <= 4 / 3 * 100


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0, float("nan"), float("inf")])
def test_constant_and_hostile_updates_stay_within_the_limit(value):
    codec = GaussianK(0.01)
    assert len(codec.select(torch.full((500,), value), AT)) <= codec.at_most(500) == 6
    assert len(codec.select(torch.empty(0), AT)) == 0


def test_the_choice_does_not_depend_on_the_sign():
    x = randn(10_000) + 0.3
    assert torch.equal(GaussianK(0.01).select(x, AT), GaussianK(0.01).select(-x, AT))
