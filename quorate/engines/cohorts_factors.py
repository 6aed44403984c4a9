"""Few local steps of many clients through a stack of linear layers, without weights of their own.

As long as a client has seen fewer samples than a layer is wide, its weights are those that all began with, less
lr D^T H: the slopes D times the inputs H of its rows so far. So the products with the weights are common to all
clients, and what differs goes through products of a client's rows with one another. It is exact but for rounding. The
changes are not multiplied out unless somebody needs them, and the sum over all clients is one product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quorate.engines.cohorts_layers import Activation, Dense, Stack
from quorate.engines.cohorts_losses import Losses
from quorate.engines.cohorts_products import plus_product, times
from quorate.engines.cohorts_steps import Motion, Steps, taken
from quorate.tasks import Data


def few(stack: Stack, rows: int) -> bool:
    """Return whether so many rows a client are few enough for this form to pay."""
    sides = sum(sum(layer.weight.shape) for layer in stack.layers)
    return rows <= 64 and rows * sides <= sum(layer.weight.shape.numel() for layer in stack.layers)


class Factors:
    """What clients have come to that started from the same parameters; see `quorate.federated.unfolded.Changes`.

    Args:
        stack: the model.
        start: (d,), of all.
        count: of clients, n.
        motion: plain.
    """

    def __init__(self, stack: Stack, start: Tensor, count: int, motion: Motion) -> None:
        self.start, self.count = start, count
        self._stack, self._motion = stack, motion
        self._slopes: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._squares: Tensor | None = None

    @property
    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """The slopes (n, T b, o), times -lr, and the inputs (n, T b, i) of each layer."""
        return self._slopes, self._inputs

    @tensors.setter
    def tensors(self, tensors: tuple[list[Tensor], list[Tensor]]) -> None:
        self._slopes, self._inputs = tensors

    def _rows(self, steps: Steps, width: int) -> Tensor:
        """Return memory of that width for each row of each client, 0 where a client has fewer steps than others."""
        n, count, b = steps.index.shape
        full = steps.active[-1] == n
        return (self.start.new_empty if full else self.start.new_zeros)(n, count * b, width)

    def run(self, steps: Steps, data: Data, losses: Losses) -> Tensor:
        """Do all steps of the clients, and return the losses (n, T), 0 where there was none."""
        layers = self._stack.layers
        self._slopes = slopes = [self._rows(steps, layer.width) for layer in layers]
        n, count, b = steps.index.shape
        scale = steps.scale(self.start.dtype)
        history = scale.new_zeros(n, count)
        x, y = taken(data, steps.index.flatten(1))
        x = self._stack.inputs(x)
        self._inputs = [x, *(self._rows(steps, layer.width) for layer in layers[:-1])]
        ahead = self._from_start(layers[0], x)
        for step in range(count):
            m, here, before = steps.active[step], slice(step * b, step * b + b), slice(0, step * b)
            z = self._corrected(0, ahead[:m, here], x[:m, here], before)
            kept = [Activation(layers[0].after, z)]
            for place in range(1, len(layers)):
                given = kept[-1].value
                self._inputs[place][:m, here] = given
                z = self._corrected(place, self._from_start(layers[place], given), given, before)
                kept.append(Activation(layers[place].after, z))
            sizes = [each[step] for each in steps.sizes[:m]]
            history[:m, step], slope = losses(kept[-1].value, y[:m, here], sizes, scale[:m, step])
            for place in reversed(range(len(layers))):
                slope = kept[place].back(slope)
                slopes[place][:m, here] = slope
                if place:
                    slope = self._below(place, slope, before)
        for each in slopes:
            each *= -self._motion.lr
        return history

    def _from_start(self, layer: Dense, x: Tensor) -> Tensor:
        bias = None if layer.bias is None else layer.bias.of(self.start)
        return times(x.reshape(-1, x.shape[-1]), layer.weight.of(self.start), bias).view(*x.shape[:2], -1)

    def _corrected(self, place: int, z: Tensor, x: Tensor, before: slice) -> Tensor:
        """Add to a layer's outputs z (m, b, o) of inputs x what the rows before have changed."""
        layer, m = self._stack.layers[place], len(z)
        if before.stop == 0:
            return z
        if self._motion.moving(layer.weight):
            gram = torch.bmm(x, self._inputs[place][:m, before].mT)
        else:
            gram = x.new_zeros(m, x.shape[1], before.stop)
        if layer.bias is not None and self._motion.moving(layer.bias):
            gram += 1
        return torch.baddbmm(z, gram, self._slopes[place][:m, before], alpha=-self._motion.lr)

    def _below(self, place: int, slope: Tensor, before: slice) -> Tensor:
        """Return the slope (m, b, i) by a layer's inputs."""
        weight, m = self._stack.layers[place].weight, len(slope)
        below = times(slope.reshape(-1, slope.shape[-1]), weight.of(self.start).T).view(*slope.shape[:2], -1)
        if before.stop == 0 or not self._motion.moving(weight):
            return below
        gram = torch.bmm(slope, self._slopes[place][:m, before].mT)
        return below.baddbmm_(gram, self._inputs[place][:m, before], alpha=-self._motion.lr)

    def parameters(self, client: int) -> Tensor:
        """Return a client's parameters (d,) in memory of their own."""
        flat = self.start.clone()
        self._add(flat, [each[client] for each in self._slopes], [each[client] for each in self._inputs])
        return flat

    def add(self, total: Tensor, weights: Sequence[float]) -> None:
        """Add the clients' changes, each times its weight, to a total (d,), in place."""
        members = [client for client, weight in enumerate(weights) if weight]  # the others may hold NaN
        factors = torch.tensor([weights[client] for client in members], dtype=total.dtype).view(-1, 1, 1)
        slopes, inputs = self._slopes, self._inputs
        if len(members) < self.count:
            slopes, inputs = ([each[members] for each in both] for both in (slopes, inputs))
        rows = [(each * factors).flatten(0, 1) for each in slopes]
        self._add(total, rows, [each.flatten(0, 1) for each in inputs])

    def _add(self, flat: Tensor, slopes: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        for layer, slope, given in zip(self._stack.layers, slopes, inputs, strict=True):
            if self._motion.moving(layer.weight):
                view = layer.weight.of(flat)
                view.copy_(plus_product(view, slope, given))
            if layer.bias is not None and self._motion.moving(layer.bias):
                layer.bias.of(flat).add_(slope.sum(0))

    def squares(self) -> Tensor:
        """Return the squared length of each client's change, (n,)."""
        if self._squares is None:
            self._squares = total = self.start.new_zeros(self.count)
            for layer, slopes, given in zip(self._stack.layers, self._slopes, self._inputs, strict=True):
                if self._motion.moving(layer.weight):
                    products = torch.bmm(slopes, slopes.mT).mul_(torch.bmm(given, given.mT))
                    total += products.sum((1, 2)).clamp_min_(0)
                if layer.bias is not None and self._motion.moving(layer.bias):
                    total += slopes.sum(1).square().sum(1)
        return self._squares
