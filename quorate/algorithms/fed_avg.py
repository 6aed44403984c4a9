"""Federated averaging: clients train for themselves, and the server averages what they have come to.

With an outer optimizer it is FedAvgM (`momentum`), FedAdam, FedYogi or FedAdagrad.

Source: McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from quorate.algorithms import Averaging, Outcome, Work
from quorate.federated.local import Local
from quorate.trees import Tree


@dataclass(frozen=True)
class FedAvg(Averaging):
    """Say the parameters before the local steps minus those after them."""

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Train from the server's parameters."""
        trained = yield local.work(given["parameters"])
        return Outcome(memory, {"update": given["parameters"] - trained.parameters}, {})
