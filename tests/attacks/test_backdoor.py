from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators.mean import mean
from quorate.attacks.backdoor import Backdoor
from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.tasks import Data
from tests.attacks.lab import meeting, one


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 5, 7), (2, 8, 8)])
def test_the_trigger_is_a_square_in_the_corner_of_an_image(shape):
    x = torch.full(shape, 0.5)
    marked = Backdoor(size=2).triggered(x)
    assert bool((marked[..., -2:, -2:] == 1).all())
    assert int((marked != x).sum()) == 4 * x[..., 0, 0].numel()


@pytest.mark.parametrize(("shape", "changed"), [((3, 64), 9), ((3, 4), 4), ((3, 1), 1), ((3,), 1)])
def test_the_trigger_is_the_last_entries_of_other_samples(shape, changed):
    x = torch.zeros(shape)
    marked = Backdoor().triggered(x).reshape(3, -1)
    assert bool((marked[:, -changed:] == 1).all())
    assert int(marked.sum()) == 3 * changed


@given(n=st.integers(1, 40), share=st.floats(0.01, 1), seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_share_of_the_samples_carries_trigger_and_target_and_no_others(n, share, seed):
    before = Data(torch.zeros(n, 16), torch.ones(n, dtype=torch.int64))
    after = Backdoor(target=2, share=share).poisoned(before, 3, Rand(seed))
    marked = after.x.sum(dim=1) == 9
    assert int(marked.sum()) == max(1, round(share * n))
    assert torch.equal(after.y == 2, marked)
    assert bool((after.x[~marked] == 0).all())
    assert bool((after.y[~marked] == 1).all())


def test_workers_choose_samples_of_their_own():
    data = Data(torch.zeros(50, 16), torch.ones(50, dtype=torch.int64))
    first, second = (Backdoor().poisoned(data, 3, Rand(0).fold(rank)).y for rank in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("n", "f"), [(10, 1), (10, 4)])
def test_replaces_the_average_up_to_the_honest_updates(n, f):
    seen = meeting(n, f, 6)
    forged = torch.stack([Backdoor().forge(each) for each in seen])
    wanted = torch.stack([each.own for each in seen]).mean(dim=0)
    left = seen[0].known.sum(dim=0) / n
    torch.testing.assert_close(mean(torch.cat([seen[0].known, forged])), wanted + left)


def test_without_a_boost_says_what_it_has_computed():
    assert torch.equal(Backdoor(boost=1.0).forge(one()), one().own)


def test_success_counts_triggered_samples_of_other_labels():
    output = torch.eye(3)[torch.tensor([0, 0, 1, 2])]
    assert Backdoor(target=0).success(output, torch.tensor([0, 1, 1, 2])) == pytest.approx(1 / 3)
    assert Backdoor(target=0).success(output, torch.zeros(4)) == 0.0


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"share": 0.0}, "share = 0.5"),
        ({"share": 1.5}, "share = 0.5"),
        ({"boost": 0.0}, "boost = 1"),
        ({"boost": float("nan")}, "boost = 1"),
        ({"size": 0}, "size = 3"),
        ({"target": -1}, "size = 3"),
    ],
)
def test_refuses_what_poisons_nothing(wrong, hint):
    with pytest.raises(RecipeError, match=rf"^backdoor .*\nhint: {hint}$"):
        Backdoor(**wrong)
