"""A synchronous parameter server: workers push gradients to rank 0, which steps and sends the parameters back.

Rank 0 also trains, on its own share of the data.

Source: Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014, algorithm 1, with
bulk-synchronous consistency.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from quorate.exchange import Exchange
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.rand import At
from quorate.training import Training
from quorate.trees import branch, leaf

SERVER = 0


async def parameter_server(
    node: Node,
    training: Training,
    exchange: Exchange,
    *,
    optimizer: Optimizer,
    steps: int,
    batch: int | Literal["full"] = 32,
) -> Tensor:
    """Train for a number of steps; only the server holds the optimizer's state.

    Gradients are encoded by the exchange's codec and combined by its aggregator in the order of ranks; parameters are
    sent back as they are.

    Args:
        steps: how many gradients each worker takes, at least 1.
        batch: samples per worker and step; "full" is all that the worker has.

    Returns:
        The parameters (d,), equal on all workers to the bit.
    """
    update = optimizer.update(training.layout)
    initial = training.initial()
    start, shared, own = node.restore({"parameters": initial}, {"optimizer": {}, "exchange": exchange.init(initial)})
    parameters, state, said = leaf(shared, "parameters"), branch(own, "optimizer"), branch(own, "exchange")
    workers = [rank for rank in range(node.size) if rank != SERVER]
    for step in range(start, steps):
        at = At(step, node.rank, node.size, training.rand)
        samples = training.batch(node.rank, step, batch)
        loss, gradient = await node.compute(training.gradient, parameters, samples, samples=samples.size)
        message, said = exchange.say(gradient, said, at)
        if node.rank == SERVER:
            coming = [node.recv(rank, exchange.emits(parameters)) for rank in workers]
            pushed = [(SERVER, message), *[await every for every in coming]]
            heard = [exchange.hear(each, parameters, at._replace(rank=src)) for src, each in pushed]
            combined = exchange.combine(heard, training.weights)
            parameters, state = await node.compute(update, parameters, combined, state, donate=True)
            for every in [node.send(rank, (parameters,)) for rank in workers]:
                await every
        else:
            await node.send(SERVER, message)
            _, (parameters,) = await node.recv(SERVER, (parameters,))
        node.commit(step + 1, loss, {"parameters": parameters}, {"optimizer": state, "exchange": said})
    return parameters
