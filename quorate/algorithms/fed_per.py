"""FedPer: everybody's body, each client's own last layers, trained together.

Source: Arivazhagan, Aggarwal, Singh and Choudhary, "Federated learning with personalization layers", arXiv 1912.00818,
2019, algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from quorate.algorithms import Outcome, Work
from quorate.algorithms._layers import PersonalLayers, taken
from quorate.federated.local import Local
from quorate.trees import Tree


@dataclass(frozen=True)
class FedPer(PersonalLayers):
    """Train all layers, and say what has become of the shared ones."""

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Train from the server's body and one's own last layers."""
        shared, own = self.places(local.layout)
        trained = yield local.work(self.start(memory, given, local))
        return Outcome(
            {"layers": taken(trained.parameters, own)},
            {"update": given["shared"] - taken(trained.parameters, shared)},
            {},
        )


EXAMPLES = (FedPer(), FedPer(("0.bias", "2")))
