from __future__ import annotations

import pytest
import torch

from quorate.cluster import Cluster
from quorate.engines.simulator import Simulator


def test_scales_are_multiplied_in_before_the_sum():
    async def program(node):
        return await node.all_reduce(torch.ones(3), 10.0**node.rank)

    for total in Simulator(3).run(program):
        assert total.tolist() == [111.0] * 3


@pytest.mark.parametrize("size", [2, 5])
def test_two_collectives_at_once_share_the_links(size):
    async def program(node):
        both = [node.all_reduce(torch.zeros(1000)), node.all_reduce(torch.zeros(1000))]
        for each in both:
            await each
        return node.now()

    # Each passes 2 (n - 1) / n of 4000 bytes through every link at half its rate.
    seconds = 2 * 2 * (size - 1) / size * 4000 / 1000.0
    assert Simulator(size, Cluster(uplink=1000.0, downlink=1000.0, latency=0.0)).run(program) == [seconds] * size
