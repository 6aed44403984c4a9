"""Local steps of several clients side by side through a stack of linear layers, the update fused into each product.

A client's inputs of several steps are known before the first. So its first layer, the largest as a rule, goes through
a window of steps at once: with inputs X, slopes D and weights W at the window's start, step t's outputs are
X_t W^T - lr (X_t X_<t^T) D_<t, and W is updated when the window ends. It is the same result but for rounding, by
products of two hundred rows instead of ten, and reads and writes W once a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quorate.engines.cohorts_layers import Activation, Part, Stack
from quorate.engines.cohorts_losses import Losses, Slopes
from quorate.engines.cohorts_products import has_onednn, plus_product, times
from quorate.engines.cohorts_steps import Motion, Steps, taken
from quorate.tasks import Data

_ROWS = 200  # of a window: more make its products faster, and what is left to correct larger
_ALONE = 1 << 16  # entries of a first layer from which on a product of its own for each client pays


class Windows:
    """The parameters of clients while their steps are done.

    Args:
        stack: the model.
        steps: of n clients.
        motion: what a step does.
    """

    def __init__(self, stack: Stack, steps: Steps, motion: Motion) -> None:
        self._stack, self._steps, self._motion = stack, steps, motion
        starts = [work.start for work in steps.works]
        self._shared = all(start is starts[0] for start in starts)
        self._starts = starts
        first, b = stack.layers[0], steps.index.shape[2]
        alone = motion.plain and min(first.weight.shape) > 1 and first.weight.shape.numel() >= _ALONE and has_onednn()
        self._at_once = max(1, _ROWS // b) if alone else 1
        self._first: list[Tensor] | Tensor
        self._first = [first.weight.of(start) for start in starts] if alone else self._copies(first.weight)
        self._weights = [self._copies(layer.weight) for layer in stack.layers[1:]]
        self._biases = [None if layer.bias is None else self._copies(layer.bias) for layer in stack.layers]

    def _copies(self, part: Part) -> Tensor:
        if self._shared:
            view = part.of(self._starts[0])
            return view.expand(len(self._starts), *view.shape).clone(memory_format=torch.contiguous_format)
        return torch.stack([part.of(start) for start in self._starts])

    def run(self, data: Data, losses: Losses) -> Tensor:
        """Do all steps, and return the losses (n, T), 0 where there was none."""
        steps, motion = self._steps, self._motion
        n, count, b = steps.index.shape
        scale = steps.scale(self._starts[0].dtype)
        history = scale.new_zeros(n, count)
        for begin in range(0, count, self._at_once):
            m, end = steps.active[begin], min(begin + self._at_once, count)
            x, y = taken(data, steps.index[:m, begin:end].flatten(1))
            x = self._stack.inputs(x)
            ahead, gram = self._ahead(x, begin == 0, end - begin > 1)
            slopes = torch.empty_like(ahead)
            later = Slopes(losses, y, [each[begin:end] for each in steps.sizes[:m]], scale[:m, begin:end])
            for step in range(begin, end):
                here = slice((step - begin) * b, (step - begin + 1) * b)
                z = ahead[:, here]
                if gram is not None and here.start:
                    z = torch.baddbmm(z, gram[:, here, : here.start], slopes[:, : here.start], alpha=-motion.lr)
                if motion.l2:
                    history[:m, step] += motion.l2 / 2 * self._squares(m)
                slopes[:, here] = self._step(z, step - begin, later)
            history[:m, begin:end] += later.values()
            self._update_first(x, slopes)
        return history

    def _ahead(self, x: Tensor, at_start: bool, several: bool) -> tuple[Tensor, Tensor | None]:
        """Return what the first layer makes of inputs (m, k, i), its function left out: (m, k, o).

        And, if they are of several steps, how much each row's slope moves the output of each row after it: (m, k, k);
        the rest is undefined.
        """
        layer, (m, k, _), weights, bias = self._stack.layers[0], x.shape, self._first, self._biases[0]
        moves = self._motion.moving(layer.weight)
        gram = (x.new_empty if moves else x.new_zeros)(m, k, k) if several else None
        ahead = None
        if at_start and self._shared:
            start = self._starts[0]
            bias = None if layer.bias is None else layer.bias.of(start)
            ahead = times(x.reshape(m * k, -1), layer.weight.of(start), bias).view(m, k, -1)
        elif isinstance(weights, Tensor):
            ahead = torch.bmm(x, weights[:m].mT)
            ahead = ahead if bias is None else ahead.add_(bias[:m, None])
        rows = x.new_empty(m, k, layer.width) if ahead is None else ahead
        for client in range(m) if ahead is None or (gram is not None and moves) else ():
            own = x[client]
            if ahead is None:
                rows[client] = times(own, weights[client], None if bias is None else bias[client])
            if gram is not None and moves:
                half = k // 2  # no row moves those before it
                gram[client, :half, :half] = times(own[:half], own[:half])
                gram[client, half:] = times(own[half:], own)
        if gram is not None and layer.bias is not None and self._motion.moving(layer.bias):
            gram += 1
        return rows, gram

    def _step(self, z: Tensor, step: int, later: Slopes) -> Tensor:
        """Go on from the first layer's outputs; update the other layers; return the first layer's slope."""
        layers, m = self._stack.layers, z.shape[0]
        active = Activation(layers[0].after, z)
        kept = [active]
        for weight, bias, layer in zip(self._weights, self._biases[1:], layers[1:], strict=True):
            given = kept[-1].value
            across = weight[:m].mT
            z = torch.bmm(given, across) if bias is None else torch.baddbmm(bias[:m, None], given, across)
            kept.append(Activation(layer.after, z))
        slope = later.of(step, kept[-1].value)
        for place in reversed(range(1, len(layers))):
            slope = kept[place].back(slope)
            weight = self._weights[place - 1][:m]
            below = torch.bmm(slope, weight)
            self._update(weight, layers[place].weight, slope, kept[place - 1].value)
            self._update_bias(place, slope)
            slope = below
        return kept[0].back(slope)

    def _update(self, weight: Tensor, part: Part, slope: Tensor, given: Tensor) -> None:
        if self._motion.moving(part):
            weight.baddbmm_(slope.mT, given, beta=self._motion.shrink, alpha=-self._motion.lr)
            self._motion.add_pull(weight, part)

    def _update_bias(self, place: int, slope: Tensor) -> None:
        bias, layer = self._biases[place], self._stack.layers[place]
        if bias is not None and layer.bias is not None and self._motion.moving(layer.bias):
            bias = bias[: slope.shape[0]]
            if self._motion.shrink != 1:
                bias *= self._motion.shrink
            bias.add_(slope.sum(1), alpha=-self._motion.lr)
            self._motion.add_pull(bias, layer.bias)

    def _update_first(self, x: Tensor, slope: Tensor) -> None:
        part = self._stack.layers[0].weight
        if isinstance(self._first, Tensor):
            self._update(self._first[: x.shape[0]], part, slope, x)
        elif self._motion.moving(part):
            moved = slope * -self._motion.lr
            for client in range(x.shape[0]):
                self._first[client] = plus_product(self._first[client], moved[client], x[client])
        self._update_bias(0, slope)

    def _squares(self, m: int) -> Tensor:
        """Return the sum of the squares of each of the first m clients' parameters, (m,)."""
        assert isinstance(self._first, Tensor)  # a penalty shrinks
        tensors = [self._first, *self._weights, *(bias for bias in self._biases if bias is not None)]
        return torch.stack([each[:m].flatten(1).square().sum(1) for each in tensors]).sum(0)

    def parameters(self, client: int, d: int) -> Tensor:
        """Return a client's parameters (d,) in memory of their own."""
        flat = self._starts[0].new_empty(d)
        for place, layer in enumerate(self._stack.layers):
            layer.weight.of(flat).copy_((self._first if place == 0 else self._weights[place - 1])[client])
            bias = self._biases[place]
            if layer.bias is not None and bias is not None:
                layer.bias.of(flat).copy_(bias[client])
        return flat
