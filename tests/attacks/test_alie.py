from __future__ import annotations

from statistics import NormalDist, mean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.attacks import _vectors
from quorate.attacks.alie import Alie, furthest
from quorate.errors import RecipeError
from tests.attacks.lab import one


@given(n=st.integers(5, 20), d=st.integers(1, 6), z=st.floats(-3, 3), seed=st.integers(0, 999))
@settings(deadline=None)
def test_agrees_with_the_definition(n, d, z, seed):
    seen = one(n, 2, d, seed=seed)
    slow = [mean(column) - z * stdev(column) for column in seen.known.T.tolist()]
    assert Alie(z).forge(seen).tolist() == pytest.approx(slow, abs=1e-12)


def test_the_moments_do_not_depend_on_blocks(monkeypatch):
    seen = one(d=37)
    whole = Alie(1.5).forge(seen)
    monkeypatch.setattr(_vectors, "BLOCK", 11)
    assert torch.equal(Alie(1.5).forge(seen), whole)


@pytest.mark.parametrize(
    ("n", "f", "share"), [(50, 12, 24 / 38), (50, 24, 24 / 26), (45, 10, 22 / 35), (25, 11, 12 / 14)]
)
def test_z_is_that_of_the_source(n, f, share):
    assert furthest(n, f) == pytest.approx(NormalDist().inv_cdf(share))
    seen = one(n, f)
    assert torch.equal(Alie().forge(seen), Alie(furthest(n, f)).forge(seen))


@given(n=st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_z_grows_with_the_liars_and_is_finite(n):
    n, f = n
    assert 0 <= furthest(n, f) < 4
    assert f == 1 or furthest(n, f - 1) <= furthest(n, f) or f > n // 2


def test_counts_those_that_are_combined_not_all_workers():
    seen = one(100, 10, known=torch.randn(15, 5, generator=torch.Generator().manual_seed(0)), among=25)
    torch.testing.assert_close(Alie().forge(seen), Alie(furthest(25, 10)).forge(seen))
    assert furthest(25, 10) != furthest(100, 10)


def test_too_few_liars_say_the_honest_mean():
    seen = one(8, 1)
    torch.testing.assert_close(Alie().forge(seen), seen.known.mean(dim=0))


def test_hides_within_the_spread_of_the_honest():
    seen = one(45, 10, 1000)
    honest = seen.known.mean(dim=0)
    assert float((Alie(0.9).forge(seen) - honest).norm()) < float((seen.known - honest).norm(dim=1).min())


@pytest.mark.parametrize("z", [float("inf"), float("nan")])
def test_refuses_z_that_are_not_finite(z):
    with pytest.raises(RecipeError, match=r"^alie needs a finite z, got .*\nhint: z = 1.5$"):
        Alie(z)
