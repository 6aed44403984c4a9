"""All parameters of a model as one tensor of shape (d,), and where each parameter lies in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quorate.errors import RecipeError


@dataclass(frozen=True)
class Layout:
    """Names, shapes and places of a model's parameters in a flat tensor, in the order of `named_parameters`.

    Args:
        places: (name, shape, offset) per parameter.
        numel: d, the number of entries of the flat tensor.
        dtype: of all parameters.
    """

    places: tuple[tuple[str, torch.Size, int], ...]
    numel: int
    dtype: torch.dtype

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """Lay out a module's trainable parameters; one that is shared within the model has one place.

        Raises:
            RecipeError: if there are none, or they differ in dtype.
        """
        places, offset, dtypes = [], 0, set()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                places.append((name, parameter.shape, offset))
                dtypes.add(parameter.dtype)
                offset += parameter.numel()
        if not places:
            raise RecipeError("the model has no trainable parameter")
        if len(dtypes) > 1:
            raise RecipeError(
                f"the model's parameters must have one dtype, but have {', '.join(sorted(map(str, dtypes)))}",
                "convert the model, e.g. by `model.float()`",
            )
        return cls(tuple(places), offset, dtypes.pop())

    def between(self, start: int, stop: int) -> Layout:
        """Return the layout of the entries from `start` on, before `stop`.

        A parameter that is cut has the shape (n,) of the entries that are left, and the name "name[a:b]", which says
        which of its own entries these are.
        """
        places = []
        for name, shape, offset in self.places:
            first, last = max(start, offset), min(stop, offset + shape.numel())
            if first >= last:
                continue
            if last - first < shape.numel():
                name, shape = f"{name}[{first - offset}:{last - offset}]", torch.Size([last - first])
            places.append((name, shape, first - start))
        return Layout(tuple(places), stop - start, self.dtype)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of a flat tensor (d,), by parameter name, in the parameters' shapes."""
        return {name: flat[offset : offset + shape.numel()].view(shape) for name, shape, offset in self.places}

    def flatten(self, module: nn.Module) -> Tensor:
        """Copy a module's parameters into a new flat tensor (d,)."""
        named = dict(module.named_parameters())
        return torch.cat([named[name].detach().reshape(-1) for name, _, _ in self.places])

    def adopt(self, module: nn.Module, flat: Tensor) -> None:
        """Make a module's parameters views of a flat tensor (d,): writing to one writes to the other."""
        named = dict(module.named_parameters())
        for name, view in self.views(flat).items():
            named[name].data = view
