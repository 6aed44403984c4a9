from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.exchange import Exchange
from quorate.rand import At, Rand
from quorate.sparse_collectives.tree import tree
from tests.tiny import randn, simulate


def said(x: torch.Tensor, k: int) -> dict[int, float]:
    """Return the k largest entries of a vector by absolute value."""
    return {int(i): float(x[i]) for i in x.abs().topk(k).indices}


def global_top_k(updates: torch.Tensor, k: int) -> dict[int, float]:
    """Definition by the book: of two neighbours' entries the k largest of their sum go on, until one is left."""
    level = [said(update, k) for update in updates]
    while len(level) > 1:
        pairs = []
        for one, other in zip(level[::2], level[1::2], strict=True):
            both = {i: one.get(i, 0.0) + other.get(i, 0.0) for i in one.keys() | other.keys()}
            pairs.append(dict(sorted(both.items(), key=lambda each: -abs(each[1]))[:k]))
        level = pairs
    return level[0]


@given(levels=st.integers(0, 3), d=st.integers(1, 30), k=st.integers(1, 10), seed=st.integers(0, 999))
@settings(deadline=None)
def test_agrees_with_the_definition(levels, d, k, seed):
    n, k = 1 << levels, min(k, d)
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    exchange = Exchange(ErrorFeedback(TopK(k / d)), sparse_collective=tree)

    async def program(node):
        mine = updates[node.rank].clone()
        return await exchange(node, mine, exchange.init(mine), At(0, node.rank, n, Rand(0)))

    ends = simulate(program, n)
    wanted = torch.zeros(d, dtype=torch.float64)
    for i, value in global_top_k(updates, k).items():
        wanted[i] = value / n
    torch.testing.assert_close(ends[0][0], wanted)
    through = wanted != 0
    for update, (_, state) in zip(updates, ends, strict=True):
        assert torch.equal(state["residual"][~through], update[~through])


def test_what_was_cut_off_at_an_index_that_came_through_goes_back_to_who_cut_it():
    """Workers 0 and 1 say entry 0 too quietly to be heard; by 2 and 3 it comes through."""
    updates = torch.tensor([[1.0, 5.0, 0.0], [1.0, 6.0, 0.0], [30.0, 0.0, 1.0], [30.0, 0.0, 1.0]])
    updates = torch.cat([updates, updates[:, :1] * 0], dim=1)
    exchange = Exchange(ErrorFeedback(TopK(0.5)), sparse_collective=tree)

    async def program(node):
        mine = updates[node.rank].clone()
        if node.rank < 2:
            mine[2] = 2.0  # so that these two say entries 1 and 2
        return await exchange(node, mine, exchange.init(mine), At(0, node.rank, 4, Rand(0)))

    ends = simulate(program, 4)
    total, residuals = ends[0][0], [state["residual"] for _, state in ends]
    updates[:2, 2] = 2.0
    torch.testing.assert_close(total + sum(residuals) / 4, updates.mean(dim=0))
    assert (total != 0).sum() == 2
