from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.federated.unfolded import Gathered, Unfolded, Unmoved, folded
from quorate.wire import size_in_bytes
from tests.tiny import randn


class Rows:
    """Changes that are there already, and count how often they are asked for."""

    def __init__(self, start: torch.Tensor, changes: torch.Tensor) -> None:
        self.start, self.count, self.changes, self.asked = start, len(changes), changes, 0

    def parameters(self, client):
        self.asked += 1
        return self.start + self.changes[client]

    def add(self, total, weights):
        total += torch.tensor(weights, dtype=total.dtype) @ self.changes

    def squares(self):
        return self.changes.square().sum(1)


def rows(n: int = 3, d: int = 5) -> Rows:
    return Rows(randn(d, seed=1), randn(n, d, seed=2))


def test_shape_and_size_cost_nothing():
    made = rows()
    tensor = Unfolded.of(made, 1)
    assert (tensor.shape, tensor.dtype, tensor.dim(), tensor.numel()) == (made.start.shape, torch.float32, 1, 5)
    assert size_in_bytes((tensor,)) == 20
    assert made.asked == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1,
        lambda x: 2 - x,
        lambda x: torch.cat([x, x]),
        lambda x: torch.zeros(5).add_(x, alpha=0.5),
        lambda x: x[1:3],
        lambda x: x.abs().topk(2).values,
        lambda x: x.clone(),
        lambda x: torch.stack([x, x], dim=0).mean(0),
        lambda x: x.isfinite().all(),
        lambda x: torch.tensor(x.tolist()),
        lambda x: torch.from_numpy(x.numpy().copy()),
        lambda x: torch.dot(x, x),
    ],
)
@pytest.mark.parametrize("lost", [False, True])
def test_whoever_computes_gets_the_numbers(function, lost):
    made = rows()
    plain = -made.changes[2] if lost else made.parameters(2)
    torch.testing.assert_close(function(Unfolded.of(made, 2, lost=lost)), function(plain))


def test_the_start_less_the_parameters_is_not_multiplied_out():
    made = rows()
    change = made.start - Unfolded.of(made, 0)
    assert isinstance(change, Unfolded)
    torch.testing.assert_close(torch.dot(change, change), made.changes[0].square().sum())
    assert made.asked == 0
    torch.testing.assert_close(folded(change), -made.changes[0])
    torch.testing.assert_close(randn(5) - Unfolded.of(made, 0), randn(5) - made.start - made.changes[0])


def test_what_is_written_to_it_stays():
    made = rows()
    tensor = Unfolded.of(made, 0)
    wanted = made.parameters(0) * 3
    tensor.mul_(3)
    torch.testing.assert_close(tensor + 0, wanted)
    assert not Gathered().take(tensor, 1.0)
    torch.testing.assert_close(made.parameters(0) * 3, wanted)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.floats(-2, 2)), max_size=8))
@settings(deadline=None, max_examples=30)
def test_gathered_is_the_weighted_sum(chosen):
    lots = [Rows(randn(5), randn(3, 5, seed=seed).double()) for seed in range(2)]
    for each in lots:
        each.start = each.start.double()
    gathered, total, wanted = Gathered(), torch.ones(5).double(), torch.ones(5).double()
    for lot, client, weight in chosen:
        assert gathered.take(lots[lot].start - Unfolded.of(lots[lot], client), weight)
        wanted -= weight * lots[lot].changes[client]
    gathered.add_to(total)
    torch.testing.assert_close(total, wanted)
    assert sum(each.asked for each in lots) == 0


def test_gathered_takes_no_other_tensors():
    assert not Gathered().take(torch.ones(5), 1.0)
    assert not Gathered().take(Unfolded.of(rows(), 0), 1.0)


def test_unmoved_is_the_start():
    start = randn(5)
    unmoved = Unfolded.of(Unmoved(start), 0)
    torch.testing.assert_close(folded(start - unmoved), torch.zeros(5))
    unmoved.add_(1)
    torch.testing.assert_close(start, randn(5))
