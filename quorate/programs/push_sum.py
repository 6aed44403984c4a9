"""Stochastic gradient push (SGP): gossip over directed graphs, in which a worker need not hear whom it sends to.

Mixing by weights whose columns sum to 1 keeps the sum of what all hold, but gives some workers more of it than others.
So each also carries a scalar weight, 1 at first, that is mixed along; the parameters over it are free of the bias.

Source: Assran, Loizou, Ballas and Rabbat, "Stochastic gradient push for distributed deep learning", ICML 2019,
algorithm 1; Kempe, Dobra and Gehrke, "Gossip-based computation of aggregate information", FOCS 2003, section 2, for
push-sum.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.graph_check import says
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.plan import Plan, planned
from quorate.programs._differences import lossless
from quorate.rand import At
from quorate.topologies import Neighbours, Topology, hearers
from quorate.training import Training
from quorate.trees import Tree, branch, leaf


def _plan(size: int, *, topology: Topology, exchange: Exchange | None = None, **_: Any) -> Plan:
    if exchange is not None and not lossless(exchange.codec):
        raise RecipeError(
            f"push_sum divides what it sends by weights that must sum to 1, and {exchange.codec} would lose some of it"
            " for good",
            'the program "gossip" on an undirected topology, or leave out [[codec]]',
        )
    return Plan(size, meets=False, says=says(topology, size, push=True))


@planned(_plan)
async def push_sum(
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
    """Train for a number of steps, and meet once at the end.

    An optimizer steps from the parameters before the bias is taken off, as in the paper, so its weight decay acts on
    these; a task's own l2 penalty is part of the gradient and not affected.

    Args:
        topology: whom to hear in a step; each sender divides the weights that its hearers give it by their sum, so that
            any strongly connected graph will do, or one that is connected over its period.
        steps: how many gradients each worker takes, at least 1.
        batch: samples per worker and step; "full" is all that the worker has.
        learning_rate: factor of the optimizer's learning rate.

    Returns:
        The sum of all parameters over the sum of all weights (d,), equal on all workers to the bit.
    """
    update = optimizer.update(training.layout)
    initial = training.initial()
    one = torch.ones(1, dtype=torch.float64, device=initial.device)
    fresh: Tree = {"parameters": initial, "biased": initial.clone(), "weight": one, "optimizer": {}}
    start, _, own = node.restore({}, {**fresh, "exchange": exchange.init(initial)})
    z, x, w = leaf(own, "parameters"), leaf(own, "biased"), leaf(own, "weight")
    state, said = branch(own, "optimizer"), branch(own, "exchange")
    for step in range(start, steps):
        at = At(step, node.rank, node.size, training.rand)
        samples = training.batch(node.rank, step, batch)
        loss, gradient = await node.compute(training.gradient, z, samples, samples=samples.size)
        factor = learning_rate(step, node.size)
        x, state = await node.compute(update, x, gradient, state, factor, donate=True)
        message, said = exchange.say(x.clone(), said, at)
        like = (*exchange.emits(x), x.new_empty(2, dtype=torch.float64))
        shares = _shares(hearers(topology, node.rank, node.size, step))
        pushed = {peer: torch.cat([w.new_tensor([share]), share * w]) for peer, share in shares.items()}
        sources = [peer for peer, _ in topology(node.rank, node.size, step)]
        coming = [node.recv(peer, like) for peer in sources if peer != node.rank]  # first of all: see `gossip`
        sent = [node.send(peer, (*message, pushed[peer])) for peer in shares if peer != node.rank]
        arrived = dict([await every for every in coming])
        heard = {src: exchange.hear(each[:-1], x, at._replace(rank=src)) for src, each in arrived.items()}
        pairs = {src: each[-1] for src, each in arrived.items()}
        heard[node.rank], pairs[node.rank] = x, pushed[node.rank]
        for every in sent:
            await every
        p = [float(pairs[peer][0]) for peer in sources]
        x = exchange.combine([heard[peer] for peer in sources], p, at, sources, peer=node.rank) * sum(p)
        w = torch.stack([pairs[peer][1:] for peer in sources]).sum(dim=0)
        z = x / float(w)
        after: Tree = {"parameters": z, "biased": x, "weight": w, "optimizer": state, "exchange": said}
        node.commit(step + 1, loss, {}, after)
    total, weight = await node.all_reduce(x.clone()), await node.all_reduce(w.clone())
    return total / float(weight)


def _shares(hearing: Neighbours) -> dict[int, float]:
    """Return what part of itself a worker gives to each of its hearers; they sum to 1."""
    total = sum(weight for _, weight in hearing)
    return {peer: weight / total for peer, weight in hearing}
