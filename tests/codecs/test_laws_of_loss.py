"""Laws of every codec: what it loses stays within its bound, and what it is said to keep it keeps."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codecs import Codec, contraction
from quorate.codecs._sparsifier import Sparsifier
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.natural import Natural
from quorate.errors import RecipeError
from quorate.trees import leaf
from quorate.wire import Wire
from tests.codecs.laws import NAMES, SPEAKING, at, drawn, law, of_name, said_of
from tests.tiny import randn

DRAWS = 48


def shaped(x: torch.Tensor, shape: str) -> torch.Tensor:
    """Return normal numbers (d,) in another distribution."""
    if shape == "spike":
        return torch.where(torch.arange(len(x)) == len(x) // 2, x, torch.zeros_like(x))
    if shape == "constant":
        return x[:1].expand(len(x)).clone()
    return x**5 if shape == "heavy" else x


@cache
def is_random(codec: Codec) -> bool:
    x = randn(64)
    return contraction(codec, x, seed=0) != contraction(codec, x, seed=1)


@pytest.mark.parametrize("name", NAMES)
@given(
    d=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10**6),
    number=st.integers(0, 10**6),
    shape=st.sampled_from(["normal", "heavy", "spike", "constant"]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
@settings(deadline=None, max_examples=30)
def test_loses_no_more_than_its_bound(name, d, dtype, seed, number, shape, scale):
    """The mean of 48 draws may be 5 standard errors above it: false alarms are rarer than 1 in 10**6."""
    codec, updates = drawn(name, d, dtype, seed, number)
    x, bound = shaped(updates[0], shape) * scale, codec.bound(d)
    draws = DRAWS if is_random(codec) else 1
    lost = torch.tensor([contraction(codec, x, seed=seed + draw).measured for draw in range(draws)])
    spread = max(float(lost.std()), math.sqrt(max(0.0, bound * (1 - bound)))) if draws > 1 else 0.0
    assert 0 <= float(lost.mean()) <= bound * (1 + 1e-5) + 5 * spread / math.sqrt(draws) + 1e-12


@pytest.mark.parametrize("name", [name for name in SPEAKING if any(codec.unbiased for codec in of_name(name))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_expects_what_it_calls_unbiased(name, dtype):
    """Mean of 400 messages along 4 directions, each within 6 standard errors: fewer than 1 false alarm in 10**8."""
    x, directions = randn(64, dtype=dtype), randn(64, 4, seed=1, dtype=torch.float64)
    for codec in of_name(name):
        if codec.unbiased:
            said = torch.stack([said_of(codec, x, at(0, 0, step)) for step in range(400)]).double()
            along = (said - x.double()) @ directions
            error = along.std(dim=0) / math.sqrt(len(said)) if codec.bound(64) else torch.zeros(4)
            assert (along.mean(dim=0).abs() <= 6 * error + 1e-5 * directions.norm(dim=0)).all(), codec


def test_a_bias_of_a_twentieth_is_found():
    """Expectations are tested sharply enough to notice that all is said a little too long."""
    x = randn(64)
    said = torch.stack([said_of(Natural(), x, at(0, 0, step)) for step in range(300)])
    along = (1.05 * said - x) @ x
    assert along.mean().abs() > 6 * along.std() / math.sqrt(300) + 1e-5 * x.norm()


@law
def test_error_feedback_loses_nothing(name, d, dtype, seed, number):
    """What is remembered and what is said are the input: to the bit, if entries are said as they are."""
    codec, updates = drawn(name, d, dtype, seed, number)
    if isinstance(codec, ErrorFeedback):
        return
    feedback = ErrorFeedback(codec)
    try:
        feedback.wire(Wire())
    except RecipeError:
        return
    state, residual = feedback.init(updates[0]), torch.zeros(d, dtype=dtype)
    for step in range(3):
        wanted = residual + updates[step]
        head, side, state = feedback.encode(updates[step].clone(), state, at(0, seed, step))
        said = feedback.decode(head.clone(), side, updates[0], at(0, seed, step))
        residual = leaf(state, "residual").clone()
        if isinstance(codec, Sparsifier):
            assert torch.equal(residual + said, wanted)
        else:
            torch.testing.assert_close(residual + said, wanted)
