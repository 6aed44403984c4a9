from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators.krum import by_support, krum
from quorate.aggregators.multi_krum import multi_krum
from tests.tiny import randn

sizes = st.integers(0, 3).flatmap(lambda f: st.tuples(st.just(f), st.integers(2 * f + 3, 2 * f + 6)))


def slow_scores(updates, nearest):
    """Sum the squared distances to the nearest others, one pair at a time."""
    rows = updates.tolist()
    distances = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    return [sum(sorted(row[:i] + row[i + 1 :])[:nearest]) for i, row in enumerate(distances)]


@given(f_n=sizes, d=st.integers(2, 5), seed=st.integers(0, 9999), more=st.sampled_from([None, 1]))
@settings(deadline=None)
def test_follow_the_definition(f_n, d, seed, more):
    f, n = f_n
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    nearest = None if more is None else n - f - more
    scores = slow_scores(updates, n - f - 2 if more is None else n - f - more)
    best = sorted(range(n), key=scores.__getitem__)
    found = krum(updates, f=f, nearest=nearest)
    assert scores[updates.tolist().index(found.tolist())] == pytest.approx(scores[best[0]], rel=1e-12)
    if scores[best[n - f - 1]] < scores[(best + best)[n - f]] * (1 - 1e-9) or f == 0:
        mean = updates[best[: n - f]].mean(dim=0)
        torch.testing.assert_close(multi_krum(updates, f=f, nearest=nearest), mean, rtol=1e-12, atol=1e-12)


def test_of_two_that_are_each_others_nearest_the_one_closer_to_the_rest_comes_first():
    updates = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    assert krum(updates, f=0).item() == 1.0
    assert krum(updates.flip(0), f=0).item() == 1.0
    squares = (updates - updates.T).square()
    assert by_support(squares, 1) == [1, 0, 2]
    assert by_support(torch.zeros(4, 4), 2) == [0, 1, 2, 3]


def test_returns_a_row_of_its_own():
    updates = randn(7, 4)
    found = krum(updates, f=2)
    assert found.tolist() in updates.tolist()
    kept = updates.clone()
    found.zero_()
    assert torch.equal(updates, kept)


@pytest.mark.parametrize("rule", [krum, multi_krum])
@pytest.mark.parametrize("nearest", [0, -1, 6])
def test_a_number_of_neighbours_that_there_are_not_is_refused(rule, nearest):
    rule(randn(7, 4), f=1, nearest=5)
    with pytest.raises(
        ValueError, match=rf"{rule.__name__} needs nearest = 1 .. 5 here, where n - f = 6; got {nearest}"
    ):
        rule(randn(7, 4), f=1, nearest=nearest)


def test_colluders_that_are_close_to_one_another_are_too_few():
    updates = randn(9, 50)
    updates[:3] = 40 + 1e-3 * updates[:3]
    assert krum(updates, f=3).tolist() in updates[3:].tolist()
    torch.testing.assert_close(multi_krum(updates, f=3), updates[3:].mean(dim=0))


def test_non_finite_updates_take_no_neighbours_away():
    updates = randn(9, 6, dtype=torch.float64)
    right = krum(updates[2:], f=1), multi_krum(updates[2:], f=1)
    updates[:2] = torch.nan
    torch.testing.assert_close(krum(updates, f=3), right[0])
    torch.testing.assert_close(multi_krum(updates, f=3), right[1])
