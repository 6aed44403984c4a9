"""FedDyn: each client's loss gains a linear term that makes its own optimum move to everybody's.

Source: Acar, Zhao, Matas Navarro, Mattina, Whatmough and Saligrama, "Federated learning based on dynamic
regularization", ICLR 2021, algorithm 1. As in the source, all clients count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from quorate.algorithms import Averaging, Combined, Outcome, Work
from quorate.errors import RecipeError
from quorate.federated.local import Local
from quorate.flat import Layout
from quorate.trees import Tree, leaf


@dataclass(frozen=True)
class FedDyn(Averaging):
    """Minimise the client's loss - <g_i, w> + alpha / 2 ||w - server's parameters||^2, where g_i is its last gradient.

    Args:
        alpha: strength of the pull, positive; 0.01 to 0.1 are common, and the source's best depends on the task (this
            default is not checked against it).

    Raises:
        RecipeError: if alpha is not positive.
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.alpha < inf:
            raise RecipeError(f"`alpha` must be positive and finite; got {self.alpha}", "alpha = 0.1")

    def init(self, parameters: Tensor) -> Tree:
        """Begin with h = 0, minus the mean of all clients' g_i."""
        return {"h": torch.zeros_like(parameters)}

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Train; then g_i = g_i - alpha (w_i - server's parameters), the gradient at w_i if w_i is the minimum."""
        start = given["parameters"]
        gradient = leaf(memory, "gradient") if memory else torch.zeros_like(start)
        trained = yield local.work(start, proximal=self.alpha, shift=-gradient)
        update = start - trained.parameters
        return Outcome({"gradient": gradient + self.alpha * update}, {"update": update}, {})

    def weights(self, numbers: Sequence[Mapping[str, float]]) -> Sequence[float]:
        """Count all clients alike."""
        return [1.0 for _ in numbers]

    def server(self, parameters: Tensor, state: Tree, combined: Combined, layout: Layout) -> tuple[Tensor, Tree]:
        """Go to the mean of the clients' parameters, and on by -h / alpha."""
        mean = combined.updates["update"]
        h = leaf(state, "h") + self.alpha * len(combined.numbers) / combined.clients * mean
        return mean + h / self.alpha, {"h": h}
