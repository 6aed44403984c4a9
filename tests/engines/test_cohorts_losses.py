from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from quorate.engines.cohorts_losses import Losses, Slopes


@pytest.mark.parametrize("loss", [functional.cross_entropy, lambda output, y: functional.cross_entropy(output, y) * 2])
@given(sizes=st.lists(st.lists(st.integers(1, 4), min_size=0, max_size=3), min_size=1, max_size=4), data=st.data())
@settings(max_examples=25, deadline=None)
def test_slopes_and_losses_are_those_of_each_batch_by_autograd(loss, sizes, data):
    sizes.sort(key=len, reverse=True)
    n, count, b, classes = len(sizes), max(1, len(sizes[0])), 4, 3
    filled = [each + [0] * (count - len(each)) for each in sizes]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    outputs = torch.randn(n, count, b, classes, dtype=torch.float64, generator=generator) * 5
    y = torch.randint(0, classes, (n, count, b), generator=generator)
    there = torch.arange(b) < torch.tensor(filled).unsqueeze(-1)
    scale = there.double() / torch.tensor(filled).clamp_min(1).unsqueeze(-1)
    slopes = Slopes(Losses(loss, torch.arange(classes)), y.flatten(1), filled, scale)
    wanted = torch.zeros(n, count, dtype=torch.float64)
    for step in range(count):
        m = sum(1 for each in filled if each[step])
        if m == 0:
            continue
        slope = slopes.of(step, outputs[:m, step].clone())
        for client in range(m):
            size = filled[client][step]
            leaf = outputs[client, step, :size].clone().requires_grad_()
            value = loss(leaf, y[client, step, :size])
            value.backward()
            wanted[client, step] = value.detach()
            torch.testing.assert_close(slope[client, :size], leaf.grad)
            assert not slope[client, size:].any()
    torch.testing.assert_close(slopes.values(), wanted)


def test_a_hopeless_guess_costs_what_it_is_and_not_infinity():
    outputs = torch.tensor([[[0.0, 300.0]]])
    slopes = Slopes(
        Losses(functional.cross_entropy, torch.arange(2)),
        torch.zeros(1, 1, dtype=torch.int64),
        [[1]],
        torch.ones(1, 1, 1),
    )
    torch.testing.assert_close(slopes.of(0, outputs), torch.tensor([[[-1.0, 1.0]]]))
    torch.testing.assert_close(slopes.values(), torch.tensor([[300.0]]))
