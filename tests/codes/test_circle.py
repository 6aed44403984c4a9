from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codes import _circle

SHAPES = [(3, 1), (4, 1), (9, 1), (9, 4), (10, 3), (15, 2), (16, 5), (21, 5), (45, 1), (45, 3), (45, 5), (45, 8)]


def kinds(n):
    return (True, False) if n % 2 else (False,)


circles = pytest.mark.parametrize(("n", "s", "real"), [(n, s, real) for n, s in SHAPES for real in kinds(n)])


def waves(n, frequencies):
    """Return the columns exp(2 pi i k q / n), k in 0 .. n - 1, of some frequencies q."""
    turns = torch.arange(n, dtype=torch.float64)[:, None] * torch.tensor(frequencies, dtype=torch.float64)
    return torch.polar(torch.ones_like(turns), 2 * math.pi / n * turns)


@circles
def test_weights_stand_where_batches_are_held_and_are_the_only_ones_there_are(n, s, real):
    weights, held_by = _circle.weights(n, s, real), _circle.holders(n, s)
    first = -(n - 2 * s - 1) // 2 if real else 0
    span = waves(n, list(range(first, first + n - 2 * s)))
    for batch in range(n):
        others = [rank for rank in range(n) if rank not in held_by[batch]]
        assert torch.equal(weights[others, batch], torch.zeros(len(others), dtype=weights.dtype))
        solved = torch.linalg.lstsq(
            torch.cat([span[others], span.sum(0, keepdim=True)]),
            torch.cat([torch.zeros(len(others), 1), torch.ones(1, 1)]).to(span.dtype),
        ).solution
        torch.testing.assert_close(weights[:, batch].to(span.dtype), (span @ solved)[:, 0], rtol=1e-6, atol=1e-7)


@circles
def test_weights_are_small_and_add_up_to_one(n, s, real):
    weights = _circle.weights(n, s, real)
    ones = torch.ones(n, dtype=weights.dtype)
    torch.testing.assert_close(weights.sum(0), ones)
    torch.testing.assert_close(weights.sum(1), ones)
    assert weights.abs().max() < 0.6
    if real:
        assert weights.min() >= 0


def test_neighbouring_holders_would_make_large_weights(monkeypatch):
    monkeypatch.setattr(_circle, "holders", lambda n, s: [[(j + t) % n for t in range(2 * s + 1)] for j in range(n)])
    assert _circle.weights.__wrapped__(45, 5, False).abs().max() > 1e3


@circles
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_checks_see_nothing_of_honest_answers_and_everything_of_errors(n, s, real, data):
    out = data.draw(st.lists(st.integers(0, n - 1), max_size=s, unique=True), "left out")
    kept = [rank for rank in range(n) if rank not in out]
    weights, span = _circle.weights(n, s, real), _circle.basis(n, s, real)
    checks, moments = _circle.checks(span, kept), _circle.moments(n, s, real, kept)
    assert len(checks) == len(moments) == 2 * s - len(out)
    for rows in (checks, moments):
        assert (rows @ weights[kept].to(rows.dtype)).abs().max() < 1e-10 * max(1, rows.abs().max())
    eye = torch.eye(len(checks), dtype=checks.dtype)
    torch.testing.assert_close(checks @ checks.mH, eye)
    wrong = torch.randperm(len(kept), generator=torch.Generator().manual_seed(n))[: len(checks)]
    assert torch.linalg.matrix_rank(checks[:, wrong], rtol=1e-14) == len(checks)


@circles
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_the_mean_of_all_follows_from_those_that_are_left(n, s, real, data):
    out = data.draw(st.lists(st.integers(0, n - 1), max_size=s, unique=True), "left out")
    kept = [rank for rank in range(n) if rank not in out]
    weights, span = _circle.weights(n, s, real), _circle.basis(n, s, real)
    by = _circle.combination(span, kept, torch.full((n,), 1 / n, dtype=torch.float64))
    assert (by @ weights[kept] - 1 / n).abs().max() < 1e-9


@circles
def test_moments_are_powers_of_the_nodes(n, s, real):
    kept = list(range(s, n))
    moments, node = _circle.moments(n, s, real, kept), _circle.nodes(n)[kept]
    for row in range(1, s):
        torch.testing.assert_close(moments[row], moments[0] * node**-row, rtol=1e-8, atol=1e-10)
    assert moments[0].abs().min() > 1e-9 if s else True
