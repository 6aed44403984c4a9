"""Some layers stay with each client, the others are everybody's: only of those is there anything to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quorate.algorithms import Averaging, Combined
from quorate.errors import RecipeError, suggestion
from quorate.federated.local import Local, LocalSettings
from quorate.flat import Layout
from quorate.trees import Tree, leaf

Places = tuple[slice, ...]


@dataclass(frozen=True)
class PersonalLayers(Averaging):
    """Broadcast the shared layers, and average what has become of them.

    Args:
        personal_layers: prefixes of the names of parameters that stay at home, e.g. ["2"] for "2.weight" and "2.bias";
            None: the last layer.

    Raises:
        RecipeError: if none is named.
    """

    personal_layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.personal_layers is not None and not self.personal_layers:
            raise RecipeError(
                "`personal_layers` names no layer, so that all are shared", 'name = "fed_avg" in [algorithm]'
            )

    def check(self, settings: LocalSettings, layout: Layout | None) -> None:
        """Refuse names that the model lacks, and to keep all of it at home."""
        if layout is not None:
            self.places(layout)

    def places(self, layout: Layout) -> tuple[Places, Places]:
        """Return where in (d,) the shared parameters are, and where the personal ones.

        Raises:
            RecipeError: if a name is of no parameter, or nothing would be shared.
        """
        names = [name.removeprefix("model.") for name, _, _ in layout.places]
        wanted = self.personal_layers or (names[-1].rpartition(".")[0] or names[-1],)
        for prefix in wanted:
            if not any(_within(name, prefix) for name in names):
                prefixes = {name.rsplit(".", cut)[0] for name in names for cut in range(name.count(".") + 1)}
                raise RecipeError(f"`personal_layers`: the model has no `{prefix}`", suggestion(prefix, prefixes))
        shared, personal = list[slice](), list[slice]()
        for name, (_, shape, offset) in zip(names, layout.places, strict=True):
            mine = personal if any(_within(name, prefix) for prefix in wanted) else shared
            if mine and mine[-1].stop == offset:
                mine[-1] = slice(mine[-1].start, offset + shape.numel())
            else:
                mine.append(slice(offset, offset + shape.numel()))
        if not shared:
            raise RecipeError(
                f"`personal_layers` ({', '.join(wanted)}) are all that the model has, so that nothing is shared",
                'name = "local_only" in [algorithm]',
            )
        return tuple(shared), tuple(personal)

    def broadcast(self, parameters: Tensor, state: Tree, layout: Layout) -> Mapping[str, Tensor]:
        """Send the shared layers."""
        return {"shared": taken(parameters, self.places(layout)[0])}

    def says(self, parameters: Tensor, layout: Layout) -> Mapping[str, Tensor]:
        """Say how the shared layers have changed."""
        return {"update": taken(parameters, self.places(layout)[0])}

    def server(self, parameters: Tensor, state: Tree, combined: Combined, layout: Layout) -> tuple[Tensor, Tree]:
        """Step by the mean of the differences; the server's own personal layers stay as they were at first."""
        return put(torch.zeros_like(parameters), self.places(layout)[0], combined.updates["update"]), state

    def personal(self, parameters: Tensor, memory: Tree, layout: Layout) -> Tensor:
        """Use the server's shared layers, and the client's own."""
        if not memory:
            return parameters
        return put(parameters.clone(), self.places(layout)[1], leaf(memory, "layers"))

    def start(self, memory: Tree, given: Mapping[str, Tensor], local: Local) -> Tensor:
        """Return the parameters (d,) that a client begins a round with."""
        return self.personal(
            put(local.initial.clone(), self.places(local.layout)[0], given["shared"]), memory, local.layout
        )


def taken(parameters: Tensor, places: Places) -> Tensor:
    """Return the entries of (d,) at some places, copied into one tensor."""
    return torch.cat([parameters[place] for place in places])


def put(parameters: Tensor, places: Places, values: Tensor) -> Tensor:
    """Write values to places of (d,), in place."""
    for place, part in zip(places, values.split([place.stop - place.start for place in places]), strict=True):
        parameters[place] = part
    return parameters


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
