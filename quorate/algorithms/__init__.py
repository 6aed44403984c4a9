"""Federated algorithms: what clients do with what they are sent, and what the server makes of their replies.

An algorithm is a frozen dataclass in a file of its name: `algorithms/fed_prox.py` holds `FedProx`. `client` is a
generator: it yields local work, is given what came of it, as often as it likes, and returns. Thus the engine may train
many clients together. It depends on nothing but its arguments.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from math import inf
from typing import NamedTuple, Protocol

from torch import Tensor

from quorate.errors import RecipeError
from quorate.federated.local import Local, LocalSettings, LocalWork, Trained
from quorate.flat import Layout
from quorate.trees import Tree


class Outcome(NamedTuple):
    """What a client has come to.

    Args:
        memory: what it keeps until it is asked again; nobody else sees it.
        updates: (d,) or shorter tensors by name, as `says` declares, each of which goes through the codecs.
        numbers: more to tell the server, e.g. how many steps count.
    """

    memory: Tree
    updates: Mapping[str, Tensor]
    numbers: Mapping[str, float]


Work = Generator[LocalWork, Trained, Outcome]


class Combined(NamedTuple):
    """What the server has of a round's accepted replies.

    Args:
        updates: what the aggregator made of the updates, by name.
        weights: (m,), each reply's share, which sum to 1.
        numbers: of each reply.
        clients: how many there are, asked or not.
    """

    updates: Mapping[str, Tensor]
    weights: Sequence[float]
    numbers: Sequence[Mapping[str, float]]
    clients: int


class Algorithm(Protocol):
    """Both halves of a federated algorithm."""

    def check(self, settings: LocalSettings, layout: Layout | None) -> None:
        """Refuse clients' settings, or, where it is known, a model, that the algorithm makes no sense with.

        Raises:
            RecipeError: with what would make sense.
        """

    def init(self, parameters: Tensor) -> Tree:
        """Return what the server keeps besides parameters like these, (d,), before the first round."""

    def broadcast(self, parameters: Tensor, state: Tree, layout: Layout) -> Mapping[str, Tensor]:
        """Return what clients are sent, by name."""

    def says(self, parameters: Tensor, layout: Layout) -> Mapping[str, Tensor]:
        """Return tensors of the shapes and dtypes of the updates that clients say, by name."""

    def tells(self) -> Sequence[str]:
        """Return the names of the numbers, finite and not negative, that the server needs besides every client's."""

    def client(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Work:
        """Take part in a round.

        Args:
            memory: what the last `Outcome` that was accepted has left; {} at first.
            given: what `broadcast` has returned, as decoded; only read.
        """

    def weights(self, numbers: Sequence[Mapping[str, float]]) -> Sequence[float]:
        """Return what each reply counts, not negative; they are divided by their sum."""

    def server(self, parameters: Tensor, state: Tree, combined: Combined, layout: Layout) -> tuple[Tensor, Tree]:
        """Return the pseudo-gradient (d,) that the outer optimizer steps with, and the state; nothing is written to."""

    def personal(self, parameters: Tensor, memory: Tree, layout: Layout) -> Tensor:
        """Return the parameters (d,) that one client uses: the server's, or its own."""


class Averaging:
    """What most algorithms have in common: the parameters go out, and differences come back and are averaged."""

    def check(self, settings: LocalSettings, layout: Layout | None) -> None:
        """Take any."""

    def init(self, parameters: Tensor) -> Tree:
        """Keep nothing."""
        return {}

    def broadcast(self, parameters: Tensor, state: Tree, layout: Layout) -> Mapping[str, Tensor]:
        """Send the parameters."""
        return {"parameters": parameters}

    def says(self, parameters: Tensor, layout: Layout) -> Mapping[str, Tensor]:
        """Say one difference."""
        return {"update": parameters}

    def tells(self) -> Sequence[str]:
        """Need no further number."""
        return ()

    def weights(self, numbers: Sequence[Mapping[str, float]]) -> Sequence[float]:
        """Count a client by its samples."""
        return [each["samples"] for each in numbers]

    def server(self, parameters: Tensor, state: Tree, combined: Combined, layout: Layout) -> tuple[Tensor, Tree]:
        """Step by the mean of the differences."""
        return combined.updates["update"], state

    def personal(self, parameters: Tensor, memory: Tree, layout: Layout) -> Tensor:
        """Use the server's."""
        return parameters


def require_not_negative(name: str, value: float, example: float) -> None:
    """Raise RecipeError if a setting is negative, or not finite."""
    if not 0 <= value < inf:
        raise RecipeError(f"`{name}` must be finite and not negative; got {value}", f"{name} = {example:g}")
