from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codes.repetition import Repetition
from quorate.errors import RunError
from quorate.votes import digest
from quorate.wire import Incompatible
from tests.codes.lies import KINDS, far, gradients, said, told


@settings(deadline=None, max_examples=60)
@given(
    s=st.integers(1, 3),
    groups=st.integers(1, 4),
    d=st.integers(1, 30),
    kinds=st.lists(st.sampled_from(KINDS), min_size=4, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_up_to_s_liars_in_every_group_leave_every_bit_as_it_is(s, groups, d, kinds, seed):
    code, n = Repetition(s), groups * (2 * s + 1)
    honest = said(code, gradients(n, d, seed))
    answers, liars = honest, []
    for group, kind in zip(code.groups(n), kinds, strict=False):
        mine = torch.randperm(len(group), generator=torch.Generator().manual_seed(seed))[:s].tolist()
        answers = told(answers, [group[place] for place in mine], kind, seed)
        liars += [group[place] for place in mine if kind != "silent"]
    decoded = code.decode(answers, honest[0])
    assert torch.equal(decoded.mean, code.decode(honest, honest[0]).mean)
    assert decoded.convicted == tuple(sorted(liars))


def test_is_the_mean_of_all_batches():
    batches = gradients(15, 1000, 3)
    code = Repetition(2)
    assert far(code.decode(said(code, batches), batches[0]).mean, batches) < 2e-7


def test_sums_in_the_order_of_batches():
    batches = torch.tensor([[1e8], [1.0], [-1e8]])
    assert Repetition(1).encode(list(batches), 3, 0).item() == ((torch.tensor(1e8) + 1) + torch.tensor(-1e8)).item()


def test_liars_of_a_group_who_disagree_are_detected():
    code = Repetition(1)
    answers = said(code, gradients(6, 4, 0))
    answers[4], answers[5] = answers[4] + 1, answers[5] + 2
    with pytest.raises(RunError, match=r"group 1 \(ranks 3, 4, 5\) has no majority: of its 3 answers, at most 1 agree"):
        code.decode(answers, answers[0])


def test_a_liar_and_a_silent_one_are_too_many_for_a_group_of_three():
    code = Repetition(1)
    answers = said(code, gradients(3, 4, 0))
    with pytest.raises(RunError, match="group 0"):
        code.decode([None, answers[1] + 1, answers[2]], answers[0])


def test_a_majority_that_is_not_finite_is_refused():
    code = Repetition(1)
    honest = said(code, gradients(6, 4, 0) * torch.inf)
    with pytest.raises(RunError, match="the majority of group 0 says a gradient that is not finite"):
        code.decode(honest, honest[0])


@pytest.mark.parametrize(("s", "n", "nearest"), [(1, 10, 9), (1, 11, 12), (2, 6, 5), (2, 3, 5), (5, 45, 44), (1, 1, 3)])
def test_a_number_that_makes_no_groups_is_refused_with_the_nearest_that_does(s, n, nearest):
    with pytest.raises(
        Incompatible, match=f"groups of {2 * s + 1}, which {n} workers do not.*\nhint: workers = {nearest}"
    ):
        Repetition(s).batches(n, 0)


def test_digests_are_enough_to_vote():
    code, batches = Repetition(1), gradients(9, 40, 5)
    honest = said(code, batches)
    answers = told(honest, [1, 3, 8], "small", 0)
    vote = code.vote([None if rank == 8 else digest(each) for rank, each in enumerate(answers)])
    assert vote.majorities == ((0, 2), (4, 5), (6, 7))
    assert vote.convicted == (1, 3)
    won = [answers[party[0]] for party in vote.majorities]
    assert torch.equal(code.mean(won), code.decode(honest, honest[0]).mean)


def test_digests_are_not_enough_for_answers_that_need_not_be_equal():
    code = Repetition(1, tolerance=1e-6)
    assert not code.by_digest
    with pytest.raises(RunError, match="tolerance = 0"):
        code.vote([digest(torch.zeros(2))] * 3)


@settings(deadline=None, max_examples=60)
@given(
    s=st.integers(1, 2),
    d=st.integers(20, 60),
    kind=st.sampled_from(["reversed", "huge", "zero", "nan", "infinity", "silent"]),
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1e-30, 1.0, 1e25]),
)
def test_replicas_that_differ_by_rounding_agree_within_a_tolerance(s, d, kind, seed, size):
    code, n = Repetition(s, tolerance=1e-4), 2 * (2 * s + 1)
    honest = said(code, size * gradients(n, d, seed))
    noisy = [each * (1 + 1e-6 * gradients(1, d, rank)[0]) for rank, each in enumerate(honest)]
    liars = list(range(s))
    decoded = code.decode(told(noisy, liars, kind, seed), honest[0])
    assert decoded.convicted == (() if kind == "silent" else tuple(liars))
    exact = code.decode(honest, honest[0]).mean
    assert (decoded.mean.double() - exact.double()).norm() < 1e-3 * exact.double().norm()


def test_equal_answers_of_nothing_agree_within_a_tolerance():
    code = Repetition(1, tolerance=1e-4)
    decoded = code.decode([torch.zeros(3), torch.zeros(3), torch.ones(3)], torch.zeros(3))
    assert torch.equal(decoded.mean, torch.zeros(3))
    assert decoded.convicted == (2,)


def test_too_different_answers_have_no_majority_within_a_tolerance():
    answers = list(gradients(3, 50, 0))
    with pytest.raises(RunError, match="no majority"):
        Repetition(1, tolerance=1e-4).decode(answers, answers[0])
    with pytest.raises(RunError, match="no majority"):
        Repetition(1, tolerance=1e-4).decode([answers[0] * torch.nan] * 3, answers[0])


def test_what_a_liar_within_the_tolerance_can_do_is_bounded_and_convicts_nobody():
    code = Repetition(1, tolerance=0.01)
    honest = torch.ones(100)
    answers = [honest, honest * 1.004, honest * 1.0139]
    decoded = code.decode(answers, honest)
    assert decoded.convicted == ()
    assert abs(float(decoded.mean[0]) * 3 - 1) < 0.015
