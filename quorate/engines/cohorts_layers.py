"""What a model is made of, as far as steps are written out by hand: its layers, and where their parameters lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quorate.engines.stacks import ELEMENTWISE, is_stack
from quorate.flat import Layout
from quorate.gradient import Objective


@dataclass(frozen=True)
class Part:
    """Where a parameter lies in a flat tensor (d,)."""

    offset: int
    shape: torch.Size

    @property
    def place(self) -> slice:
        """Its entries."""
        return slice(self.offset, self.offset + self.shape.numel())

    def of(self, flat: Tensor) -> Tensor:
        """Return its view of a flat tensor (..., d)."""
        return flat[..., self.place].view(*flat.shape[:-1], *self.shape)


@dataclass(frozen=True)
class Dense:
    """A linear layer and what is applied to each of its outputs.

    Args:
        weight: (o, i).
        bias: (o,), or None for none.
        after: elementwise functions without parameters, in order.
    """

    weight: Part
    bias: Part | None
    after: tuple[nn.Module, ...]

    @property
    def parts(self) -> list[Part]:
        """Its parameters."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def width(self) -> int:
        """How many outputs it has."""
        return self.weight.shape[0]


@dataclass(frozen=True)
class Stack:
    """A sequence of linear and elementwise layers on vectors.

    Args:
        before: elementwise functions of the inputs.
        layers: at least one.
    """

    before: tuple[nn.Module, ...]
    layers: tuple[Dense, ...]

    def inputs(self, x: Tensor) -> Tensor:
        """Return what the first layer is given of samples (n, k, ...): (n, k, features)."""
        x = x.reshape(*x.shape[:2], -1)
        for function in self.before:
            x = function(x)
        return x


def stack_of(objective: Objective, layout: Layout, sample: Tensor) -> Stack | None:
    """Return a model as a stack of linear layers; None if it is none.

    Args:
        sample: one sample's input.
    """
    if not is_stack(objective, sample):
        return None
    modules = list(objective.model.named_children()) if isinstance(objective.model, nn.Sequential) else []
    parts = parts_of(layout)
    before: list[nn.Module] = []
    layers: list[Dense] = []
    for name, module in modules or [("", objective.model)]:
        if isinstance(module, nn.Linear):
            layers.append(dense(parts, f"model.{name}." if name else "model.", ()))
        elif isinstance(module, ELEMENTWISE):
            if layers:
                last = layers[-1]
                layers[-1] = Dense(last.weight, last.bias, (*last.after, module))
            else:
                before.append(module)
    return Stack(tuple(before), tuple(layers))


def parts_of(layout: Layout) -> dict[str, Part]:
    """Return where all parameters lie, by name."""
    return {name: Part(offset, shape) for name, shape, offset in layout.places}


def dense(parts: Mapping[str, Part], prefix: str, after: tuple[nn.Module, ...]) -> Dense:
    """Return the linear layer whose parameters' names have a prefix."""
    return Dense(parts[f"{prefix}weight"], parts.get(f"{prefix}bias"), after)


class Activation:
    """Elementwise functions of one call, and their slope.

    Args:
        functions: in order.
        z: what they are applied to; it may be written to.
    """

    def __init__(self, functions: Sequence[nn.Module], z: Tensor) -> None:
        self._input: Tensor | None = None
        self._rectified = len(functions) == 1 and type(functions[0]) is nn.ReLU
        if self._rectified:
            self.value = z.relu_()
        elif not functions:
            self.value = z
        else:
            with torch.enable_grad():
                self._input = value = z.detach().requires_grad_()
                for function in functions:
                    value = function(value)
            self._graph, self.value = value, value.detach()

    def back(self, slope: Tensor) -> Tensor:
        """Return the slope by the inputs from that by the values."""
        if self._rectified:
            return torch.ops.aten.threshold_backward(slope, self.value, 0)  # type: ignore[no-any-return]
        if self._input is None:
            return slope
        return torch.autograd.grad(self._graph, self._input, slope)[0]
