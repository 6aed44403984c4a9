"""Elastic averaging SGD: each worker explores by itself, on a spring that ties it to a common centre.

With a worker's optimizer that has momentum it is EAMSGD; the source has Nesterov's with 0.99. With a lossy codec, each
worker says how its parameters differ from what it has said of them so far, and the centre is drawn to the mean of that.

Source: Zhang, Choromanska and LeCun, "Deep learning with elastic averaging SGD", NeurIPS 2015, equations 3 and 4 and
algorithms 1 and 2 (asynchronous). The advised beta = 0.9, and alpha = beta / p, are quoted from memory.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from quorate.codecs.identity import Identity
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.periods import Period, timing
from quorate.plan import Plan, planned
from quorate.programs._centre import Centre, visit
from quorate.programs._differences import lossless, of_differences
from quorate.programs._rest import HOST, host, rest
from quorate.rand import At
from quorate.training import Training
from quorate.trees import Tree, branch, leaf


def _plan(
    size: int, *, period: Period, beta: float, asynchronous: bool, exchange: Exchange | None = None, **_: Any
) -> Plan:
    if timing(period).needs:
        raise RecipeError(
            "easgd never averages all workers, which is when an adaptive period would measure", 'name = "every"'
        )
    if not beta > 0:
        raise RecipeError(f"`beta` is how far the centre moves to the workers, above 0; got {beta}", "beta = 0.9")
    if asynchronous and exchange is not None and not isinstance(exchange.codec, Identity):
        raise RecipeError(
            f"asynchronous easgd sends parameters as they are, but the recipe has the codec {exchange.codec}: the"
            " centre would have to keep what each worker has said",
            'leave out [[codec]], or asynchronous = false, or the program "downpour"',
        )
    if exchange is not None and not lossless(exchange.codec):
        of_differences("easgd", exchange)
    when = "one worker at a time, when it comes" if asynchronous else "all workers together"
    stable = "" if beta <= 1 else "; above 1 the centre overshoots, and the source shows that it diverges"
    may_leave = frozenset(range(1, size)) if asynchronous else frozenset[int]()
    says = (("centre moves", f"by {beta:g}, {when}{stable}"),)
    remembers = exchange is not None and not lossless(exchange.codec)  # what others have said, so none may be replaced
    return Plan(size, may_leave, meets=not asynchronous, alone=asynchronous or remembers, says=says)


@planned(_plan)
async def easgd(
    node: Node,
    training: Training,
    exchange: Exchange,
    *,
    optimizer: Optimizer,
    period: Period,
    steps: int,
    batch: int | Literal["full"] = 32,
    beta: float = 0.9,
    asynchronous: bool = False,
    learning_rate: LearningRate = constant,
) -> Tensor:
    """Train for a number of local steps.

    Args:
        period: after which steps a worker meets the centre; it does after the last one, too.
        steps: how many gradients each worker takes, at least 1.
        batch: samples per worker and step; "full" is all that the worker has.
        beta: by which share of their mean distance the centre moves to all workers together; each worker moves
            towards the centre by alpha = beta / size of its own.
        asynchronous: each worker meets the centre, which rank 0 keeps, when it comes to it.
        learning_rate: factor of the optimizer's learning rate.

    Returns:
        The centre (d,), equal on all workers to the bit.
    """
    _plan(node.size, period=period, beta=beta, asynchronous=asynchronous, exchange=exchange)
    update, alpha, when = optimizer.update(training.layout), beta / node.size, timing(period)
    initial = training.initial()
    coded = not lossless(exchange.codec, len(initial))
    exchange = of_differences("easgd", exchange) if coded else exchange
    last: Tree = {"mean": initial} if coded else {}
    start, shared, own = node.restore(
        {"centre": initial, **last}, {"parameters": initial, "optimizer": {}, "exchange": exchange.init(initial)}
    )
    centre, parameters = leaf(shared, "centre"), leaf(own, "parameters")
    mean = leaf(shared, "mean") if coded else centre
    state, said = branch(own, "optimizer"), branch(own, "exchange")

    def drawn(value: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        return value, value + alpha * (told - value)

    keeper = Centre(node, exchange, training.rand, centre, drawn, start, steps)
    serving = []
    if asynchronous and node.rank == HOST:
        serving = [node.background(keeper.serve()), node.background(host(node, range(node.size), start, steps))]
    for step in range(start, steps):
        samples = training.batch(node.rank, step, batch)
        loss, gradient = await node.compute(training.gradient, parameters, samples, samples=samples.size)
        parameters, state = await node.compute(
            update, parameters, gradient, state, learning_rate(step, node.size), donate=True
        )
        if when.due({}, step + 1) or step + 1 == steps:
            at = At(step, node.rank, node.size, training.rand)
            if asynchronous:
                pulled, said = await visit(node, exchange, parameters, said, at)
                parameters = parameters + alpha * (pulled - parameters)
            else:
                if coded:
                    moved, said = await exchange(node, parameters - leaf(said, "public"), said, at)
                    mean = mean + moved
                else:
                    mean, said = await exchange(node, parameters.clone(), said, at)
                parameters = parameters + alpha * (centre - parameters)
                centre = centre + beta * (mean - centre)
        if asynchronous and (node.saves(step + 1) or step + 1 == steps):
            await rest(node, step + 1)
        both = {"centre": keeper.value if asynchronous and node.rank == HOST else centre}
        if coded:
            both["mean"] = mean
        mine: dict[str, Tensor | Tree] = {"parameters": parameters, "optimizer": state, "exchange": said}
        node.commit(step + 1, loss, both, mine)
    if not asynchronous:
        return centre
    for every in serving:
        await every
    return await keeper.tell_all()
