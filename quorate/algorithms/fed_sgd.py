"""Federated SGD: each client takes one gradient on all its samples; with everybody asked it is gradient descent.

Source: McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017, section 2 (FederatedSGD).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from quorate.algorithms import Averaging, Outcome, Work
from quorate.errors import RecipeError
from quorate.federated.local import Local, LocalSettings, plain_lr
from quorate.flat import Layout
from quorate.trees import Tree


@dataclass(frozen=True)
class FedSgd(Averaging):
    """Say the learning rate times the gradient on all samples of the client, whatever the recipe's `batch`."""

    def check(self, settings: LocalSettings, layout: Layout | None) -> None:
        """Refuse more than one step a round, and steps that are no gradients."""
        plain_lr(settings.optimizer)
        if settings.epochs != 1:
            raise RecipeError(
                f"`fed_sgd` takes one step on all samples a round; got epochs = {settings.epochs}",
                'epochs = 1, or name = "fed_avg" in [algorithm]',
            )

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Take one step from the server's parameters."""
        trained = yield local.work(given["parameters"], batch="full")
        return Outcome(memory, {"update": given["parameters"] - trained.parameters}, {})

    def weights(self, numbers: Sequence[Mapping[str, float]]) -> Sequence[float]:
        """Count a client by its samples; one that had no time for its step, not at all."""
        return [each["samples"] if each["steps"] else 0.0 for each in numbers]
