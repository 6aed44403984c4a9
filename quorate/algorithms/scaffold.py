"""SCAFFOLD: local steps corrected by how the client's gradients differ from everybody's.

Source: Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, "SCAFFOLD: stochastic controlled averaging for federated
learning", ICML 2020, algorithm 1, option II. Twice the bytes of federated averaging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quorate.algorithms import Averaging, Combined, Outcome, Work
from quorate.federated.local import Local, LocalSettings, plain_lr
from quorate.flat import Layout
from quorate.trees import Tree, leaf


@dataclass(frozen=True)
class Scaffold(Averaging):
    """Step by gradient - c_i + c, where c_i is the control of client i and c the server's, the mean of all c_i.

    Args:
        weighted: whether a client counts by its samples, in the model and in c; False, as in the source: all alike.
            How much all clients weigh is then taken from those that have replied so far.
    """

    weighted: bool = False

    def check(self, settings: LocalSettings, layout: Layout | None) -> None:
        """Refuse steps from which the mean gradient can't be told."""
        plain_lr(settings.optimizer)

    def init(self, parameters: Tensor) -> Tree:
        """Begin with a control of 0; `weight` is that of the `clients` that have replied so far."""
        none = torch.zeros(1, dtype=torch.float64)
        return {"control": torch.zeros_like(parameters), "clients": none, "weight": none.clone()}

    def broadcast(self, parameters: Tensor, state: Tree, layout: Layout) -> Mapping[str, Tensor]:
        """Send the parameters x and the control c."""
        return {"parameters": parameters, "control": leaf(state, "control")}

    def says(self, parameters: Tensor, layout: Layout) -> Mapping[str, Tensor]:
        """Say the difference of the parameters, and that of the client's control."""
        return {"update": parameters, "control": parameters}

    def tells(self) -> Sequence[str]:
        """Tell whether it is the client's first reply."""
        return ("first",)

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Train from x with corrected gradients; then c_i+ = c_i - c + (x - y_i) / (K lr)."""
        x, c = given["parameters"], given["control"]
        own = leaf(memory, "control") if memory else torch.zeros_like(c)
        trained = yield local.work(x, shift=c - own)
        update, way = x - trained.parameters, trained.steps * local.lr
        change = update / way - c if way else torch.zeros_like(c)
        return Outcome({"control": own + change}, {"update": update, "control": change}, {"first": float(not memory)})

    def weights(self, numbers: Sequence[Mapping[str, float]]) -> Sequence[float]:
        """Count all clients alike, or by samples."""
        return [each["samples"] if self.weighted else 1.0 for each in numbers]

    def server(self, parameters: Tensor, state: Tree, combined: Combined, layout: Layout) -> tuple[Tensor, Tree]:
        """Step by the mean of the differences; the control moves by that of the controls times |S| / N."""
        counts = self.weights(combined.numbers)
        first = [each["first"] for each in combined.numbers]
        before, weight = float(leaf(state, "clients")), float(leaf(state, "weight"))
        clients = before + sum(first)
        after = weight + sum(count * new for count, new in zip(counts, first, strict=True))
        all_before, all_after = _of_all(weight, before, combined), _of_all(after, clients, combined)
        share = sum(counts) / all_after if all_after else 0.0
        kept = all_before / all_after if all_after else 1.0
        control = leaf(state, "control") * kept + share * combined.updates["control"]
        known = {"clients": torch.tensor([clients]).double(), "weight": torch.tensor([after]).double()}
        return combined.updates["update"], {"control": control, **known}


def _of_all(weight: float, clients: float, combined: Combined) -> float:
    """Return what all clients weigh, if the others are like those known."""
    return weight / clients * combined.clients if clients else 0.0


EXAMPLES = (Scaffold(), Scaffold(weighted=True))
