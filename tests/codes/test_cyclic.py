from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codes.cyclic import Cyclic, _place
from quorate.errors import RunError
from quorate.wire import Incompatible
from tests.codes.lies import KINDS, far, gradients, said, told
from tests.tiny import randn


def decoded(code, batches, liars, kind, seed):
    answers = told(said(code, batches), liars, kind, seed)
    return code.decode(answers, batches[0])


workers = st.integers(1, 4).flatmap(lambda s: st.tuples(st.just(s), st.integers(2 * s + 1, 21)))


@settings(deadline=None, max_examples=150)
@given(s_n=workers, kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), real=st.booleans(), data=st.data())
def test_up_to_s_liars_of_any_kind_are_named_and_change_no_more_than_rounding(s_n, kind, seed, real, data):
    s, n = s_n
    numbers = "real" if real and n % 2 else "complex"
    liars = data.draw(st.lists(st.integers(0, n - 1), max_size=s, unique=True), "liars")
    batches = gradients(n, 50, seed)
    found = decoded(Cyclic(s, numbers=numbers), batches, liars, kind, seed)
    assert found.convicted == (() if kind == "silent" else tuple(sorted(liars)))
    assert far(found.mean, batches) < (1e-5 if numbers == "real" else 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", ["real", "complex"])
@pytest.mark.parametrize("s", [1, 3, 5, 8])
def test_finds_s_of_45_wherever_they_are(s, numbers, kind):
    code = Cyclic(s, numbers=numbers)
    for seed in range(3):
        batches = gradients(45, 60, seed)
        liars = torch.randperm(45, generator=torch.Generator().manual_seed(seed))[:s].tolist()
        for who in (sorted(liars), list(range(seed, seed + s))):
            found = decoded(code, batches, who, kind, seed)
            assert found.convicted == (() if kind == "silent" else tuple(who))
            assert far(found.mean, batches) < (1e-7 if numbers == "complex" else 1e-6)


@settings(deadline=None, max_examples=40)
@given(s_n=workers, seed=st.integers(0, 10**6))
def test_double_transport_is_exact_to_double_precision(s_n, seed):
    s, n = s_n
    batches = gradients(n, 20, seed).double() + 1e-9 * randn(n, 20, seed=seed).double()
    found = decoded(Cyclic(s, "double"), batches, [0], "reversed", seed)
    assert found.convicted == (0,)
    assert far(found.mean, batches) < 1e-11


def test_errors_of_sizes_far_apart_are_all_found():
    code, batches = Cyclic(5), gradients(45, 80, 4)
    answers = said(code, batches)
    for place, rank in enumerate((3, 9, 21, 30, 41)):
        answers[rank] = answers[rank] + 10.0 ** (30 - 8 * place) * randn(160, seed=place)
    found = code.decode(answers, batches[0])
    assert found.convicted == (3, 9, 21, 30, 41)
    assert far(found.mean, batches) < 1e-7


@pytest.mark.parametrize(("s", "n", "more"), [(1, 9, 1), (2, 15, 1), (3, 20, 2), (5, 45, 3)])
def test_more_than_s_liars_are_detected(s, n, more):
    for seed in range(2):
        for kind in ("reversed", "small", "constant", "nan"):
            with pytest.raises(
                RunError, match=f"more than s = {s} of {n} answers are wrong or missing\nhint: s = {s + 1}"
            ):
                decoded(Cyclic(s), gradients(n, 30, seed), list(range(s + more)), kind, seed)


def test_the_silent_count_among_the_wrong():
    code, batches = Cyclic(2), gradients(11, 30, 0)
    answers = told(said(code, batches), [4], "silent", 0)
    found = code.decode(told(answers, [7], "small", 0), batches[0])
    assert found.convicted == (7,)
    assert far(found.mean, batches) < 1e-6
    with pytest.raises(RunError, match="more than s = 2"):
        code.decode(told(answers, [0, 7], "small", 0), batches[0])
    with pytest.raises(RunError, match="more than s = 2"):
        code.decode([None] * 3 + answers[3:], batches[0])
    with pytest.raises(RunError, match="more than s = 2"):
        code.decode([None] * 11, batches[0])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0.0, 1e-44, 1e-40, 1e-20, 1e20, 1e37]))
def test_nobody_is_convicted_of_rounding(seed, size):
    for code in (Cyclic(2), Cyclic(2, numbers="real")):
        batches = size * gradients(11, 7, seed)
        assert code.decode(said(code, batches), batches[0]).convicted == ()
        assert decoded(code, batches, [1, 5], "constant", 0).convicted == (1, 5)


def test_gradients_that_differ_by_rounding_need_a_tolerance():
    batches = gradients(15, 200, 0)
    answers = []
    for rank in range(15):
        noisy = batches * (1 + 1e-6 * randn(15, 200, seed=rank))
        code = Cyclic(2)
        answers.append(code.encode([noisy[batch] for batch in code.batches(15, rank)], 15, rank))
    with pytest.raises(RunError, match="set `tolerance`"):
        Cyclic(2).decode(answers, batches[0])
    tolerant = Cyclic(2, tolerance=1e-5)
    assert tolerant.decode(answers, batches[0]).convicted == ()
    found = tolerant.decode(told(answers, [2, 3], "small", 0), batches[0])
    assert found.convicted == (2, 3)
    assert far(found.mean, batches) < 1e-5


def test_uploads_as_much_as_without_a_code_where_numbers_are_real():
    for n, numbers, length in ((9, "real", 7), (8, "complex", 14), (9, "complex", 14)):
        (first, *_) = said(Cyclic(1, numbers=numbers), gradients(n, 7, 0))
        assert (first.shape, first.dtype) == ((length,), torch.float32)


def test_all_workers_hold_all_batches_if_there_are_no_more():
    assert Cyclic(2).batches(5, 3) == (0, 1, 2, 3, 4)


def test_neighbouring_ranks_stand_far_apart():
    for n in range(10, 60):
        places = [_place(n, rank) for rank in range(n)]
        assert sorted(places) == list(range(n))
        steps = {(other - one) % n for one, other in pairwise(places)}
        assert all(n / 4 <= step <= n * 3 / 4 for step in steps)


@pytest.mark.parametrize(
    ("code", "n", "says"),
    [
        (Cyclic(3), 6, "cyclic with s = 3 needs at least 7 workers, got 6\nhint: s = 2"),
        (Cyclic(1, numbers="real"), 8, 'odd number of workers, got 8\nhint: numbers = "complex", or workers = 9'),
    ],
)
def test_a_number_for_which_there_is_no_code_is_refused(code, n, says):
    with pytest.raises(Incompatible, match=says):
        code.batches(n, 0)
