"""Ditto: federated averaging, and besides a model of each client's own that is pulled to everybody's.

Source: Li, Hu, Beirami and Smith, "Ditto: fair and robust federated learning through personalization", ICML 2021,
algorithm 1. A client's own model begins as the first one that it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from quorate.algorithms import Averaging, Outcome, Work, require_not_negative
from quorate.errors import RecipeError
from quorate.federated.local import Local
from quorate.flat import Layout
from quorate.trees import Tree, leaf


@dataclass(frozen=True)
class Ditto(Averaging):
    """Minimise the client's loss + pull / 2 ||v - server's parameters||^2 over its own v, which nobody else sees.

    Args:
        pull: lambda of the source; 0: a client's own model learns from its samples only.
        personal_epochs: passes over the samples for the client's own model; None: as many as for the server's.

    Raises:
        RecipeError: if a number is out of range.
    """

    pull: float = 0.1
    personal_epochs: int | None = None

    def __post_init__(self) -> None:
        require_not_negative("pull", self.pull, 0.1)
        if self.personal_epochs is not None and self.personal_epochs < 1:
            raise RecipeError(
                f"`personal_epochs` must be at least 1; got {self.personal_epochs}", "personal_epochs = 1"
            )

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Train for the server, then for oneself; what is told of loss and steps is about the former."""
        start = given["parameters"]
        own = leaf(memory, "personal") if memory else start
        epochs = local.settings.epochs
        share = epochs / (epochs + (self.personal_epochs or epochs))
        trained = yield local.work(start, share=share)
        mine = yield local.work(
            own,
            epochs=self.personal_epochs,
            purpose="personal",
            proximal=self.pull,
            anchor=start,
            share=1 - share,
        )
        return Outcome(
            {"personal": mine.parameters},
            {"update": start - trained.parameters},
            {"loss": trained.loss, "steps": float(trained.steps)},
        )

    def personal(self, parameters: Tensor, memory: Tree, layout: Layout) -> Tensor:
        """Use the client's own model, if it has one."""
        return leaf(memory, "personal") if memory else parameters


EXAMPLES = (Ditto(), Ditto(pull=0.0, personal_epochs=2))
