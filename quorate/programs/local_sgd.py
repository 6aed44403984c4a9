"""Local SGD: workers train for themselves, and average their parameters at the end of each period.

With a lossy codec they average what they have moved since the last average, which all hold to the bit.

Sources: Stich, "Local SGD converges fast and communicates little", ICLR 2019, algorithm 1; Basu, Data, Karakus and
Diggavi, "Qsparse-local-SGD: distributed SGD with quantization, sparsification, and local computations", NeurIPS 2019,
algorithm 1, where the codec is in `error_feedback`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from quorate.exchange import Exchange
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.periods import Period, Statistics, timing
from quorate.programs._differences import lossless
from quorate.programs._measuring import Watch, measure
from quorate.rand import At
from quorate.training import Training
from quorate.trees import Tree, branch, leaf, map_tree


async def local_sgd(
    node: Node,
    training: Training,
    exchange: Exchange,
    *,
    optimizer: Optimizer,
    period: Period,
    steps: int,
    batch: int | Literal["full"] = 32,
    learning_rate: LearningRate = constant,
) -> Tensor:
    """Train for a number of local steps; the optimizer's own state is never exchanged.

    Args:
        period: after which steps to average; one that adapts measures at every meeting what it needs to know.
        steps: how many gradients each worker takes, at least 1; the parameters are averaged after the last, too.
        batch: samples per worker and step; "full" is all that the worker has.
        learning_rate: factor of the optimizer's learning rate.

    Returns:
        The averaged parameters (d,), equal on all workers to the bit.
    """
    update, when, initial = optimizer.update(training.layout), timing(period), training.initial()
    timed = "control" in when.needs
    begun: Tree = {"watch": Watch().state()} if timed else {}
    last: Tree = {} if lossless(exchange.codec, len(initial)) else {"average": initial}
    start, shared, own = node.restore(
        {"period": when.init(), **last},
        {"parameters": initial, "optimizer": {}, "exchange": exchange.init(initial), **begun},
    )
    parameters, state, said = leaf(own, "parameters"), branch(own, "optimizer"), branch(own, "exchange")
    memory: Tree = map_tree(Tensor.cpu, branch(shared, "period"))
    average = leaf(shared, "average") if last else None
    watch = Watch.of(branch(own, "watch"))
    for step in range(start, steps):
        if when.over(memory):
            break
        began, factor = node.now(), learning_rate(step, node.size)
        samples = training.batch(node.rank, step, batch)
        loss, gradient = await node.compute(training.gradient, parameters, samples, samples=samples.size)
        parameters, state = await node.compute(update, parameters, gradient, state, factor, donate=True)
        watch.computed(node.now() - began)
        if when.due(memory, step + 1) or step + 1 == steps:
            met, before, at = node.now(), parameters, At(step, node.rank, node.size, training.rand)
            if average is None:
                parameters, said = await exchange(node, before.clone(), said, at, training.weights)
            else:
                moved, said = await exchange(node, before - average, said, at, training.weights)
                average = await node.compute(_added, average, moved, donate=True)
                parameters = average.clone()
            watch.seconds += node.now() - met
            if when.needs:
                known = Statistics(step + 1, steps, optimizer.lr * factor)
                ahead, size = training.batch(node.rank, step + 1, batch), exchange.bytes_said(parameters)
                known = await measure(node, training, when.needs, before, parameters, ahead, watch, known, size)
                memory = when.next(memory, known)
        held: dict[str, Tensor | Tree] = {"parameters": parameters, "optimizer": state, "exchange": said}
        if timed:
            held["watch"] = watch.state()
        common: Tree = {"period": memory} if average is None else {"period": memory, "average": average}
        node.commit(step + 1, loss, common, held, when.metrics(memory) or None)
    return parameters


def _added(average: Tensor, moved: Tensor) -> Tensor:
    return average.add_(moved)
