"""FedProx: federated averaging whose local steps are pulled back to the server's parameters.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated optimization in heterogeneous networks", MLSys 2020,
algorithm 2; clients are weighted by samples, as in its experiments. Its inexact solutions are partial work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from quorate.algorithms import Averaging, Outcome, Work, require_not_negative
from quorate.federated.local import Local
from quorate.trees import Tree


@dataclass(frozen=True)
class FedProx(Averaging):
    """Minimise the client's loss + mu / 2 ||w - server's parameters||^2; with mu = 0 it is federated averaging.

    Args:
        mu: strength of the pull; the source tries 0.001, 0.01, 0.1 and 1.

    Raises:
        RecipeError: if mu is negative.
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        require_not_negative("mu", self.mu, 0.01)

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Train near the server's parameters."""
        trained = yield local.work(given["parameters"], proximal=self.mu)
        return Outcome(memory, {"update": given["parameters"] - trained.parameters}, {})
