"""FedRep: everybody's representation; on it each client first fits a head of its own, and then moves it a little.

Source: Collins, Hassani, Mokhtari and Shakkottai, "Exploiting shared representations for personalized federated
learning", ICML 2021, algorithm 1; clients are weighted by samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from quorate.algorithms import Outcome, Work
from quorate.algorithms._layers import PersonalLayers, taken
from quorate.errors import RecipeError
from quorate.federated.local import Local
from quorate.trees import Tree


@dataclass(frozen=True)
class FedRep(PersonalLayers):
    """Train the personal layers with the shared ones frozen, then the shared ones with the personal ones frozen.

    Args:
        head_epochs: passes over the client's samples for the personal layers, at least 1; the recipe's `epochs` are
            for the shared ones, 1 in the source.

    Raises:
        RecipeError: if a number is out of range.
    """

    head_epochs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_epochs < 1:
            raise RecipeError(f"`head_epochs` must be at least 1; got {self.head_epochs}", "head_epochs = 10")

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Fit the head, then the body."""
        shared, own = self.places(local.layout)
        share = self.head_epochs / (self.head_epochs + local.settings.epochs)
        start = self.start(memory, given, local)
        head = yield local.work(start, epochs=self.head_epochs, purpose="head", moves=own, share=share)
        trained = yield local.work(head.parameters, moves=shared, share=1 - share)
        return Outcome(
            {"layers": taken(trained.parameters, own)},
            {"update": given["shared"] - taken(trained.parameters, shared)},
            {},
        )


EXAMPLES = (FedRep(), FedRep(("0.bias", "2"), head_epochs=1))
