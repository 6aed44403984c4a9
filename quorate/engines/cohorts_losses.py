"""The losses of many clients' outputs, and their slopes: of cross-entropy by hand, of others by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


class Losses:
    """A loss that is the mean over a batch's samples.

    Args:
        loss: (output, y) -> scalar.
        targets: (n, ...), all that there are.
    """

    def __init__(self, loss: Loss, targets: Tensor) -> None:
        self._loss = loss
        labels = targets.dim() == 1 and targets.dtype == torch.int64 and len(targets) > 0
        self._classes = int(targets.max()) + 1 if labels and int(targets.min()) >= 0 and _is_cross_entropy(loss) else 0

    def __call__(self, outputs: Tensor, y: Tensor, sizes: Sequence[int], scale: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step's losses.

        Args:
            outputs: (n, b, ...), of each client's batch; beyond its size they mean nothing.
            y: (n, b, ...).
            sizes: of the n batches, 0 .. b.
            scale: (n, b), 1 / size, and 0 beyond the size.

        Returns:
            Losses (n,), 0 of an empty batch, and the slope by the outputs, 0 beyond the size.
        """
        if self.by_hand(outputs):
            logs, chosen = outputs.log_softmax(-1), y.unsqueeze(-1)
            losses = logs.gather(-1, chosen).squeeze(-1).mul_(scale).sum(1).neg_()
            slope = logs.exp_().scatter_add_(-1, chosen, logs.new_full((), -1.0).expand(chosen.shape))
            return losses, slope.mul_(scale.unsqueeze(-1))
        losses, slope = outputs.new_zeros(len(outputs)), torch.zeros_like(outputs)
        for size in sorted(set(sizes) - {0}):
            members = torch.tensor([place for place, each in enumerate(sizes) if each == size])
            leaf = outputs[members, :size].detach().requires_grad_()
            with torch.enable_grad():
                some = vmap(self._loss)(leaf, y[members, :size])
                (slope[members, :size],) = torch.autograd.grad(some.sum(), leaf)
            losses[members] = some.detach()
        return losses, slope

    def by_hand(self, outputs: Tensor) -> bool:
        """Return whether outputs (n, b, ...) are taken by hand."""
        return outputs.dim() == 3 and 0 < self._classes <= outputs.shape[-1]


class Slopes:
    """The slopes of several steps' losses, when they are asked for, and the losses in the end.

    Args:
        losses: by which is trained.
        y: (n, T b, ...), the targets of T batches.
        sizes: of each client's T batches.
        scale: (n, T, b), 1 / size, and 0 beyond the size.
    """

    def __init__(self, losses: Losses, y: Tensor, sizes: Sequence[Sequence[int]], scale: Tensor) -> None:
        self._losses, self._y, self._sizes, self._scale = losses, y, sizes, scale
        self._history = scale.new_zeros(scale.shape[:2])
        self._wanted = self._outputs = scale.new_empty(0)

    def of(self, step: int, outputs: Tensor) -> Tensor:
        """Return the slope by the outputs (m, b, ...) of the first m clients in a step."""
        (n, _, b), m = self._scale.shape, outputs.shape[0]
        here, scale = slice(step * b, step * b + b), self._scale[:m, step]
        if not self._losses.by_hand(outputs):
            sizes = [each[step] for each in self._sizes[:m]]
            self._history[:m, step], slope = self._losses(outputs, self._y[:m, here], sizes, scale)
            return slope
        if not self._outputs.numel():
            self._outputs = scale.new_zeros(*self._y.shape, outputs.shape[-1])
            rows = self._scale.view(n, -1, 1)
            self._wanted = torch.zeros_like(self._outputs).scatter_(-1, self._y.unsqueeze(-1), rows)
        self._outputs[:m, here] = outputs
        return outputs.softmax(-1).mul_(scale.unsqueeze(-1)).sub_(self._wanted[:m, here])

    def values(self) -> Tensor:
        """Return the losses (n, T) of the steps so far, 0 of an empty batch."""
        if not self._outputs.numel():
            return self._history
        logs = self._outputs.log_softmax(-1).gather(-1, self._y.unsqueeze(-1)).squeeze(-1)
        return logs.view(self._scale.shape).mul_(self._scale).sum(2).neg_()


def _is_cross_entropy(loss: Loss) -> bool:
    """Return whether it is torch's cross-entropy, with nothing set."""
    if loss is functional.cross_entropy:
        return True
    return (
        type(loss) is nn.CrossEntropyLoss
        and loss.weight is None
        and (loss.reduction, loss.label_smoothing, loss.ignore_index) == ("mean", 0.0, -100)
    )
