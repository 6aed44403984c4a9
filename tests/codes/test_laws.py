"""Laws of every redundancy code; a new file in `quorate/codes` is tested unasked."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import parts
from quorate.wire import Incompatible
from tests.codes.lies import KINDS, far, gradients, lie, said, told

NAMES = sorted(parts.names("code"))


def examples(name):
    return getattr(importlib.import_module(f"quorate.codes.{name}"), "EXAMPLES", ()) or (parts.find("code", name)(),)


def exists(code, n):
    try:
        code.batches(n, 0)
    except Incompatible:
        return False
    return True


def sizes(code):
    """Return up to how many workers a law is checked with: all sizes of at most 16 that the code exists for."""
    return [n for n in range(1, 17) if exists(code, n)]


CODES = [pytest.param(code, id=repr(code)) for name in NAMES for code in examples(name)]
law = pytest.mark.parametrize("code", CODES)


def convicts(code):
    """Return whether a code says who is wrong: DETOX does only where liars can't be the majority of a group."""
    return 2 * code.s < code.r if hasattr(code, "r") else True


def test_the_folder_is_found():
    assert {"cyclic", "detox", "repetition"} <= set(NAMES)


@law
def test_work_is_shared_equally_and_each_batch_is_held_equally_often(code):
    assert sizes(code)
    for n in sizes(code):
        held = [code.batches(n, rank) for rank in range(n)]
        assert len({len(each) for each in held}) == 1
        assert all(list(each) == sorted(set(each)) for each in held)
        assert {sum(batch in each for each in held) for batch in range(n)} == {len(held[0])}


@law
@settings(deadline=None, max_examples=15)
@given(data=st.data(), d=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_liars_change_nothing_and_are_named(code, data, d, seed):
    n = data.draw(st.sampled_from(sizes(code)), "n")
    liars = data.draw(st.lists(st.integers(0, n - 1), max_size=code.s, unique=True), "liars")
    kind = data.draw(st.sampled_from(KINDS), "kind")
    honest = said(code, gradients(n, d, seed))
    answers = told(honest, liars, kind, seed)
    free, decoded = code.decode(honest, torch.empty(d)), code.decode(answers, torch.empty(d))
    assert free.convicted == ()
    assert set(decoded.convicted) <= set(liars)
    if kind != "silent" and convicts(code):
        apart = [rank for rank in liars if far(answers[rank], honest[rank][None]) > 1e-3 or kind in ("nan", "infinity")]
        assert set(apart) <= set(decoded.convicted)
    if kind == "silent":
        assert decoded.convicted == ()


@law
def test_without_liars_it_is_the_mean_or_near_it(code):
    for n in sizes(code):
        batches = torch.ones(n, 1) * gradients(1, 9, n)
        mean = code.decode(said(code, batches), batches[0]).mean
        torch.testing.assert_close(mean, batches[0], rtol=1e-5, atol=1e-6)
        assert mean.dtype == torch.float32


@law
def test_writes_to_nothing_and_shares_no_memory(code):
    n = sizes(code)[-1]
    batches = gradients(n, 6, 0)
    before = batches.clone()
    honest = said(code, batches)
    kept = [each.clone() for each in honest]
    code.decode(honest, batches[0]).mean.zero_()
    for each in said(code, batches):
        each.zero_()
    assert torch.equal(batches, before)
    assert all(torch.equal(one, other) for one, other in zip(honest, kept, strict=True))


@pytest.mark.parametrize("code", [each for each in CODES if each.values[0].s])
@pytest.mark.parametrize(
    "strange", [torch.zeros(3), torch.zeros(0), torch.zeros(6, dtype=torch.int64), torch.zeros(2, 3)]
)
def test_an_answer_of_another_shape_or_dtype_is_wrong(code, strange):
    n = sizes(code)[-1]
    batches = gradients(n, 6, 1)
    honest = said(code, batches)
    decoded = code.decode([strange, *honest[1:]], batches[0])
    assert decoded.convicted == (0,)


@law
@pytest.mark.parametrize("kind", ["small", "silent"])
def test_the_same_answers_give_the_same_bits_for_any_number_of_threads(code, kind):
    n, d = sizes(code)[-1], 70_000
    answers = told(said(code, gradients(n, d, 0)), list(range(code.s)), kind, 0)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(code.decode(answers, torch.empty(d)).mean)
    torch.set_num_threads(1)
    assert torch.equal(*found)


@law
def test_takes_gradients_of_any_float_dtype(code):
    n = sizes(code)[0]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        batches = gradients(n, 5, 2, dtype)
        mean = code.decode(said(code, batches), batches[0]).mean
        assert (mean.dtype, mean.shape) == (dtype, (5,))


def test_lies_are_lies():
    honest = gradients(1, 4, 0)[0]
    made = [lie(kind, honest, 1, 0) for kind in KINDS]
    assert all(each is None or not torch.equal(each, honest) for each in made)
