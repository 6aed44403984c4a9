"""How updates become one: pre-aggregation, what aggregators are given, forged updates, and scores."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from quorate.aggregators import claimed, given, most_of, name_of, what_it_is_given, what_it_needs, withstands
from quorate.aggregators.mean import mean
from quorate.aggregators.trimmed_mean import trimmed_mean
from quorate.attacks.sign_flip import SignFlip
from quorate.combination import PreAggregated, combine
from quorate.hostility import Hostility
from quorate.rand import At, Rand
from quorate.wire import Opens
from tests.tiny import randn

AT = At(2, 0, 5, Rand(1))


@given("last", "rand")
@withstands(lambda n: n // 3)
def curious(updates, weights=None, *, f=0, last=None, rand=None):
    """Return what it was given, as numbers."""
    return torch.stack([updates.new_tensor(0.0 if last is None else float(last.sum())), updates.new_tensor(rand.seed)])


def doubled(updates):
    """Return updates twice."""
    return torch.cat([updates, updates])


def test_what_a_rule_asks_for_is_filled_in_and_the_same_for_all():
    last = randn(4)
    first, second = combine(curious, list(randn(5, 4)), None, AT, range(5), last=last)
    assert float(first) == pytest.approx(float(last.sum()))
    again = combine(curious, list(randn(5, 4)), None, AT._replace(rank=3), range(5))
    assert float(again[0]) == 0
    assert float(again[1]) == float(second)
    other = combine(curious, list(randn(5, 4)), None, AT._replace(step=3), range(5))
    assert float(other[1]) != float(second)


def test_pre_aggregators_come_before_and_are_part_of_the_rule():
    rule = PreAggregated((doubled, doubled), partial(curious, f=2))
    assert name_of(rule) == "curious after doubled after doubled"
    assert (claimed(rule), most_of(rule, 9), what_it_needs(rule)) == (2, 3, Opens.EACH)
    assert what_it_is_given(rule) == {"last", "rand"}
    updates = randn(3, 4)
    assert torch.equal(PreAggregated((doubled,), mean)(updates), mean(torch.cat([updates, updates])))


def test_weights_are_those_of_the_workers_that_are_left():
    from quorate.attacks.crash import Crash

    updates = list(randn(4, 3))
    combined = combine(
        mean, updates, [0.1, 0.2, 0.3, 0.4], AT, range(4), hostility=Hostility(Crash(), Rand(1), among=4)
    )
    expected = mean(torch.stack(updates[:3]), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert torch.equal(combined, expected)


def test_what_peers_forge_is_the_difference_from_ones_own_parameters():
    own, near = torch.full((3,), 100.0), torch.full((3,), 101.0)
    hostility = Hostility(SignFlip(), Rand(1), 1, ranks=(2,))
    combined = combine(mean, [own, near, near], [1 / 3] * 3, AT, [0, 1, 2], last=own, peer=0, hostility=hostility)
    assert float((combined - own).abs().max()) < 1  # and not as if -101 had been said


def test_judges_are_told_the_scores_of_those_that_have_said_something():
    told = []
    updates = [*randn(4, 50), 50 * randn(50, seed=9)]
    combine(partial(trimmed_mean, f=1), updates, None, AT, [3, 1, 4, 0, 7], judged=told.append)
    (judgement,) = told
    assert (judgement.at, judgement.ranks, judgement.alone) == (AT, (3, 1, 4, 0, 7), False)
    assert judgement.scores[4] > 10 * max(judgement.scores[:4])
