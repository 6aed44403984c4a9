"""Asynchronous decentralised parallel SGD (AD-PSGD): workers average with one neighbour at a time, and wait for none.

Workers of one side of a bipartite graph ask a random neighbour in each step, while they take their gradient; those of
the other side answer at any time, also in the middle of a gradient, which is then applied to the averaged parameters.

Source: Lian, Zhang, Zhang and Liu, "Asynchronous decentralized parallel stochastic gradient descent", ICML 2018,
algorithm 1, and section 4 on why the graph is bipartite (no cycle of workers that wait for one another).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from quorate.codecs.identity import Identity
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.plan import Plan, planned
from quorate.programs._rest import host, rest
from quorate.topologies import Topology
from quorate.training import Training
from quorate.trees import branch, leaf

ASK, ANSWER, BYE = 1, 2, 3


def sides(topology: Topology, size: int) -> list[int]:
    """Return 0 for each worker that asks and 1 for each that answers, so that every edge joins the two kinds.

    Raises:
        RecipeError: if the graph has a circle of odd length, or a worker without a neighbour.
    """
    side: list[int | None] = [None] * size
    for first in range(size):
        if side[first] is not None:
            continue
        side[first], frontier = 0, [first]
        while frontier:
            rank = frontier.pop()
            mine = side[rank]
            assert mine is not None
            peers = [peer for peer, _ in topology(rank, size, 0) if peer != rank]
            if size > 1 and not peers:
                raise RecipeError(f"rank {rank} has no neighbour to average with", '[topology]\nname = "ring"')
            for peer in peers:
                if side[peer] == mine:
                    raise RecipeError(
                        f"asynchronous workers need a bipartite graph, or a circle of them waits for ever; here, ranks"
                        f" {rank} and {peer} are on one side",
                        "an even number of workers on the topology `ring`",
                    )
                if side[peer] is None:
                    side[peer] = 1 - mine
                    frontier.append(peer)
    return [0 if each is None else each for each in side]


def _plan(size: int, *, topology: Topology, exchange: Exchange | None = None, **_: Any) -> Plan:
    asking = sides(topology, size).count(0)
    if exchange is not None and not isinstance(exchange.codec, Identity):
        raise RecipeError(
            f"ad_psgd sends parameters as they are, but the recipe has the codec {exchange.codec}: each pair of workers"
            " would have to keep what both have said",
            "leave out [[codec]], or the program `gossip`, which encodes differences",
        )
    return Plan(size, meets=False, alone=True, says=(("sides", f"{asking} workers ask, {size - asking} answer"),))


@planned(_plan)
async def ad_psgd(
    node: Node,
    training: Training,
    exchange: Exchange,
    *,
    optimizer: Optimizer,
    topology: Topology,
    steps: int,
    batch: int | Literal["full"] = 32,
    learning_rate: LearningRate = constant,
) -> Tensor:
    """Train for a number of steps, and average the replicas once at the end.

    Args:
        topology: whom a worker may average with, always by halves; a bipartite graph, which does not change.
        steps: how many gradients each worker takes, at least 1.
        batch: samples per worker and step; "full" is all that the worker has.
        learning_rate: factor of the optimizer's learning rate.

    Returns:
        The mean of the replicas (d,), equal on all workers to the bit.
    """
    asks = sides(topology, node.size)[node.rank] == 0
    peers = [peer for peer, _ in topology(node.rank, node.size, 0) if peer != node.rank]
    update = optimizer.update(training.layout)
    start, _, own = node.restore({}, {"parameters": training.initial(), "optimizer": {}})
    replica, state = _Replica(node, leaf(own, "parameters")), branch(own, "optimizer")
    beside = [] if asks else [node.background(replica.answer(peers))]
    if node.rank == 0:
        beside.append(node.background(host(node, range(node.size), start, steps)))
    for step in range(start, steps):
        samples, before = training.batch(node.rank, step, batch), replica.parameters
        taken = node.compute(training.gradient, before, samples, samples=samples.size)
        if asks and peers:
            peer = peers[training.rand.fold("peer", node.rank, step).seed % len(peers)]
            coming = node.recv(peer, (before,), ANSWER)
            sent = node.send(peer, (before, torch.tensor([0])), ASK)
            _, (theirs,) = await coming
            await sent
            replica.parameters = (before + theirs) / 2
        loss, gradient = await taken
        # At once, with no await between: an answer must find the parameters before or after the update.
        replica.parameters, state = update(replica.parameters.clone(), gradient, state, learning_rate(step, node.size))
        if node.saves(step + 1) or step + 1 == steps:
            await rest(node, step + 1)
        node.commit(step + 1, loss, {}, {"parameters": replica.parameters, "optimizer": state})
    if asks:
        for peer in peers:
            await node.send(peer, (replica.parameters, torch.tensor([BYE])), ASK)
    for every in beside:
        await every
    return await node.all_reduce(replica.parameters / node.size)


class _Replica:
    """A worker's parameters, which its own training and its neighbours change in turn."""

    def __init__(self, node: Node, parameters: Tensor) -> None:
        self._node, self.parameters = node, parameters

    async def answer(self, peers: list[int]) -> None:
        """Average with whoever asks, until all who may ask have said goodbye."""
        left, answers = set(peers), dict[int, Any]()
        like = (self.parameters, torch.tensor([0]))
        while left:
            src, (theirs, word) = await self._node.recv(None, like, ASK)
            if src in answers:
                await answers.pop(src)
            if int(word) == BYE:
                left.discard(src)
                continue
            mine = self.parameters
            self.parameters = (theirs + mine) / 2
            answers[src] = self._node.send(src, (mine,), ANSWER)
