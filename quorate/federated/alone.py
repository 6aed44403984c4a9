"""What clients would come to without each other: each for itself, or, as if data could move, all data in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from quorate.errors import QuorateError
from quorate.federated.local import Local, LocalWork, Train
from quorate.learning_rates import LearningRate

PIECES = 20
"""At most so many, into which training on pooled data is cut; in each the optimizer begins anew, as in a round."""


class Locals(Protocol):
    """What plans local work; see `Client.local`."""

    def __call__(self, client: int, round: int, shard: Tensor, numbers: Mapping[str, float]) -> Local:
        """Return a client's side of a round."""


def alone(
    local: Locals,
    learning_rate: LearningRate,
    clients: Sequence[tuple[int, Tensor]],
    times: int,
    rounds: int,
    train: Train,
) -> list[Tensor | QuorateError]:
    """Train each client by itself, from the initial parameters, as if it took part in a federation of its own.

    Args:
        local: plans local work.
        learning_rate: by round; the times are spread evenly over the rounds.
        clients: numbers and (n,) positions of their samples.
        times: how often each goes through its recipe's epochs.
        rounds: that the federation did.
        train: works them out.

    Returns:
        Per client its parameters (d,), or how its training failed.
    """
    held: list[Tensor | QuorateError] = [local(client, 0, shard, {}).initial for client, shard in clients]
    for time in range(times):
        works: dict[int, LocalWork] = {}
        for place, start in enumerate(held):
            if isinstance(start, Tensor):
                client, shard = clients[place]
                side = local(client, time, shard, {})
                side = replace(side, numbers={"factor": learning_rate(time * rounds // times, side.clients)})
                works[place] = side.work(start, purpose="alone")
        for place, trained in zip(works, train(list(works.values())), strict=True):
            held[place] = trained if isinstance(trained, QuorateError) else trained.parameters
    return [_diverged() if isinstance(each, Tensor) and not each.isfinite().all() else each for each in held]


def _diverged() -> QuorateError:
    return QuorateError("it came to parameters that are not finite", "lower the learning rate")


def pieces(rounds: int) -> int:
    """Return into how many pieces training on pooled data is cut."""
    return max(1, min(PIECES, rounds))


def pooled(
    local: Local,
    learning_rate: LearningRate,
    parameters: Tensor,
    samples: int,
    rounds: int,
    train: Train,
    first: int = 0,
    keep: Callable[[int, Tensor], None] = lambda piece, parameters: None,
) -> Tensor:
    """Train on all data in one place, on as many gradients of single samples as the federation took.

    Args:
        local: of all clients' samples together.
        learning_rate: by round; the pieces are spread evenly over the rounds.
        parameters: (d,), after the first pieces.
        samples: gradients of single samples in all.
        rounds: that the federation did.
        train: works it out.
        first: pieces that are done.
        keep: is told the number of pieces done, and the parameters.

    Returns:
        The parameters (d,).

    Raises:
        QuorateError: if training fails.
    """
    count, batch = pieces(rounds), local.settings.batch
    size = local.samples if batch == "full" else min(batch, local.samples)
    for piece in range(first, count):
        share = samples * (piece + 1) // count - samples * piece // count
        steps = math.ceil(share / size)
        if steps == 0:
            continue
        orders = []
        for epoch in range(math.ceil(steps * size / local.samples)):
            generator = local.rand.fold("pooled", piece, epoch).generator()
            orders.append(local.shard[torch.randperm(local.samples, generator=generator)])
        work = LocalWork(
            parameters,
            tuple(orders),
            batch,
            local.settings.optimizer,
            local.rand,
            ("forward", "pooled", piece),
            learning_rate(piece * rounds // count, local.clients),
            most=steps,
        )
        (trained,) = train([work])
        if isinstance(trained, QuorateError):
            raise trained
        parameters = trained.parameters
        if not parameters.isfinite().all():
            raise _diverged()
        keep(piece + 1, parameters)
    return parameters
