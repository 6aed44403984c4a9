"""Laws of every codec: what it loses stays within its bound, and what it is said to keep it keeps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs import contraction
from quorate.codecs._sparsifier import Sparsifier
from quorate.codecs.error_feedback import ErrorFeedback
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


@law(names=NAMES, max_examples=15)
def test_loses_no_more_than_its_bound(name, d, dtype, seed, number):
    """The mean of 48 draws may be 5 standard errors above: false alarms are rarer than 1 in 10**6."""
    codec, updates = drawn(name, d, dtype, seed, number)
    bound = codec.bound(d)
    assert bound >= 0
    for shape in ("normal", "heavy", "spike", "constant"):
        for scale in (1e-3, 1.0, 1e3):
            x = shaped(updates[0], shape) * scale
            lost = torch.tensor([contraction(codec, x, seed=seed + draw).measured for draw in range(2)])
            if lost[0] != lost[1]:
                more = [contraction(codec, x, seed=seed + draw).measured for draw in range(2, DRAWS)]
                lost = torch.cat([lost, torch.tensor(more)])
            spread = 5 * float(lost.std()) / math.sqrt(len(lost)) if lost.std() else 0.0
            assert float(lost.mean()) <= bound * (1 + 1e-5) + spread + 1e-12, (codec, shape, scale)


@pytest.mark.parametrize("name", [name for name in SPEAKING if any(codec.unbiased for codec in of_name(name))])
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_expects_what_it_calls_unbiased(name, seed, dtype):
    """Mean of 300 messages along 4 directions, each within 6 standard errors: fewer than 1 false alarm in 10**8."""
    x, directions = randn(64, seed=seed, dtype=dtype), randn(64, 4, seed=seed + 1, dtype=torch.float64)
    for codec in of_name(name):
        if codec.unbiased:
            said = torch.stack([said_of(codec, x, at(0, seed, step)) for step in range(300)]).double()
            along = (said - x.double()) @ directions
            error = along.std(dim=0) / math.sqrt(len(said)) if codec.bound(64) else torch.zeros(4)
            assert (along.mean(dim=0).abs() <= 6 * error + 1e-5 * directions.norm(dim=0)).all(), codec


def test_a_bias_of_a_hundredth_of_a_level_is_found():
    """The test of expectations is sharp enough to find rounding that is not fair."""
    x, direction = randn(64), randn(64, seed=1)
    said = torch.stack([said_of(of_name("natural")[0], x, at(0, 0, step)) for step in range(300)])
    along = (said * 1.05 - x) @ direction
    assert along.mean().abs() > 6 * along.std() / math.sqrt(300)


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
