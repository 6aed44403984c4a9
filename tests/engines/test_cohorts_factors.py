from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quorate.engines.cohorts import Cohorts
from quorate.federated.local import LocalWork, Trained
from quorate.federated.unfolded import Unfolded
from quorate.optimizer import Optimizer
from quorate.rand import Rand
from quorate.training import Training
from tests.tiny import classes
from tests.tiny import training as made_ready


def wide():
    """Build (n, 6) -> (n, 3), with layers that few samples change little."""
    layers = [nn.Linear(6, 90), nn.ReLU(), nn.Linear(90, 80, bias=False), nn.Tanh(), nn.Linear(80, 3)]
    return nn.Sequential(*layers).double()


def trained(made: Training, sizes: list[int], batch: int, *moving: str) -> list[Unfolded]:
    """Let clients with so many samples train the parameters whose names end so; all, if none is named."""
    places = [
        slice(offset, offset + shape.numel())
        for name, shape, offset in made.layout.places
        if not moving or name.endswith(moving)
    ]
    works, start, rule = [], made.initial(), Optimizer("sgd", {"lr": 0.3})
    for client, size in enumerate(sizes):
        shard = torch.randperm(60, generator=Rand(client).generator())[:size]
        works.append(LocalWork(start, [shard], batch, rule, made.rand, (client,), moves=tuple(places)))
    found = []
    for each in Cohorts(made.gradient)(works):
        assert isinstance(each, Trained)
        assert isinstance(each.parameters, Unfolded)
        assert each.parameters.untouched
        found.append(each.parameters)
    return found


@pytest.mark.parametrize("moving", [(), ("weight",), ("bias",), ("0.weight", "4.bias")])
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4), batch=st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_lengths_of_changes_are_those_of_the_changes_multiplied_out(moving, sizes, batch):
    made = made_ready(classes(wide, n=60, shape=(6,), dtype=torch.float64))
    for each in trained(made, sizes, batch, *moving):
        known = each.changes.squares()[each.client]
        wanted = (each.folded() - made.initial()).square().sum()
        torch.testing.assert_close(known, wanted, rtol=1e-9, atol=1e-12)


def test_a_client_whose_steps_overflow_has_no_finite_length_and_the_others_have():
    made = made_ready(classes(wide, n=60, shape=(6,), dtype=torch.float64))
    made.train.x[:10] = 1e200
    start, rule = made.initial(), Optimizer("sgd", {"lr": 0.3})
    shards = [torch.arange(10), torch.arange(20, 30)]
    works = [LocalWork(start, [shard], 5, rule, made.rand, (n,)) for n, shard in enumerate(shards)]
    _, well = Cohorts(made.gradient)(works)
    assert isinstance(well, Trained)
    assert isinstance(well.parameters, Unfolded)
    squares = well.parameters.changes.squares()
    assert not squares[0].isfinite()
    torch.testing.assert_close(squares[1], (well.parameters.folded() - start).square().sum())
