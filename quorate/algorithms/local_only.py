"""Local training: each client for itself, to be compared with; nothing travels, and the server's model stays as it was.

What comes of it are the clients' own models: measure those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quorate.algorithms import Averaging, Combined, Outcome, Work
from quorate.federated.local import Local
from quorate.flat import Layout
from quorate.trees import Tree, leaf


@dataclass(frozen=True)
class LocalOnly(Averaging):
    """Say nothing."""

    def broadcast(self, parameters: Tensor, state: Tree, layout: Layout) -> Mapping[str, Tensor]:
        """Send nothing."""
        return {}

    def says(self, parameters: Tensor, layout: Layout) -> Mapping[str, Tensor]:
        """Say nothing."""
        return {}

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Go on with one's own model."""
        trained = yield local.work(leaf(memory, "parameters") if memory else local.initial)
        return Outcome({"parameters": trained.parameters}, {}, {})

    def server(self, parameters: Tensor, state: Tree, combined: Combined, layout: Layout) -> tuple[Tensor, Tree]:
        """Stay."""
        return torch.zeros_like(parameters), state

    def personal(self, parameters: Tensor, memory: Tree, layout: Layout) -> Tensor:
        """Use the client's own model, if it has one."""
        return leaf(memory, "parameters") if memory else parameters
