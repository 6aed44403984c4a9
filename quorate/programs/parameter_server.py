"""Parameter servers: workers push gradients to those who hold the parameters, and pull the parameters back.

One number says how far the workers may drift apart: `staleness` 0 is bulk-synchronous, s is stale-synchronous, inf is
asynchronous. A worker that leaves is left out from then on; a server that leaves ends the run.

Sources: Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014, algorithm 1 and section
3; Ho et al., "More effective distributed ML via a stale synchronous parallel parameter server", NeurIPS 2013, section
3; Dean et al., "Large scale distributed deep networks", NeurIPS 2012, section 4.1 (asynchronous, "Downpour SGD"); Chen
et al., "Revisiting distributed synchronous SGD", 2016, section 3 (backup workers).
"""

from __future__ import annotations

import itertools
from math import inf, nan
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from quorate.aggregators import name_of, what_it_needs
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.plan import Plan, planned
from quorate.programs._differences import require_one_meeting
from quorate.programs._server import LAST, PULL, PUSH, Shard, with_clock
from quorate.rand import At
from quorate.training import Training
from quorate.trees import Tree, branch, leaf
from quorate.wire import Opens

Staleness = Annotated[float, Field(ge=0)]


def serving(size: int, servers: int, colocated: bool) -> list[int]:
    """Return the ranks that serve: the first ones, which train as well, or the last ones."""
    return list(range(servers)) if colocated else list(range(size - servers, size))


def ranges(d: int, servers: int) -> list[tuple[int, int]]:
    """Return each server's range of the flat parameters, all of equal length up to one entry."""
    bounds = [d * number // servers for number in range(servers + 1)]
    return list(itertools.pairwise(bounds))


def server_plan(
    size: int,
    *,
    optimizer: Optimizer,
    servers: int,
    colocated: bool,
    staleness: float,
    backup: int,
    exchange: Exchange | None = None,
    **_: Any,
) -> Plan:
    """Return how ranks serve and train; see `parameter_server`.

    Raises:
        RecipeError: if they can't.
    """
    trainers = size if colocated else size - servers
    if servers < 1:
        raise RecipeError(f"parameters need at least one server, got servers = {servers}", "servers = 1")
    if trainers < 1 or servers > size:
        raise RecipeError(
            f"{servers} servers of {size} ranks leave no rank to train",
            f"servers = {max(1, size // 4)}, or colocated = true for servers that train as well",
        )
    if staleness != inf and staleness != int(staleness):
        raise RecipeError(f"`staleness` counts steps: 0, a whole number, or inf; got {staleness}", "staleness = 3")
    if backup and (staleness or not 0 < backup < trainers):
        raise RecipeError(
            f"backup = {backup} leaves out the last gradients of a round, which takes staleness = 0 and more than"
            f" {backup} trainers; got staleness = {staleness:g} and {trainers} trainers",
            "backup = 1" if not staleness and trainers > 1 else "backup = 0",
        )
    if servers > 1 and not optimizer.elementwise:
        raise RecipeError(f"`{optimizer.name}` needs whole layers, which servers share out by ranges", "servers = 1")
    if exchange is not None:
        require_one_meeting("a parameter server", exchange, "synchronous_sgd")
    if staleness and exchange is not None and what_it_needs(exchange.aggregator) != Opens.TOTAL:
        raise RecipeError(
            f"{name_of(exchange.aggregator)} compares the updates of a round; with staleness = {staleness:g}, each is"
            " applied when it comes",
            "staleness = 0, or the aggregator `mean`",
        )
    when = {0.0: "bulk-synchronous", inf: "asynchronous"}.get(staleness, f"at most {staleness:g} steps apart")
    where = "on ranks that train as well" if colocated else "on ranks of their own"
    says = (("servers", f"{servers}, {where}"), ("staleness", f"{staleness:g}: workers are {when}"))
    may_leave = frozenset(range(1, trainers)) - set(serving(size, servers, colocated))
    return Plan(trainers, may_leave, meets=False, alone=True, says=says)


@planned(server_plan)
async def parameter_server(
    node: Node,
    training: Training,
    exchange: Exchange,
    *,
    optimizer: Optimizer,
    steps: int,
    batch: int | Literal["full"] = 32,
    servers: int = 1,
    colocated: bool = True,
    staleness: Staleness = 0,
    backup: int = 0,
    learning_rate: LearningRate = constant,
) -> Tensor:
    """Train for a number of steps; only the servers hold the optimizer's state.

    Gradients are encoded by the exchange's codec, a range at a time; parameters are sent back as they are. A gradient
    that a round did not wait for is lost, with all that its message said.

    Args:
        steps: how many gradients each worker takes, at least 1.
        batch: samples per worker and step; "full" is all that the worker has.
        servers: how many ranks hold the parameters, an equal range each.
        colocated: the first ranks serve and train; otherwise the last ranks serve only.
        staleness: how many steps a worker may be ahead of the slowest one when it reads the parameters: 0, a whole
            number, or inf.
        backup: of a round, how many gradients, the last to come, are not waited for; only with staleness 0. A worker
            whose gradient came too late goes on with the current step.
        learning_rate: factor of the optimizer's learning rate.

    Returns:
        The parameters (d,), equal on all ranks to the bit.
    """
    trainers = server_plan(
        node.size,
        optimizer=optimizer,
        servers=servers,
        colocated=colocated,
        staleness=staleness,
        backup=backup,
        exchange=exchange,
    ).trainers
    initial, update = training.initial(), optimizer.update(training.layout)
    hosts = list(zip(serving(node.size, servers, colocated), ranges(training.layout.numel, servers), strict=True))
    said_to = {rank: exchange.laid_out(training.layout.between(a, b)) for rank, (a, b) in hosts}
    fresh = {str(rank): said_to[rank].init(initial[a:b]) for rank, (a, b) in hosts if node.rank < trainers}
    start, shared, own = node.restore({"parameters": initial}, {"exchange": fresh, "optimizer": {}})
    parameters, said = leaf(shared, "parameters"), dict(branch(own, "exchange"))
    given = training.weights or [1 / trainers] * trainers

    def advanced(clock: int, state: Tree) -> None:
        if node.rank >= trainers:
            node.commit(clock, nan, {}, {"optimizer": state})

    shard = None
    for rank, (a, b) in hosts:
        if rank == node.rank:
            shard = Shard(
                node,
                said_to[rank],
                lambda parameters, gradient, state, step: node.compute(
                    update, parameters, gradient, state, learning_rate(step, trainers), donate=True
                ),
                parameters[a:b].clone(),
                branch(own, "optimizer"),
                rand=training.rand,
                weights=dict(enumerate(given)),
                start=start,
                steps=steps,
                staleness=staleness,
                backup=backup,
                advanced=advanced,
            )
    served = None
    if shard is not None and node.rank >= trainers:
        await shard.serve(steps)
        _, (parameters,) = await node.recv(0, (parameters,), LAST)
        return parameters
    if shard is not None and staleness:
        served = node.background(shard.serve(steps))
    step = start
    while step < steps:
        at = At(step, node.rank, node.size, training.rand)
        samples = training.batch(node.rank, step, batch)
        loss, gradient = await node.compute(training.gradient, parameters, samples, samples=samples.size)
        clock = torch.tensor([step + 1])
        coming = [node.recv(rank, (parameters[a:b], clock), PULL) for rank, (a, b) in hosts]
        sent = []
        for rank, (a, b) in hosts:
            message, said[str(rank)] = said_to[rank].say(gradient[a:b], branch(said, str(rank)), at)
            sent.append(node.send(rank, with_clock(message, step + 1), PUSH))
        if shard is not None and not staleness:
            await shard.serve(step + 1)
        for every in sent:
            await every
        pulled = [message for _, message in [await every for every in coming]]
        parameters = pulled[0][0] if len(pulled) == 1 else torch.cat([piece for piece, _ in pulled])
        slowest = min(int(clock) for _, clock in pulled)
        mine: dict[str, Tensor | Tree] = {"exchange": said, "optimizer": {}}
        if shard is not None:
            mine["optimizer"] = shard.rested if staleness else shard.state
        measured = {"staleness": float(max(0, step + 1 - slowest))}
        node.commit(step + 1, loss, {"parameters": parameters}, mine, measured)
        for skipped in range(step + 2, slowest + 1 if backup else 0):
            node.commit(skipped, nan, {"parameters": parameters}, mine)
        step = max(step + 1, slowest if backup else 0)
    if served is not None:
        await served
    if node.rank == 0 and not colocated:
        for every in [node.send(rank, (parameters,), LAST) for rank, _ in hosts]:
            await every
    return parameters
