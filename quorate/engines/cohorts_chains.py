"""Local steps of one client through a sequence of convolutions, poolings and linear layers, written out by hand.

The update is fused into the product that makes a linear layer's gradient, images lie channels last, and the products of
large layers with few rows go to oneDNN. Batching clients by grouped convolutions gains nothing more on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from quorate.engines.cohorts_layers import Activation, Part, parts_of
from quorate.engines.cohorts_losses import Losses
from quorate.engines.cohorts_products import times
from quorate.engines.cohorts_steps import Motion
from quorate.engines.stacks import ELEMENTWISE, is_hooked
from quorate.federated.local import LocalWork
from quorate.flat import Layout
from quorate.gradient import Objective
from quorate.tasks import Data

_WITHOUT_PARAMETERS = (*ELEMENTWISE, nn.Flatten, nn.Unflatten, nn.Identity, nn.MaxPool2d, nn.AvgPool2d)


class _Layer(Protocol):
    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, and remember what `back` needs."""

    def back(self, slope: Tensor, needed: bool) -> Tensor:
        """Move the parameters by the slope by the outputs; return that by the inputs if it is needed, else anything."""


@dataclass(frozen=True)
class Chain:
    """A sequence of layers.

    Args:
        modules: each with the prefix of its parameters' names.
        parts: where the parameters lie.
    """

    modules: tuple[tuple[str, nn.Module], ...]
    parts: dict[str, Part]

    def train(self, work: LocalWork, motion: Motion, data: Data, losses: Losses) -> tuple[Tensor, list[float]]:
        """Do one client's steps.

        Returns:
            Its parameters (d,), in memory of their own, and the loss of each step, up to one that is not finite.
        """
        flat, history = work.start.clone(), list[float]()
        layers = list(self._layers(flat, motion))
        lowest = next(place for place, (name, _) in enumerate(self.modules) if f"{name}weight" in self.parts)
        for batch in work.batches:
            x, size = data.x[batch.indices], batch.size
            for layer in layers:
                x = layer.forward(x)
            scale = x.new_full((1, size), 1 / size)
            loss, slopes = losses(x.unsqueeze(0), data.y[batch.indices].unsqueeze(0), [size], scale)
            history.append(loss.item() + (motion.l2 / 2 * float(flat.square().sum()) if motion.l2 else 0.0))
            if not isfinite(history[-1]):
                break
            slope = slopes[0]
            for place in reversed(range(lowest, len(layers))):
                slope = layers[place].back(slope, place > lowest)
        return flat, history

    def _layers(self, flat: Tensor, motion: Motion) -> Iterator[_Layer]:
        for name, module in self.modules:
            if isinstance(module, nn.Linear | nn.Conv2d):
                weight = _Moved(self.parts[f"{name}weight"], flat, motion)
                bias = _Moved(self.parts[f"{name}bias"], flat, motion) if module.bias is not None else None
                yield _Linear(weight, bias) if isinstance(module, nn.Linear) else _Conv(module, weight, bias)
            elif isinstance(module, nn.MaxPool2d):
                yield _MaxPool(module)
            elif isinstance(module, ELEMENTWISE):
                yield _Elementwise(module)
            else:
                yield _Other(module)


class _Moved:
    """A parameter of one client."""

    def __init__(self, part: Part, flat: Tensor, motion: Motion) -> None:
        self.value = part.of(flat)
        self._motion, self._moves = motion, motion.moving(part)
        self._pull = None if motion.pull is None else part.of(motion.pull[0])

    def by(self, gradient: Tensor) -> None:
        """Move by a gradient of its shape."""
        if not self._moves:
            return
        if self._motion.shrink != 1:
            self.value *= self._motion.shrink
        self.value.add_(gradient, alpha=-self._motion.lr)
        if self._pull is not None:
            self.value += self._pull

    def by_product(self, left: Tensor, right: Tensor) -> None:
        """Move by left^T right, which is never written down."""
        if not self._moves:
            return
        self.value.addmm_(left.T, right, beta=self._motion.shrink, alpha=-self._motion.lr)
        if self._pull is not None:
            self.value += self._pull


class _Linear:
    def __init__(self, weight: _Moved, bias: _Moved | None) -> None:
        self._weight, self._bias = weight, bias
        self._given = weight.value

    def forward(self, x: Tensor) -> Tensor:
        self._given = x
        return times(x, self._weight.value, None if self._bias is None else self._bias.value)

    def back(self, slope: Tensor, needed: bool) -> Tensor:
        below = times(slope, self._weight.value.T) if needed else slope
        self._weight.by_product(slope, self._given)
        if self._bias is not None:
            self._bias.by(slope.sum(0))
        return below


class _Conv:
    def __init__(self, module: nn.Conv2d, weight: _Moved, bias: _Moved | None) -> None:
        self._weight, self._bias = weight, bias
        self._given = weight.value
        self._stride: Any = module.stride
        self._padding: Any = module.padding
        self._dilation: Any = module.dilation
        self._groups = module.groups

    def forward(self, x: Tensor) -> Tensor:
        self._given = x = _channels_last(x)
        bias = None if self._bias is None else self._bias.value
        how = (self._stride, self._padding, self._dilation, self._groups)
        return torch.conv2d(x, self._weight.value, bias, *how)

    def back(self, slope: Tensor, needed: bool) -> Tensor:
        weight, bias = self._weight.value, self._bias
        wanted = [needed, True, bias is not None]
        below, by_weight, by_bias = torch.ops.aten.convolution_backward(
            slope,
            self._given,
            weight,
            [len(weight)],
            self._stride,
            self._padding,
            self._dilation,
            False,
            [0, 0],
            self._groups,
            wanted,
        )
        self._weight.by(by_weight)
        if bias is not None:
            bias.by(by_bias)
        return below if needed else slope


def _channels_last(x: Tensor) -> Tensor:
    """Return images (b, c, h, w) channels last; those of one channel too, of which torch can't tell, are marked so."""
    _, c, h, w = x.shape
    if c > 1:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))


class _MaxPool:
    def __init__(self, module: nn.MaxPool2d) -> None:
        self._how: Any = tuple(
            [each, each] if isinstance(each, int) else list(each)
            for each in (module.kernel_size, module.stride, module.padding, module.dilation)
        )
        self._up = module.ceil_mode
        self._given: Tensor
        self._chosen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self._given = x
        value: Tensor
        value, self._chosen = torch.ops.aten.max_pool2d_with_indices(x, *self._how, self._up)
        return value

    def back(self, slope: Tensor, needed: bool) -> Tensor:
        given = (slope, self._given, *self._how, self._up, self._chosen)
        below: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(*given)
        return below


class _Elementwise:
    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._active: Activation

    def forward(self, x: Tensor) -> Tensor:
        self._active = Activation((self._module,), x)
        return self._active.value

    def back(self, slope: Tensor, needed: bool) -> Tensor:
        return self._active.back(slope)


class _Other:
    """A layer without parameters, by autograd."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._given: Tensor
        self._value: Tensor

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            self._given = x.detach().requires_grad_()
            self._value = self._module(self._given)
        return self._value.detach()

    def back(self, slope: Tensor, needed: bool) -> Tensor:
        (below,) = torch.autograd.grad(self._value, self._given, slope)
        return below


def chain_of(objective: Objective, layout: Layout) -> Chain | None:
    """Return a model as a sequence of layers; None if it is none that is known."""
    modules = list(_leaves(objective.model, "model."))
    if any(is_hooked(module) for module in objective.modules()) or not all(_known(module) for _, module in modules):
        return None
    own = [parameter for _, module in modules for parameter in module.parameters()]
    every = list(objective.parameters())
    if not own or len({id(each) for each in own}) != len(own) or len(every) != len(own):
        return None
    if len({id(module) for _, module in modules}) != len(modules) or not all(each.requires_grad for each in every):
        return None
    return Chain(tuple(modules), parts_of(layout))


def _leaves(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    if type(module) is nn.Sequential:
        for name, child in module.named_children():
            yield from _leaves(child, f"{prefix}{name}.")
    else:
        yield prefix, module


def _known(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if type(module) is nn.MaxPool2d and module.return_indices:
        return False
    known: Sequence[type] = (nn.Linear, *_WITHOUT_PARAMETERS)
    return type(module) in known and not getattr(module, "inplace", False)
