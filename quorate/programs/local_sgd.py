"""Local SGD: workers train for themselves, and average their parameters at the end of each period.

Source: Stich, "Local SGD converges fast and communicates little", ICLR 2019, algorithm 1.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from quorate.exchange import Exchange
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.periods import Period
from quorate.rand import At
from quorate.training import Training
from quorate.trees import branch, leaf


async def local_sgd(
    node: Node,
    training: Training,
    exchange: Exchange,
    *,
    optimizer: Optimizer,
    period: Period,
    steps: int,
    batch: int | Literal["full"] = 32,
) -> Tensor:
    """Train for a number of local steps; the optimizer's own state is never exchanged.

    Args:
        period: after which steps to average.
        steps: how many gradients each worker takes, at least 1; the parameters are averaged after the last, too.
        batch: samples per worker and step; "full" is all that the worker has.

    Returns:
        The averaged parameters (d,), equal on all workers to the bit.
    """
    update = optimizer.update(training.layout)
    initial = training.initial()
    start, _, own = node.restore({}, {"parameters": initial, "optimizer": {}, "exchange": exchange.init(initial)})
    parameters, state, said = leaf(own, "parameters"), branch(own, "optimizer"), branch(own, "exchange")
    for step in range(start, steps):
        samples = training.batch(node.rank, step, batch)
        loss, gradient = await node.compute(training.gradient, parameters, samples, samples=samples.size)
        parameters, state = await node.compute(update, parameters, gradient, state, donate=True)
        if period(step + 1) or step + 1 == steps:
            at = At(step, node.rank, node.size, training.rand)
            parameters, said = await exchange(node, parameters.clone(), said, at, training.weights)
        node.commit(step + 1, loss, {}, {"parameters": parameters, "optimizer": state, "exchange": said})
    return parameters
