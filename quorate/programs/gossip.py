"""Decentralised parallel SGD (D-PSGD): every step, each worker averages its parameters with its neighbours' only.

With a lossy codec it is CHOCO-SGD: each worker says how its parameters differ from what it has said of them so far, and
moves by `consensus_step` towards what its neighbours have said.

Sources: Lian et al., "Can decentralized algorithms outperform centralized algorithms?", NeurIPS 2017, algorithm 1: the
gradient is taken at the parameters before they are mixed, so that computing and talking overlap. The mixing matrix must
be doubly stochastic; symmetry, which the paper assumes as well, is not needed to keep the mean. Koloskova, Stich and
Jaggi, "Decentralized stochastic optimization and gossip algorithms with compressed communication", ICML 2019, algorithm
2, here with the gradient of D-PSGD, and the weighted sum of the neighbours' copies instead of each.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from quorate.aggregators import name_of
from quorate.aggregators.mean import mean
from quorate.codecs import Codec
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.graph_check import says
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.plan import Plan, planned
from quorate.programs._differences import Differences, lossless, of_differences
from quorate.rand import At
from quorate.topologies import Topology, hearers
from quorate.training import Training
from quorate.trees import Tree, branch, leaf

SAYS = 1  # the tag of encoded differences
ConsensusStep = Annotated[float, Field(gt=0, le=1)]


def _plan(
    size: int,
    *,
    topology: Topology,
    consensus_step: float | None = None,
    exchange: Exchange | None = None,
    **_: Any,
) -> Plan:
    lines = says(topology, size)
    if exchange is None or lossless(exchange.codec):
        return Plan(size, meets=False, says=lines)
    from quorate.mixing import period_of

    period = period_of(topology, size)
    if period > 1:
        raise RecipeError(
            f"with the codec {exchange.codec}, gossip adds up what its neighbours say, so they must stay the same, but"
            f" topology `{name_of(topology)}` changes for {period} steps",
            'name = "ring" in [topology], or leave out [[codec]]',
        )
    if exchange.aggregator is not mean:
        raise RecipeError(
            f"with the codec {exchange.codec}, gossip adds up what its neighbours say, and has no use for the"
            f" aggregator `{name_of(exchange.aggregator)}`",
            "the aggregator `mean`, or leave out [[codec]]",
        )
    coded = of_differences("gossip", exchange)
    chosen = consensus_step or default_step(coded.codec)
    of_whom = "" if consensus_step else "; tune it by `consensus_step` in [program]"
    lines += (("consensus step", f"{chosen:.3g} of the way to what neighbours have said{of_whom}"),)
    return Plan(size, meets=False, alone=True, says=lines)


def default_step(codec: Codec, d: int = 1 << 20) -> float:
    """Return a consensus step for a codec, from what is known of the share of an update that it says.

    An entry that is said every 1 / delta steps moves as often by what was known of it before, so that a step of several
    delta overshoots. The sources' proof asks for less, and their experiments were tuned.

    Raises:
        RecipeError: if nothing is known of the codec.
    """
    bell_shaped = getattr(codec.codec if isinstance(codec, Differences) else codec, "bell_shaped_bound", None)
    left = codec.bound(d)
    if left >= 1 and bell_shaped is not None:
        left = bell_shaped(d)
    if left >= 1:
        raise RecipeError(
            f"how much of an update {codec} says is not known, so that no consensus step follows from it",
            "consensus_step = 0.1 in [program]",
        )
    return 1 - left


@planned(_plan)
async def gossip(
    node: Node,
    training: Training,
    exchange: Exchange,
    *,
    optimizer: Optimizer,
    topology: Topology,
    steps: int,
    batch: int | Literal["full"] = 32,
    learning_rate: LearningRate = constant,
    consensus_step: ConsensusStep | None = None,
) -> Tensor:
    """Train for a number of steps, and average the replicas once at the end.

    Args:
        topology: whom to hear in a step, and with which weights; its rows and columns sum to 1. With a lossy codec, it
            must not change.
        steps: how many gradients each worker takes, at least 1.
        batch: samples per worker and step; "full" is all that the worker has.
        learning_rate: factor of the optimizer's learning rate.
        consensus_step: gamma of the second source, in (0, 1], without use if the codec loses nothing; None: the share
            of an update that the codec is known to say.

    Returns:
        The mean of the replicas (d,), equal on all workers to the bit.
    """
    update = optimizer.update(training.layout)
    initial = training.initial()
    coded = not lossless(exchange.codec, len(initial))
    fresh: Tree = exchange.init(initial)
    if coded:
        exchange = of_differences("gossip", exchange)
        consensus_step = consensus_step or default_step(exchange.codec, len(initial))
        fresh = {"said": exchange.init(initial), "heard": initial.clone()}
    start, _, own = node.restore({}, {"parameters": initial, "optimizer": {}, "exchange": fresh})
    parameters, state, said = leaf(own, "parameters"), branch(own, "optimizer"), branch(own, "exchange")
    for step in range(start, steps):
        at = At(step, node.rank, node.size, training.rand)
        samples = training.batch(node.rank, step, batch)
        gradient_taken = node.compute(training.gradient, parameters, samples, samples=samples.size)
        if consensus_step is not None and coded:
            mixed, said = await _approached(node, exchange, topology, parameters, said, at, consensus_step)
        else:
            mixed, said = await _averaged(node, exchange, topology, parameters, said, at)
        loss, gradient = await gradient_taken
        factor = learning_rate(step, node.size)
        parameters, state = await node.compute(update, mixed, gradient, state, factor, donate=True)
        node.commit(step + 1, loss, {}, {"parameters": parameters, "optimizer": state, "exchange": said})
    return await node.all_reduce(parameters / node.size)


async def _averaged(
    node: Node, exchange: Exchange, topology: Topology, parameters: Tensor, said: Tree, at: At
) -> tuple[Tensor, Tree]:
    """Return the weighted mean of a worker's parameters and its neighbours' (d,)."""
    message, said = exchange.say(parameters.clone(), said, at)
    neighbours = topology(node.rank, node.size, at.step)
    like = exchange.emits(parameters)
    # First of all: gloo asks for a message by one of its own, which would queue up behind what is sent before.
    coming = [node.recv(peer, like) for peer, _ in neighbours if peer != node.rank]
    hearing = hearers(topology, node.rank, node.size, at.step)
    sent = [node.send(peer, message) for peer, _ in hearing if peer != node.rank]
    arrived = [await every for every in coming]
    heard = {src: exchange.hear(each, parameters, at._replace(rank=src)) for src, each in arrived}
    heard[node.rank] = parameters
    peers, weights = [peer for peer, _ in neighbours], [weight for _, weight in neighbours]
    mixed = exchange.combine([heard[peer] for peer in peers], weights, at, peers, last=parameters, peer=node.rank)
    for every in sent:
        await every
    return mixed, said


async def _approached(
    node: Node, exchange: Exchange, topology: Topology, parameters: Tensor, said: Tree, at: At, consensus_step: float
) -> tuple[Tensor, Tree]:
    """Return a worker's parameters (d,), moved towards what its neighbours and itself have said on average."""
    own, heard = branch(said, "said"), leaf(said, "heard")
    message, own = exchange.say(parameters - leaf(own, "public"), own, at)
    neighbours = topology(node.rank, node.size, at.step)
    like = exchange.emits(parameters)
    coming = [node.recv(peer, like, SAYS) for peer, _ in neighbours if peer != node.rank]
    hearing = hearers(topology, node.rank, node.size, at.step)
    sent = [node.send(peer, message, SAYS) for peer, _ in hearing if peer != node.rank]
    messages = dict([await every for every in coming])
    messages[node.rank] = type(message)(tensor.clone() for tensor in message)
    for peer, weight in neighbours:
        head, *side = messages[peer]
        exchange.codec.add(heard, head, tuple(side), weight, at._replace(rank=peer))
    for every in sent:
        await every
    mixed = (heard - leaf(own, "public")).mul_(consensus_step).add_(parameters)
    return mixed, {"said": own, "heard": heard}
