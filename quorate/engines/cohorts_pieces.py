"""A piece of a cohort's local work, which one process does in one go: from a model's fast form to what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quorate.engines.cohorts_chains import Chain
from quorate.engines.cohorts_factors import Factors, few
from quorate.engines.cohorts_layers import Stack
from quorate.engines.cohorts_losses import Losses
from quorate.engines.cohorts_steps import Motion, Steps
from quorate.engines.cohorts_windows import Windows
from quorate.errors import QuorateError
from quorate.federated.local import LocalWork, Trained
from quorate.federated.unfolded import Unfolded
from quorate.gradient import require_finite
from quorate.tasks import Data

_ENTRIES = 1 << 21  # of parameters, or of inputs, of the clients side by side: what stays near the caches
_MOST = 100  # clients side by side


@dataclass(frozen=True)
class Done:
    """What came of a piece, as tensors that can be handed from one process to another.

    Args:
        losses: of each client's steps.
        parameters: (d,) of each client, unless they have not been multiplied out.
        factors: else, the `tensors` of `Factors`.
    """

    losses: list[list[float]]
    parameters: list[Tensor]
    factors: tuple[list[Tensor], list[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Form:
    """A model written out by hand, and the data it is trained on.

    Args:
        layers: of the model.
        l2: factor of the penalty on its parameters.
        numel: d, how many parameters it has.
        data: of all clients.
        losses: by which it is trained.
    """

    layers: Stack | Chain
    l2: float
    numel: int
    data: Data
    losses: Losses

    def at_once(self, sizes: Sequence[int]) -> int:
        """Return how many clients make a piece; of the first, these are the sizes of the steps."""
        if isinstance(self.layers, Chain):
            return 1
        rows, features = len(sizes) * max(sizes), self.data.x[0].numel()
        entries = rows * features if few(self.layers, rows) else self.numel
        return max(1, min(_MOST, _ENTRIES // max(entries, 1)))

    def divides(self, sizes: Sequence[int]) -> bool:
        """Return whether a piece may be divided further: each client's products are its own."""
        return isinstance(self.layers, Stack) and not few(self.layers, len(sizes) * max(sizes))

    @torch.no_grad()
    def do(self, works: Sequence[LocalWork]) -> Done:
        """Do works that are alike, and have at least one step each.

        Those of a chain of layers are done one after another.
        """
        layers = self.layers
        if isinstance(layers, Chain):
            alone = [layers.train(work, Motion.of([work], self.l2), self.data, self.losses) for work in works]
            return Done([history for _, history in alone], [flat for flat, _ in alone])
        steps, motion = Steps.of(works), Motion.of(works, self.l2)
        _, count, b = steps.index.shape
        if motion.plain and few(layers, count * b) and all(work.start is works[0].start for work in works):
            factors = Factors(layers, works[0].start, len(works), motion)
            return Done(_said(factors.run(steps, self.data, self.losses), steps), [], factors.tensors)
        windows = Windows(layers, steps, motion)
        history = windows.run(self.data, self.losses)
        return Done(_said(history, steps), [windows.parameters(client, self.numel) for client in range(len(works))])

    def results(self, works: Sequence[LocalWork], done: Done) -> Iterator[Trained | QuorateError]:
        """Yield what came of each client of a piece."""
        parameters = done.parameters
        if done.factors is not None:
            assert isinstance(self.layers, Stack)
            factors = Factors(self.layers, works[0].start, len(works), Motion.of(works, self.l2))
            factors.tensors = done.factors
            parameters = [Unfolded.of(factors, client) for client in range(len(works))]
        for own, losses in zip(parameters, done.losses, strict=True):
            yield _result(own, losses)


def _said(history: Tensor, steps: Steps) -> list[list[float]]:
    """Return the losses (n, T) of the steps that each client has."""
    return [losses[: len(sizes) - sizes.count(0)] for losses, sizes in zip(history.tolist(), steps.sizes, strict=True)]


def _result(parameters: Tensor, losses: Sequence[float]) -> Trained | QuorateError:
    try:
        for loss in losses:
            require_finite(loss)
    except QuorateError as error:
        return error
    return Trained(parameters, sum(losses) / len(losses) if losses else 0.0, len(losses))
