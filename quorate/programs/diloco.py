"""DiLoCo: workers train for themselves; at a meeting an outer optimizer takes the mean of what they did for a gradient.

With `overlap`, a meeting's messages travel while the workers go on, and its result is applied that many steps later.
With `fragments`, the parameters are cut into that many parts of equal length, which take turns at the meetings.

Sources: Douillard et al., "DiLoCo: distributed low-communication training of language models", arXiv 2311.08105, 2023,
algorithm 1; "Streaming DiLoCo with overlapping communication", arXiv 2501.18512, 2025, sections 2.2 and 2.3, where
fragments are made of layers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quorate.codecs import State
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.outer_optimizers import OuterOptimizer
from quorate.outer_optimizers.momentum import Momentum
from quorate.outer_optimizers.sgd import Sgd
from quorate.periods import Period, timing
from quorate.plan import Plan, planned
from quorate.rand import At
from quorate.training import Training
from quorate.trees import Tree, branch, leaf

NESTEROV = Momentum()
AVERAGE = Sgd()


def _plan(size: int, *, period: Period, overlap: int = 0, keep: float = 0.5, fragments: int = 1, **_: object) -> Plan:
    if timing(period).needs:
        raise RecipeError("`diloco` needs a fixed period, not one that adapts", '[period]\nname = "every"\ntau = 50')
    if overlap < 0:
        raise RecipeError(f"`overlap` is a number of steps, at least 0; got {overlap}", "overlap = 5")
    if not 0 <= keep <= 1:
        raise RecipeError(f"`keep` is a share in [0, 1]; got {keep}", "keep = 0.5")
    if fragments < 1:
        raise RecipeError(f"`fragments` is a number of parts, at least 1; got {fragments}", "fragments = 1")
    return Plan(trainers=size)


@planned(_plan)
async def diloco(
    node: Node,
    training: Training,
    exchange: Exchange,
    *,
    optimizer: Optimizer,
    outer_optimizer: OuterOptimizer = NESTEROV,
    period: Period,
    steps: int,
    batch: int | Literal["full"] = 32,
    learning_rate: LearningRate = constant,
    overlap: int = 0,
    keep: float = 0.5,
    fragments: int = 1,
) -> Tensor:
    """Train for a number of inner steps; the inner optimizer's state is never exchanged.

    A meeting after step s averages, over the workers, the outer parameters less each worker's own. When the result is
    applied, after step s + overlap, the outer optimizer steps with it, and each worker's own parameters become `keep`
    times their own, local progress since s included, plus (1 - keep) times the outer ones. If nothing was done since s,
    they become the outer ones. A result that is not there in time, or whose fragment meets again, or that a checkpoint
    would miss, is waited for; a checkpoint holds what has arrived and is not yet due, so that it changes no result.

    After the last step all that is due is applied. Local steps of a period that was cut short are then averaged as they
    are, without the outer optimizer.

    Args:
        outer_optimizer: acts on the averaged differences.
        period: after which steps to meet, a fixed one. With fragments, one of them meets each time.
        steps: how many gradients each worker takes, at least 1.
        batch: samples per worker and step; "full" is all that the worker has.
        learning_rate: factor of the inner optimizer's learning rate.
        overlap: inner steps between a meeting and its result; 0 waits for it.
        keep: alpha of the second source, in [0, 1]; has no influence without overlap.
        fragments: how many parts meet in turn, at least 1.

    Returns:
        The outer parameters (d,), equal on all workers to the bit. They are what is evaluated.
    """
    update, when, initial = optimizer.update(training.layout), timing(period), training.initial()
    cuts = [len(initial) * number // fragments for number in range(fragments + 1)]
    names = [str(number) for number in range(fragments)]
    places = {name: slice(*cuts[number : number + 2]) for number, name in enumerate(names)}
    exchanges = {
        name: exchange.laid_out(training.layout.between(place.start, place.stop)) for name, place in places.items()
    }
    start, shared, own = node.restore(
        {"parameters": initial, "meetings": torch.tensor(0), "outer": {}, "coming": {}},
        {
            "local": initial,
            "optimizer": {},
            "exchange": {name: exchanges[name].init(initial[place]) for name, place in places.items()},
        },
    )
    replica = _Replica(node, training, exchanges, outer_optimizer, places, keep, shared, own)
    state, meetings = branch(own, "optimizer"), int(leaf(shared, "meetings"))
    for step in range(start, steps):
        done, factor = step + 1, learning_rate(step, node.size)
        samples = training.batch(node.rank, step, batch)
        loss, gradient = await node.compute(training.gradient, replica.local, samples, samples=samples.size)
        replica.local, state = await node.compute(update, replica.local, gradient, state, factor, donate=True)
        if when.due({}, done):
            name, meetings = names[meetings % fragments], meetings + 1
            if name in replica.coming:
                await replica.apply(name, done)
            replica.meet(name, done)
        met = [name for name in names if name in replica.coming and replica.coming[name].met == done]
        for name in [name for name, each in replica.coming.items() if done >= min(each.met + overlap, steps)]:
            await replica.apply(name, done)
        if done == steps:
            for name in names:
                if name not in met:
                    replica.meet(name, done)
                    await replica.average(name)
        told = await replica.state(node.saves(done))
        node.commit(done, loss, told | {"meetings": torch.tensor(meetings)}, replica.own() | {"optimizer": state})
    return replica.parameters


@dataclass
class _Coming:
    """The mean difference of a fragment: on its way, or here; and the step after which its workers met."""

    met: int
    result: Awaitable[tuple[Tensor, State]] | None = None
    average: Tensor | None = None


class _Replica:
    """The outer parameters, a worker's own ones, and what is on its way between them."""

    def __init__(
        self,
        node: Node,
        training: Training,
        exchanges: Mapping[str, Exchange],
        optimizer: OuterOptimizer,
        places: dict[str, slice],
        keep: float,
        shared: Tree,
        own: Tree,
    ) -> None:
        self._node, self._training, self._exchanges, self._optimizer = node, training, exchanges, optimizer
        self._places, self._keep = places, keep
        self.parameters, self.local = leaf(shared, "parameters"), leaf(own, "local")
        self._outer = {name: branch(branch(shared, "outer"), name) for name in places}
        self._said = {name: branch(branch(own, "exchange"), name) for name in places}
        saved = branch(shared, "coming")
        arrived = {name: branch(saved, name) for name in saved}
        self.coming = {
            name: _Coming(int(leaf(each, "met")), None, leaf(each, "average")) for name, each in arrived.items()
        }

    def meet(self, name: str, done: int) -> None:
        """Begin to average a fragment."""
        place, rand = self._places[name], self._training.rand.fold("fragment", name)
        at = At(done - 1, self._node.rank, self._node.size, rand)
        difference = self.parameters[place] - self.local[place]
        meeting = self._exchanges[name](self._node, difference, self._said[name], at, self._training.weights)
        self.coming[name] = _Coming(done, self._node.spawn(meeting))

    async def _arrived(self, name: str) -> Tensor:
        each = self.coming[name]
        if each.average is None:
            assert each.result is not None
            each.average, self._said[name] = await each.result
        return each.average

    async def apply(self, name: str, done: int) -> None:
        """Wait for a fragment's average, and take the outer optimizer's step with it."""
        keep = self._keep if done > self.coming[name].met else 0.0
        self._outer[name] = await self._step(name, self._optimizer, self._outer[name], keep)

    async def average(self, name: str) -> None:
        """Wait for a fragment's average, and take it as it is."""
        await self._step(name, AVERAGE, {}, 0.0)

    async def _step(self, name: str, optimizer: OuterOptimizer, state: Tree, keep: float) -> Tree:
        average, place = await self._arrived(name), self._places[name]
        del self.coming[name]
        step = _Step(optimizer, place.start, place.stop)
        self.parameters, state = await self._node.compute(step, self.parameters, average, state, donate=True)
        self.local = await self._node.compute(merged, self.local, self.parameters, place, keep)
        return state

    async def state(self, saved: bool) -> dict[str, Tensor | Tree]:
        """Return what all workers have in common; if it is saved, once nothing is on its way any more."""
        averages = {name: await self._arrived(name) for name in self.coming} if saved else {}
        coming = {
            name: {"average": average, "met": torch.tensor(self.coming[name].met)} for name, average in averages.items()
        }
        return {"parameters": self.parameters, "outer": dict(self._outer), "coming": coming}

    def own(self) -> dict[str, Tensor | Tree]:
        """Return what is this worker's."""
        return {"local": self.local, "exchange": dict(self._said)}


@dataclass(frozen=True)
class _Step:
    """A step of an outer optimizer on a part of the parameters, in place; no state is the one before the first step."""

    optimizer: OuterOptimizer
    start: int
    stop: int

    def __call__(self, parameters: Tensor, average: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        part = parameters[self.start : self.stop]
        _, state = self.optimizer.step(part, average, state or self.optimizer.init(part))
        return parameters, state


def merged(local: Tensor, outer: Tensor, place: slice, keep: float) -> Tensor:
    """Return a worker's parameters (d,) with `keep` times its own and (1 - keep) times the outer ones at a place."""
    local = local.clone()
    local[place] = torch.lerp(outer[place], local[place], keep) if keep else outer[place]
    return local
