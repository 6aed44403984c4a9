"""What a client does with its own data: local steps from given parameters, as a value that an engine works out.

This is the definition; `quorate/engines` trains many clients at once and is tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from quorate.errors import QuorateError, RecipeError
from quorate.federated.shuffled import Shuffled
from quorate.flat import Layout
from quorate.gradient import Batch, Gradient
from quorate.optimizer import Optimizer
from quorate.rand import Rand
from quorate.trees import Tree

_NOTHING: Tree = {}


@dataclass(frozen=True)
class LocalWork:
    """Local steps of one client: each on one batch, by w <- step(w, gradient + proximal (w - anchor) + shift).

    Args:
        start: (d,), the parameters before the first step; only read.
        orders: for each epoch, which samples in which order, (n,) positions in the training data; an epoch is cut into
            batches, the last of which may be shorter. Without samples there is no batch.
        batch: samples of a step; "full": an epoch is one step.
        optimizer: begins anew.
        factor: of its learning rate.
        proximal: mu of FedProx; 0 for none.
        anchor: (d,), what `proximal` pulls to; None: `start`.
        shift: (d,), is added to every gradient; None for nothing.
        moves: the parts of the parameters that are trained; None: all.
        most: steps after which to stop; None: when the epochs are over.
        stream: names the stream of a stochastic module's own randomness.
        rand: the run's stream.
    """

    start: Tensor
    orders: Sequence[Tensor]
    batch: int | Literal["full"]
    optimizer: Optimizer
    rand: Rand
    stream: tuple[str | int, ...]
    factor: float = 1.0
    proximal: float = 0.0
    anchor: Tensor | None = None
    shift: Tensor | None = None
    moves: tuple[slice, ...] | None = None
    most: int | None = None

    @property
    def batches(self) -> Iterator[Batch]:
        """The batches, in order."""
        number = 0
        for order in self.orders:
            for piece in [order] if self.batch == "full" else order.split(self.batch):
                if number == self.most:
                    return
                if not len(piece):
                    continue
                yield Batch(piece, len(piece), (*self.stream, number), self.rand)
                number += 1

    @cached_property
    def sizes(self) -> list[int]:
        """The sizes of the batches, in order."""
        sizes = list[int]()
        orders = self.orders
        lengths = orders.lengths if isinstance(orders, Shuffled) else [order.shape[0] for order in orders]
        for n in lengths:
            size = n if self.batch == "full" else self.batch
            sizes += [size] * (n // size if size else 0)
            if size and n % size:
                sizes.append(n % size)
        return sizes if self.most is None else sizes[: self.most]

    @property
    def samples(self) -> int:
        """How many gradients of single samples it takes, which is what computing costs."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Trained:
    """What came of local work.

    Args:
        parameters: (d,), after the last step.
        loss: mean over the steps, without the proximal term.
        steps: that were done.
    """

    parameters: Tensor
    loss: float
    steps: int


def train(gradient: Gradient, layout: Layout, work: LocalWork) -> Trained:
    """Do local work, step by step.

    Raises:
        TaskError: if the task fails, or a loss is not finite.
    """
    update, parameters, state = work.optimizer.update(layout), work.start.clone(), _NOTHING
    anchor, losses = work.start if work.anchor is None else work.anchor, []
    frozen = None if work.moves is None else _others(work.moves, layout.numel)
    for batch in work.batches:
        loss, slope = gradient(parameters, batch)
        if work.proximal:
            slope.add_(parameters, alpha=work.proximal).sub_(anchor, alpha=work.proximal)
        if work.shift is not None:
            slope += work.shift
        for place in frozen or ():
            slope[place] = 0
        kept = [parameters[place].clone() for place in frozen or ()]
        parameters, state = update(parameters, slope, state, work.factor)
        for place, values in zip(frozen or (), kept, strict=True):
            parameters[place] = values  # which weight decay or momentum may have moved
        losses.append(loss)
    return Trained(parameters, sum(losses) / len(losses) if losses else 0.0, len(losses))


def _others(places: Sequence[slice], d: int) -> list[slice]:
    """Return the slices of (d,) that are in none of these, which are in order."""
    ends = [0, *(place.stop for place in places)]
    starts = [*(place.start for place in places), d]
    return [slice(a, b) for a, b in zip(ends, starts, strict=True) if a < b]


@dataclass(frozen=True)
class LocalSettings:
    """How clients train, where an algorithm says nothing else.

    Args:
        optimizer: of the client; it begins anew in every round.
        epochs: E, passes over the client's samples, at least 1.
        batch: B, samples of a step; "full": all.

    Raises:
        RecipeError: if a number is out of range.
    """

    optimizer: Optimizer
    epochs: int = 1
    batch: int | Literal["full"] = 10

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise RecipeError(
                f"`epochs` is passes over a client's samples, at least 1; got {self.epochs}", "epochs = 1"
            )
        if self.batch != "full" and self.batch < 1:
            raise RecipeError(f'`batch` is samples of a step, at least 1, or "full"; got {self.batch}', "batch = 10")


@dataclass(frozen=True)
class Local:
    """A client's side of a round, as an algorithm sees it: its number, its samples, and how to plan work on them.

    Args:
        client: its number.
        round: counted from 0.
        clients: how many there are, present or not.
        shard: (n,), positions of its samples in the training data.
        settings: the recipe's.
        layout: of the parameters.
        initial: (d,), the parameters before the first round, which are everybody's; only read.
        numbers: the request's.
    """

    client: int
    round: int
    clients: int
    shard: Tensor
    settings: LocalSettings
    layout: Layout
    initial: Tensor
    rand: Rand
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many samples the client has."""
        return self.shard.shape[0]

    @property
    def lr(self) -> float:
        """The learning rate of the client's steps, the schedule's factor included.

        Raises:
            RecipeError: if the client's optimizer is not plain gradient descent.
        """
        return plain_lr(self.settings.optimizer) * self.numbers.get("factor", 1.0)

    def work(
        self,
        start: Tensor,
        *,
        epochs: int | None = None,
        batch: int | Literal["full"] | None = None,
        purpose: str = "batch",
        proximal: float = 0.0,
        anchor: Tensor | None = None,
        shift: Tensor | None = None,
        moves: tuple[slice, ...] | None = None,
        share: float = 1.0,
    ) -> LocalWork:
        """Plan local steps: the client goes through its samples in a new random order each epoch.

        Args:
            epochs: None: the recipe's.
            batch: None: the recipe's.
            purpose: names the random order; works of one round for several purposes go through the samples differently.
            proximal: see `LocalWork`, as for `anchor`, `shift` and `moves`.
            share: of the steps that the server allows; works of one round share them.
        """
        count, size = epochs or self.settings.epochs, batch or self.settings.batch
        orders: Sequence[Tensor] = (self.shard,) * count
        if size != "full":
            names = (purpose, "round", self.round, self.client)
            orders = Shuffled(self.shard, [(self.rand, (*names, epoch)) for epoch in range(count)])
        most = self.numbers.get("steps")
        return LocalWork(
            start,
            orders,
            size,
            self.settings.optimizer,
            self.rand,
            ("forward", purpose, self.round, self.client),
            self.numbers.get("factor", 1.0),
            proximal,
            anchor,
            shift,
            moves,
            None if most is None else math.ceil(share * most),
        )


def plain_lr(optimizer: Optimizer) -> float:
    """Return the learning rate of plain gradient descent.

    Raises:
        RecipeError: if the optimizer is anything else, or has momentum.
    """
    settings = optimizer.settings
    extra = next((name for name in ("momentum", "maximize") if settings.get(name, 0) != 0), None)
    if optimizer.name.lower() != "sgd" or extra:
        raise RecipeError(
            f"the algorithm's correction is for plain steps of gradient descent, not for `{optimizer.name}`"
            + (f" with `{extra}`" if extra else ""),
            '[optimizer]\nname = "sgd"\nlr = 0.1',
        )
    return float(settings.get("lr", 1e-3))


def limited(work: LocalWork, steps: int) -> LocalWork:
    """Return local work that stops after some steps: what a client that is short of time still does."""
    return replace(work, most=steps if work.most is None else min(steps, work.most))


Train = Callable[[Sequence[LocalWork]], Sequence[Trained | QuorateError]]
"""What works out the local work of many clients: for each what came of it, or how its task failed."""
