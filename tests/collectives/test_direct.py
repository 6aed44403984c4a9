"""What `direct` can besides the laws: several sums at once, begun before they are awaited."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.cluster import Cluster
from quorate.collectives.direct import cost, direct
from tests.tiny import FREE, randn, simulate


@given(n=st.integers(1, 6), sums=st.integers(1, 5), backwards=st.booleans(), seed=st.integers(0, 999))
@settings(deadline=None)
def test_several_sums_may_be_under_way_and_be_awaited_in_any_order(n, sums, backwards, seed):
    tensors = randn(n, sums, 4, seed=seed, dtype=torch.float64)

    async def program(node):
        begun = [direct(node, tensors[node.rank, place].clone(), 0.5) for place in range(sums)]
        order = range(sums)[::-1] if backwards else range(sums)
        ends = {place: await begun[place] for place in order}
        return torch.stack([ends[place] for place in range(sums)])

    ends = simulate(program, n, FREE)
    assert all(torch.equal(end, ends[0]) for end in ends)
    torch.testing.assert_close(ends[0], 0.5 * tensors.sum(dim=0))


def test_starts_at_once():
    """What stands between a sum's beginning and its await takes no further time."""

    async def program(node):
        summed = direct(node, torch.zeros(100))
        await node.compute(int, samples=1)
        await summed
        return node.now()

    links = Cluster(seconds_per_sample=2.0, uplink=800.0, downlink=800.0, latency=0.25)
    assert cost(3, 400, 0.5, 800.0) < 2.0
    assert max(simulate(program, 3, links)) == 2.0
