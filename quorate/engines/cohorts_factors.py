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
from quorate.engines.cohorts_losses import Losses, Slopes
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
        self._moves = [motion.moving(layer.weight) for layer in stack.layers]
        self._shifts = [layer.bias is not None and motion.moving(layer.bias) for layer in stack.layers]
        self._slopes: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._squares = start.new_zeros(count)

    @property
    def tensors(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The slopes (n, T b, o), times -lr, and the inputs (n, T b, i) of each layer; and what `squares` returns."""
        return self._slopes, self._inputs, self._squares

    @tensors.setter
    def tensors(self, tensors: tuple[list[Tensor], list[Tensor], Tensor]) -> None:
        self._slopes, self._inputs, self._squares = tensors

    def _rows(self, steps: Steps, width: int) -> Tensor:
        """Return memory of that width for each row of each client, 0 where a client has fewer steps than others."""
        n, count, b = steps.index.shape
        full = steps.active[-1] == n
        return (self.start.new_empty if full else self.start.new_zeros)(n, count * b, width)

    def run(self, steps: Steps, data: Data, losses: Losses) -> Tensor:
        """Do all steps of the clients, and return the losses (n, T), 0 where there was none."""
        layers = self._stack.layers
        self._slopes = slopes = [self._rows(steps, layer.width) for layer in layers]
        _, count, b = steps.index.shape
        scale = steps.scale(self.start.dtype)
        x, y = taken(data, steps.index.flatten(1))
        x = self._stack.inputs(x)
        self._inputs = [x, *(self._rows(steps, layer.width) for layer in layers[:-1])]
        grams = _Grams(self._inputs, b, self._moves, self._shifts), _Grams(slopes, b)
        ahead = self._from_start(layers[0], x)
        later = Slopes(losses, y, steps.sizes, scale)
        for step in range(count):
            m, here = steps.active[step], slice(step * b, step * b + b)
            z = self._corrected(0, ahead[:m, here], grams[0].before(0, m, step))
            kept = [Activation(layers[0].after, z)]
            for place in range(1, len(layers)):
                given = kept[-1].value
                self._inputs[place][:m, here] = given
                z = self._corrected(place, self._from_start(layers[place], given), grams[0].before(place, m, step))
                kept.append(Activation(layers[place].after, z))
            slope = later.of(step, kept[-1].value)
            for place in reversed(range(len(layers))):
                slope = kept[place].back(slope)
                slopes[place][:m, here] = slope
                gram = grams[1].before(place, m, step)
                if place:
                    slope = self._below(place, slope, gram)
        for each in slopes:
            each *= -self._motion.lr
        self._squares = grams[0].dot(grams[1]).mul_(self._motion.lr**2)
        return later.values()

    def _from_start(self, layer: Dense, x: Tensor) -> Tensor:
        bias = None if layer.bias is None else layer.bias.of(self.start)
        return times(x.reshape(-1, x.shape[-1]), layer.weight.of(self.start), bias).view(*x.shape[:2], -1)

    def _corrected(self, place: int, z: Tensor, gram: Tensor) -> Tensor:
        """Add to a layer's outputs z (m, b, o) what the rows before have changed, of which `gram` (m, b, k) tells."""
        m, _, k = gram.shape
        if k == 0:
            return z
        return torch.baddbmm(z, gram, self._slopes[place][:m, :k], alpha=-self._motion.lr)

    def _below(self, place: int, slope: Tensor, gram: Tensor) -> Tensor:
        """Return the slope (m, b, i) by a layer's inputs."""
        weight, (m, _, k) = self._stack.layers[place].weight, gram.shape
        below = times(slope.reshape(-1, slope.shape[-1]), weight.of(self.start).T).view(*slope.shape[:2], -1)
        if k == 0 or not self._moves[place]:
            return below
        return below.baddbmm_(gram, self._inputs[place][:m, :k], alpha=-self._motion.lr)

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
        return self._squares


class _Grams:
    """Products of each client's rows with one another and with those before, step by step; of each layer.

    Args:
        rows: (n, T b, width) of each layer, which are filled from step to step.
        b: rows of a step.
        moves: whether a layer's weights move; if not, its products count for nothing.
        shifts: whether its bias moves, which is a weight whose input is always 1.
    """

    def __init__(
        self, rows: Sequence[Tensor], b: int, moves: Sequence[bool] | None = None, shifts: Sequence[bool] | None = None
    ) -> None:
        self._rows, self._b = rows, b
        self._moves, self._shifts = moves or [True] * len(rows), shifts or [False] * len(rows)
        self._grams = [each.new_zeros(*each.shape[:2], each.shape[1]) for each in rows]

    def before(self, place: int, m: int, step: int) -> Tensor:
        """Take the rows of a step's first m clients, and return their products with the rows before, (m, b, step b)."""
        start, stop = step * self._b, step * self._b + self._b
        rows, gram = self._rows[place][:m], self._grams[place][:m, start:stop]
        if self._moves[place]:
            gram[..., :stop] = torch.bmm(rows[:, start:stop], rows[:, :stop].mT)
        if self._shifts[place]:
            gram[..., :stop] += 1
        return gram[..., :start]

    def dot(self, others: _Grams) -> Tensor:
        """Return the products with others of the same rows, summed over all rows, those after too, and layers: (n,)."""
        n, k, _ = self._grams[0].shape
        steps = torch.arange(k) // self._b
        counts = (steps.unsqueeze(1) > steps).to(self._grams[0].dtype).add_(1)  # 2 for what stands for those after too
        total = self._grams[0].new_zeros(n)
        for one, other in zip(self._grams, others._grams, strict=True):
            total += torch.mul(one, other).flatten(1) @ counts.flatten()
        return total.clamp_min_(0)
