from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codes.detox import Detox
from quorate.codes.repetition import Repetition
from quorate.errors import RunError
from quorate.wire import Incompatible
from tests.codes.lies import KINDS, gradients, said, told


@settings(deadline=None, max_examples=60)
@given(
    s=st.integers(0, 5),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10**6),
    rule=st.sampled_from(["geometric_median", "median", "krum", "multi_krum"]),
)
def test_liars_move_the_result_no_farther_than_honest_groups_are_apart(s, kind, seed, rule):
    code, n, d = Detox(s, aggregator=rule), 27, 20
    liars = list(range(3))[:s] + list(range(3, 6))[: max(0, s - 3)]
    batches = gradients(n, d, seed)
    honest = said(code, batches)
    found = code.decode(told(honest, liars, kind, seed), batches[0])
    groups = torch.stack(honest[::3]) / 3
    spread = max(float((one - other).norm()) for one in groups for other in groups)
    assert (found.mean - groups.mean(0)).norm() <= 2 * spread


def test_liars_that_are_no_majority_change_nothing_and_are_named():
    batches = gradients(15, 10, 0)
    code = Detox(1)
    honest = said(code, batches)
    for kind in KINDS:
        found = code.decode(told(honest, [7], kind, 0), batches[0])
        assert torch.equal(found.mean, code.decode(honest, batches[0]).mean)
        assert found.convicted == (() if kind == "silent" else (7,))


def test_nobody_is_named_where_liars_may_be_the_majority():
    batches = gradients(15, 10, 0)
    code = Detox(2)
    answers = said(code, batches)
    answers[0] = answers[1] = 9 * answers[0]
    assert code.decode(answers, batches[0]).convicted == ()


def test_a_group_that_says_nothing_is_one_that_liars_speak_for():
    batches = gradients(15, 10, 0)
    code = Detox(3)
    answers = said(code, batches)
    alone = code.mean([answers[3], answers[6], answers[9], answers[12]], silent=1)
    assert torch.equal(code.decode([None] * 3 + answers[3:], batches[0]).mean, alone)
    with pytest.raises(RunError, match="nobody of 2 groups has answered, and 3 liars can speak for 1"):
        code.decode([None] * 6 + answers[6:], batches[0])


def test_without_replicas_it_is_the_aggregator_and_without_liars_the_mean():
    batches = gradients(15, 10, 0)
    plain, voted = Detox(0, aggregator="mean"), Repetition(1)
    torch.testing.assert_close(
        plain.decode(said(plain, batches), batches[0]).mean, voted.decode(said(voted, batches), batches[0]).mean
    )


@pytest.mark.parametrize(
    ("code", "n", "says"),
    [
        (Detox(1), 10, "detox divides workers into groups of 3, which 10 workers do not make\nhint: workers = 9"),
        (Detox(4), 9, "4 liars can speak for 2 of 3 groups, and geometric_median withstands 1\nhint: s = 3, or"),
    ],
)
def test_a_number_of_workers_that_will_not_do_is_refused(code, n, says):
    with pytest.raises(Incompatible, match=says):
        code.batches(n, 0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 4}, "groups of r = 4 may be divided in halves: take an odd r"),
        ({"aggregator": "centered_clipping"}, "`centered_clipping` is told more than f"),
        ({"aggregator": "medain"}, "did you mean `median`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(Exception, match=says):
        Detox(**settings)
