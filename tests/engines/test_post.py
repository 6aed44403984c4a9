from __future__ import annotations

import torch

from quorate.cluster import Cluster
from quorate.engines.simulator import Simulator


def test_a_small_message_does_not_overtake_a_large_one_to_the_same_worker():
    async def program(node):
        like = [(torch.zeros(1000),), (torch.zeros(1),)]
        if node.rank == 0:
            sent = [node.send(1, message) for message in like]
            return [await each for each in sent]
        return [len((await node.recv(0, each))[1][0]) for each in like]

    assert Simulator(2, Cluster(uplink=1000.0, latency=0.5)).run(program)[1] == [1000, 1]


def test_messages_that_came_before_they_were_asked_for_are_kept_by_sender():
    async def program(node):
        if node.rank > 0:
            await node.send(0, (torch.tensor([float(node.rank)]),))
            return None
        await node.compute(lambda: None, samples=10**6)
        return [float((await node.recv(src, (torch.zeros(1),)))[1][0]) for src in (2, 1)]

    assert Simulator(3).run(program)[0] == [2.0, 1.0]
