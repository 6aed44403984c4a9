"""Who lies, when, and what takes the place of what they have honestly computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.aggregators.mean import mean
from quorate.aggregators.trimmed_mean import trimmed_mean
from quorate.attacks import Attack
from quorate.attacks.crash import Crash
from quorate.attacks.sign_flip import SignFlip
from quorate.errors import RecipeError
from quorate.hostility import Hostility
from quorate.rand import At, Rand
from tests.tiny import randn

RAND = Rand(3)


def at(step=0, rank=0, size=5):
    return At(step, rank, size, RAND)


@dataclass(frozen=True)
class Told(Attack):
    """Says the mean of what it knows, plus 100 times its place among those that lie."""

    def forge(self, seen):
        return seen.known.mean(0) + 100 * (1 + seen.place)


@given(f=st.integers(0, 6), size=st.integers(7, 20), step=st.integers(0, 50), redrawn=st.booleans())
def test_as_many_lie_as_told_and_all_agree_on_who(f, size, step, redrawn):
    hostility = Hostility(SignFlip(), RAND, f, redrawn=redrawn, among=size)
    hostile = hostility.at(step, size)
    assert len(set(hostile)) == f
    assert list(hostile) == sorted(hostile)
    assert set(hostile) <= set(range(size))
    assert hostile == Hostility(SignFlip(), RAND, f, redrawn=redrawn).at(step, size)
    if not redrawn:
        assert hostile == tuple(range(size - f, size))


def test_others_lie_in_other_steps_if_they_are_redrawn_and_nobody_before_the_start():
    hostility = Hostility(SignFlip(), RAND, 2, redrawn=True, start=3, among=8)
    assert [hostility.at(step, 8) for step in range(3)] == [(), (), ()]
    assert len({hostility.at(step, 8) for step in range(3, 40)}) > 5


def test_servers_are_not_among_those_that_lie():
    assert Hostility(SignFlip(), RAND, 2, among=4).at(0, 6) == (2, 3)


@pytest.mark.parametrize(("f", "ranks", "says"), [(4, (), "of 4 workers, 4 can't"), (1, (7,), "no worker 7")])
def test_more_than_there_are_can_not_lie(f, ranks, says):
    with pytest.raises(RecipeError, match=says):
        Hostility(SignFlip(), RAND, f, ranks, among=4)


def test_who_knows_its_own_forges_its_own_and_the_honest_say_what_they_have():
    hostility, update = Hostility(SignFlip(), RAND, 2), randn(4)
    assert torch.equal(hostility.forged(update, at(rank=1), mean), update)
    forged = hostility.forged(update, at(rank=4), mean)
    assert torch.dot(forged, update) < 0


def test_those_that_know_all_are_shown_the_honest_updates_only():
    updates = list(randn(5, 3))
    forged, present = Hostility(Told(), RAND, 2).staged(updates, range(5), at(), mean)
    assert present == [0, 1, 2, 3, 4]
    assert all(torch.equal(a, b) for a, b in zip(forged[:3], updates[:3], strict=True))
    for place in (0, 1):
        torch.testing.assert_close(forged[3 + place], torch.stack(updates[:3]).mean(0) + 100 * (1 + place))


def test_who_says_nothing_is_left_out_of_a_mean_and_counts_against_a_robust_rule():
    updates, hostility = list(randn(5, 3)), Hostility(Crash(), RAND, 1)
    forged, present = hostility.staged(updates, range(5), at(), mean)
    assert (len(forged), present) == (4, [0, 1, 2, 3])
    forged, present = hostility.staged(updates, range(5), at(), partial(trimmed_mean, f=1))
    assert present == [0, 1, 2, 3, 4]
    assert bool(forged[4].isnan().all())


def test_nobody_is_told_lies_about_itself():
    updates = list(randn(3, 3))
    forged, _ = Hostility(SignFlip(), RAND, 1).staged(updates, [3, 4, 0], at(), mean, peer=4)
    assert torch.equal(forged[1], updates[1])
