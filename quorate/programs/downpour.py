"""Downpour SGD: workers train by themselves for a period, add what they have moved to a common centre, and start there.

Nobody waits for anybody: the centre moves by the sum of what all have moved since each last looked. What a lossy
codec leaves out of a move is lost without `error_feedback`; the centre itself is sent back as it is.

Source: Dean et al., "Large scale distributed deep networks", NeurIPS 2012, algorithm 1, with n_fetch = n_push, as in
Zhang, Choromanska and LeCun, "Deep learning with elastic averaging SGD", NeurIPS 2015, algorithm 3.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.periods import Period, timing
from quorate.plan import Plan, planned
from quorate.programs._centre import Centre, visit
from quorate.programs._differences import require_one_meeting
from quorate.programs._rest import HOST, host, rest
from quorate.rand import At
from quorate.training import Training
from quorate.trees import Tree, branch, leaf


def _plan(size: int, *, period: Period, exchange: Exchange | None = None, **_: Any) -> Plan:
    if timing(period).needs:
        raise RecipeError("downpour never averages all workers, which is when an adaptive period would measure")
    if exchange is not None:
        require_one_meeting("downpour", exchange, "local_sgd")
    says = (("centre", "kept by rank 0, for whoever comes"),)
    return Plan(size, frozenset(range(1, size)), meets=False, alone=True, says=says)


@planned(_plan)
async def downpour(
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
    """Train for a number of local steps.

    Args:
        period: after which steps a worker meets the centre; it does after the last one, too.
        steps: how many gradients each worker takes, at least 1.
        batch: samples per worker and step; "full" is all that the worker has.
        learning_rate: factor of the optimizer's learning rate.

    Returns:
        The centre (d,), equal on all workers to the bit.
    """
    _plan(node.size, period=period, exchange=exchange)
    update, when, initial = optimizer.update(training.layout), timing(period), training.initial()
    held: dict[str, Tensor | Tree] = {"centre": initial} if node.rank == HOST else {}
    held["exchange"] = exchange.init(initial)
    start, _, own = node.restore({}, {"parameters": initial, "fetched": initial, "optimizer": {}, **held})
    parameters, fetched, state = leaf(own, "parameters"), leaf(own, "fetched"), branch(own, "optimizer")
    said = branch(own, "exchange")
    begun = leaf(own, "centre") if node.rank == HOST else initial
    centre = Centre(node, exchange, training.rand, begun, _added, start, steps)
    serving = []
    if node.rank == HOST:
        serving = [node.background(centre.serve()), node.background(host(node, range(node.size), start, steps))]
    for step in range(start, steps):
        samples = training.batch(node.rank, step, batch)
        loss, gradient = await node.compute(training.gradient, parameters, samples, samples=samples.size)
        factor = learning_rate(step, node.size)
        parameters, state = await node.compute(update, parameters.clone(), gradient, state, factor, donate=True)
        if when.due({}, step + 1) or step + 1 == steps:
            at = At(step, node.rank, node.size, training.rand)
            fetched, said = await visit(node, exchange, parameters - fetched, said, at)
            parameters = fetched
        if node.saves(step + 1) or step + 1 == steps:
            await rest(node, step + 1)
        mine: dict[str, Tensor | Tree] = {"parameters": parameters, "fetched": fetched, "optimizer": state}
        mine["exchange"] = said
        node.commit(step + 1, loss, {}, mine | ({"centre": centre.value} if node.rank == HOST else {}))
    for every in serving:
        await every
    return await centre.tell_all()


def _added(centre: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    after = centre + moved
    return after, after
