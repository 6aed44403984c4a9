"""Laws of every pre-aggregator; a new file in `quorate/pre_aggregators` is tested unasked."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate import parts
from quorate.aggregators import claimed, what_it_is_given
from quorate.aggregators._blocks import BLOCK
from quorate.errors import RunError
from quorate.rand import Rand
from tests.aggregators.robust import LIES, PRE, examples, meeting, pre_rule
from tests.threads import on_threads
from tests.tiny import randn

every = pytest.mark.parametrize("name", PRE)
draws = given(n=st.integers(7, 12), f=st.integers(0, 3), seed=st.integers(0, 10**6), lie=st.sampled_from(sorted(LIES)))


@every
def test_has_examples_for_what_it_needs(name):
    for example in examples("pre_aggregator", name):
        filled = {*getattr(example, "keywords", {}), *what_it_is_given(example), "updates"}
        needed = inspect.signature(parts.find("pre_aggregator", name)).parameters.values()
        assert {each.name for each in needed if each.default is inspect.Parameter.empty} <= filled


@every
@draws
def test_writes_to_nothing_and_keeps_dtype_and_width(name, n, f, seed, lie):
    for dtype in (torch.float32, torch.float64):
        updates, _ = meeting(lie, n, 4, f, seed, dtype)
        before = updates.clone()
        prepared = pre_rule(name, f)(updates)
        assert prepared.dtype == dtype
        assert 1 <= len(prepared) <= n
        assert prepared.shape[1] == 4
        assert torch.equal(updates.nan_to_num(nan=7.0), before.nan_to_num(nan=7.0))


@every
@draws
def test_makes_no_row_longer_than_the_longest_and_spoils_no_more_rows_than_lie(name, n, f, seed, lie):
    updates, _ = meeting(lie, n, 4, f, seed, torch.float32)
    prepared = pre_rule(name, f)(updates).double()
    good = prepared[prepared.isfinite().all(dim=1)]
    assert len(prepared) - len(good) <= f
    longest = updates[updates.isfinite().all(dim=1)].double().norm(dim=1).max()
    assert good.norm(dim=1).max() <= longest * (1 + 1e-5)


@every
@draws
def test_follows_scales(name, n, f, seed, lie):
    updates, _ = meeting("far", n, 4, f, seed, torch.float64)
    for scale in (-4.0, 1e-3):
        found = pre_rule(name, f, abs(scale))(scale * updates)
        torch.testing.assert_close(found, scale * pre_rule(name, f)(updates))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_same_bits_on_any_number_of_threads(name, dtype):
    updates, found = randn(7, 2 * BLOCK + 11).to(dtype), []
    for threads in (1, 2, 3):
        with on_threads(threads):
            found.append(pre_rule(name, 2)(updates))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@every
@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 3, 4)])
def test_refuses_what_are_no_updates(name, shape):
    with pytest.raises(ValueError, match=f"^{name} needs updates"):
        pre_rule(name, 0)(torch.zeros(shape))


@every
def test_an_f_that_is_too_large_is_refused_with_a_hint(name):
    function = parts.find("pre_aggregator", name)
    if "f" not in parts.settings(function):
        assert claimed(pre_rule(name, 4)) == 0
        return
    most = function.most(9)
    for f in (most + 1, -1):
        with pytest.raises(RunError, match=f"^{name} ") as refused:
            pre_rule(name, f)(torch.zeros(9, 2))
        assert refused.value.hint == f"set f = {most}"


def test_chance_is_given_where_it_is_used():
    assert {name for name in PRE if what_it_is_given(parts.find("pre_aggregator", name)) == {"rand"}} == {"bucketing"}
    assert torch.equal(pre_rule("bucketing", 0, seed=1)(randn(9, 2)), pre_rule("bucketing", 0, seed=1)(randn(9, 2)))
    assert Rand(1) != Rand(2)
