"""The gradient of a task's loss on a batch, as a function from flat parameters to a flat gradient.

It depends on nothing but its arguments: a module that draws random numbers (dropout) does so from the batch's own
stream, and one that would remember something between batches (running statistics) is refused.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quorate.errors import QuorateError
from quorate.flat import Layout
from quorate.rand import Rand
from quorate.tasks import Data


class TaskError(QuorateError):
    """The user's model or loss did something that no run can go on from."""


class Batch(NamedTuple):
    """Which samples a gradient is taken on.

    Args:
        indices: (b,), positions in the training data.
        size: b, the number of samples.
        stream: names of the stream, below `rand`, that the module's own randomness comes from.
        rand: the run's stream.
    """

    indices: Tensor
    size: int
    stream: tuple[str | int, ...]
    rand: Rand

    @property
    def seed(self) -> int:
        """What torch's random state is set to around the forward pass, if the module is stochastic."""
        return self.rand.fold(*self.stream).seed


class Objective(nn.Module):
    """A model and its loss as one module: (x, y) -> scalar."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], l2: float) -> None:
        super().__init__()
        self.model, self.loss, self.l2 = model, loss, l2

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of a batch, with the penalty on the parameters."""
        value = self.loss(self.model(x), y)
        if self.l2:
            value = value + self.l2 / 2 * sum(parameter.square().sum() for parameter in self.model.parameters())
        return value


class Gradient:
    """Map (parameters (d,), batch) to (loss, gradient (d,)).

    Args:
        objective: its parameters are overwritten by every call.
        layout: of `objective`.
        data: what the batches index.
    """

    def __init__(self, objective: Objective, layout: Layout, data: Data) -> None:
        self.objective, self.layout, self.data = objective, layout, data
        named = dict(objective.named_parameters())
        self._parameters = [named[name] for name, _, _ in layout.places]
        self._adopted: Tensor | None = None
        self._probed = False
        self.stochastic = False
        """Whether the module draws random numbers; known after `probe`."""

    def __call__(self, parameters: Tensor, batch: Batch) -> tuple[float, Tensor]:
        """Take the gradient on one batch.

        Raises:
            TaskError: if the loss is not a finite scalar with a gradient, or the model or loss raises.
        """
        self.probe(parameters, batch)
        if not self.stochastic:
            return self._take(parameters, batch)
        with torch.random.fork_rng():
            torch.manual_seed(batch.seed)
            return self._take(parameters, batch)

    def probe(self, parameters: Tensor, batch: Batch) -> None:
        """Learn once, from a first batch, what the module does besides computing its loss.

        Raises:
            TaskError: if it changes its buffers, as batch normalisation does.
        """
        if self._probed:
            return
        buffers = {name: buffer.clone() for name, buffer in self.objective.named_buffers()}
        with torch.random.fork_rng():
            torch.manual_seed(batch.seed)
            before = torch.get_rng_state()
            self._take(parameters, batch)
            self.stochastic = not torch.equal(before, torch.get_rng_state())
        for name, buffer in self.objective.named_buffers():
            if not torch.equal(buffers[name], buffer):
                raise TaskError(
                    f"the model changes its buffer `{name.removeprefix('model.')}` in training, which would be lost"
                    " between workers",
                    "use GroupNorm or LayerNorm, or BatchNorm with track_running_stats=False",
                )
        self._probed = True

    def adopt(self, parameters: Tensor) -> None:
        """Make the module's parameters views of a flat tensor (d,), which is not copied."""
        if parameters is not self._adopted:
            for parameter, view in zip(self._parameters, self.layout.views(parameters).values(), strict=True):
                parameter.data = view
            self._adopted = parameters

    def _take(self, parameters: Tensor, batch: Batch) -> tuple[float, Tensor]:
        self.adopt(parameters)
        try:
            if not self.objective.training:
                self.objective.train()
            loss = self.objective(self.data.x[batch.indices], self.data.y[batch.indices])
        except QuorateError:
            raise
        except Exception as error:
            raise TaskError(f"the model or its loss failed: {where(error)}") from error
        if not isinstance(loss, Tensor) or loss.dim() != 0 or not loss.is_floating_point():
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(type(loss).__name__)
            raise TaskError(f"the loss must be a scalar tensor, got {shape}", "end the loss with `.mean()`")
        value = loss.item()
        require_finite(value)
        if not loss.requires_grad:
            raise TaskError(
                "the loss does not depend on the model's parameters", "leave out `.item()`, `.detach()` and `no_grad`"
            )
        try:
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        except Exception as error:
            raise TaskError(f"the gradient of the loss failed: {where(error)}") from error
        return value, torch.cat([gradient.reshape(-1) for gradient in gradients])


def require_finite(loss: float) -> None:
    """Raise TaskError if a loss is not finite."""
    if not abs(loss) < float("inf"):
        raise TaskError(
            f"the loss is not finite ({loss})", "lower the learning rate, and look for NaN or huge values in the data"
        )


def where(error: Exception) -> str:
    """Describe an exception in one line, with the innermost place that is not within torch."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
    place = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{place}"
