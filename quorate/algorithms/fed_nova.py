"""FedNova: averages of steps rather than of sums of steps, so that clients that take more of them don't count more.

Source: Wang, Liu, Liang, Joshi and Poor, "Tackling the objective inconsistency problem in heterogeneous federated
optimization", NeurIPS 2020, sections 3 and 4: equation (10), with tau_eff = sum of p_i ||a_i||_1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quorate.algorithms import Averaging, Combined, Outcome, Work, require_not_negative
from quorate.errors import RecipeError
from quorate.federated.local import Local, LocalSettings
from quorate.flat import Layout
from quorate.trees import Tree


@dataclass(frozen=True)
class FedNova(Averaging):
    """Say the way a client has gone, divided by the steps that it amounts to; go as many as clients did on average.

    With momentum, or a pull to the server's parameters, gradients count differently: as many steps as ||a_i||_1, the
    sum of the factors of a client's gradients. Where that is equal for all clients, it is federated averaging.

    Args:
        mu: strength of the pull, as in `fed_prox`.

    Raises:
        RecipeError: if mu is negative.
    """

    mu: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative("mu", self.mu, 0.0)

    def check(self, settings: LocalSettings, layout: Layout | None) -> None:
        """Refuse optimizers that do not add up gradients."""
        name, given = settings.optimizer.name, settings.optimizer.settings
        extra = next((key for key in ("dampening", "maximize") if given.get(key, 0) != 0), None)
        if name.lower() != "sgd" or extra:
            raise RecipeError(
                f"`fed_nova` must know how much each gradient counts, which it does not for `{name}`"
                + (f" with `{extra}`" if extra else ""),
                '[optimizer]\nname = "sgd"\nlr = 0.1\nmomentum = 0.9',
            )

    def tells(self) -> Sequence[str]:
        """Tell ||a_i||_1."""
        return ("counted_steps",)

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Train, and normalise what came of it."""
        start = given["parameters"]
        trained = yield local.work(start, proximal=self.mu)
        counted = self.counted(local, trained.steps)
        update = (start - trained.parameters) / counted if counted else torch.zeros_like(start)
        return Outcome(memory, {"update": update}, {"counted_steps": counted})

    def counted(self, local: Local, steps: int) -> float:
        """Return ||a_i||_1: how far so many steps with a gradient of 1 go from 0, in units of the learning rate."""
        settings = local.settings.optimizer.settings
        momentum, nesterov = float(settings.get("momentum", 0)), bool(settings.get("nesterov", False))
        shrinking = local.settings.optimizer.lr * local.numbers.get("factor", 1.0) * self.mu
        way = velocity = 0.0
        for _ in range(steps):
            slope = 1 - shrinking * way
            velocity = momentum * velocity + slope
            way += slope + momentum * velocity if nesterov else velocity
        return way

    def server(self, parameters: Tensor, state: Tree, combined: Combined, layout: Layout) -> tuple[Tensor, Tree]:
        """Step by tau_eff times the mean of the normalised differences."""
        told = [each["counted_steps"] for each in combined.numbers]
        steps = sum(weight * counted for weight, counted in zip(combined.weights, told, strict=True))
        return steps * combined.updates["update"], state


EXAMPLES = (FedNova(), FedNova(mu=0.1))
