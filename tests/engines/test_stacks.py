from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quorate.engines.stacks import gradients, is_stack
from quorate.flat import Layout
from quorate.gradient import Objective

STACKS = {
    "linear": lambda: nn.Linear(5, 3),
    "without bias": lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)),
    "deep": lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 3), nn.ELU()),
    "activation first": lambda: nn.Sequential(nn.Sigmoid(), nn.Linear(5, 3), nn.LeakyReLU(0.3)),
    "flattened": lambda: nn.Sequential(nn.Flatten(), nn.Linear(5, 6), nn.Softplus(), nn.Identity(), nn.Linear(6, 3)),
}


@given(
    name=st.sampled_from(sorted(STACKS)),
    n=st.integers(1, 5),
    b=st.integers(1, 4),
    shared=st.booleans(),
    l2=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_agrees_with_autograd_one_by_one(name, n, b, shared, l2, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        objective = Objective(STACKS[name]().double(), nn.functional.cross_entropy, l2)
        x = torch.randn(n, b, *((1, 5) if name == "flattened" else (5,)), dtype=torch.float64)
        y = torch.randint(0, 3, (n, b))
        layout = Layout.of(objective)
        first = layout.flatten(objective)
        parameters = first if shared else first + 0.1 * torch.randn(n, layout.numel, dtype=torch.float64)
    assert is_stack(objective, x[0, 0])
    losses, rows = gradients(objective, layout, parameters, x, y)
    for replica in range(n):
        layout.adopt(objective, parameters if shared else parameters[replica])
        loss = objective(x[replica], y[replica])
        slow = torch.cat([each.reshape(-1) for each in torch.autograd.grad(loss, list(objective.parameters()))])
        torch.testing.assert_close(losses[replica], loss.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(rows[replica], slow, rtol=1e-12, atol=1e-12)


tied = nn.Linear(5, 5)


@pytest.mark.parametrize(
    ("model", "sample"),
    [
        (nn.Sequential(nn.Linear(5, 3), nn.Dropout()), torch.zeros(5)),
        (nn.Sequential(nn.Linear(5, 3), nn.ReLU(inplace=True)), torch.zeros(5)),
        (nn.Sequential(nn.Linear(5, 3)), torch.zeros(2, 5)),
        (nn.Sequential(nn.Flatten(0), nn.Linear(5, 3)), torch.zeros(5)),
        (nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3)), torch.zeros(5)),
        (nn.Sequential(tied, tied), torch.zeros(5)),
        (nn.Sequential(nn.ReLU()), torch.zeros(5)),
    ],
)
def test_leaves_other_models_alone(model, sample):
    assert not is_stack(Objective(model, nn.functional.cross_entropy, 0.0), sample)
