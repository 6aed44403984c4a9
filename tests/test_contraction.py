from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate import codecs
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.int8 import Int8
from quorate.codecs.natural import Natural
from quorate.codecs.power_sgd import PowerSgd
from quorate.codecs.top_k import TopK
from quorate.contraction import contraction
from quorate.errors import QuorateError
from tests.tiny import randn


@given(d=st.integers(1, 200), ratio=st.floats(0.01, 1.0), seed=st.integers(0, 999))
def test_of_top_k_is_what_the_smaller_entries_hold(d, ratio, seed):
    x, codec = randn(d, seed=seed, dtype=torch.float64), TopK(ratio)
    k = codec.at_most(d)
    squares = x.square().sort(descending=True).values
    found = contraction(codec, x)
    assert found.measured == pytest.approx(float(squares[k:].sum() / squares.sum()), abs=1e-12)
    assert found.measured <= found.bound + 1e-12 == 1 - k / d + 1e-12


def test_bell_shaped_updates_lose_less_than_the_tighter_bound():
    x = randn(100_000)
    for ratio in (0.001, 0.01, 0.1):
        found = contraction(TopK(ratio), x)
        assert found.bell_shaped_bound == pytest.approx((1 - ratio) ** 2)
        assert found.measured < found.bell_shaped_bound < found.bound


def test_an_update_that_is_not_bell_shaped_may_lose_more():
    found = contraction(TopK(0.5), torch.ones(10))
    assert (found.measured, found.bound) == (pytest.approx(0.5), 0.5)
    assert found.bell_shaped_bound == 0.25


def test_knows_codecs_that_meet_and_those_that_state_no_tighter_bound():
    left, right = randn(40, 1), randn(1, 40, seed=1)
    thin = contraction(PowerSgd(rank=1), (left @ right).flatten())
    assert thin.measured < 1e-6
    assert contraction(Int8(), randn(9)).bell_shaped_bound is None
    assert contraction(Identity(), randn(9)) == codecs.Contraction(0.0, 0.0, None)
    assert math.isinf(contraction(Chain((Natural(), Natural())), randn(0)).bound)


def test_error_feedback_is_its_codec_in_the_first_step():
    x = randn(50)
    assert contraction(ErrorFeedback(TopK(0.1)), x).measured == contraction(TopK(0.1), x).measured


def test_the_draw_is_given_by_the_seed_and_the_update_is_only_read():
    x = randn(100)
    before = x.clone()
    assert contraction(Natural(), x, seed=1) == contraction(Natural(), x, seed=1)
    assert contraction(Natural(), x, seed=1) != contraction(Natural(), x, seed=2)
    assert torch.equal(x, before)


@pytest.mark.parametrize("x", [torch.tensor([1.0, math.nan]), torch.tensor([math.inf]), torch.ones(2, 2)])
def test_refuses_what_is_not_a_vector_of_finite_numbers(x):
    with pytest.raises(QuorateError, match="contraction needs finite numbers of shape"):
        contraction(Identity(), x)


@pytest.mark.parametrize("module", ["quorate.contraction", "quorate.codecs"])
def test_can_be_imported_from_either_end(module):
    subprocess.run([sys.executable, "-c", f"from {module} import contraction; contraction.__call__"], check=True)
