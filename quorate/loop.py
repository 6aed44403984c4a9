"""A user's own training loop drives a program: `optimizer.step()` is where it goes on.

The program asks for a gradient, which is the one that the loop's `backward()` has left, and for an update, which is the
loop's own optimizer's. Any program of `quorate.programs` works, with learning-rate schedules and all else that the loop
does to its optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from quorate.engines.overlap import broadcast
from quorate.engines.processes import ProcessNode
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.flat import Layout
from quorate.gradient import Batch
from quorate.rand import Rand

_FOREVER = 1 << 62  # steps: the loop decides when it ends


class _Asked:
    """Something that only the loop can answer: a gradient, or an optimizer's step."""

    def __init__(self, what: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.what, self.args, self.result = what, args, None

    def __await__(self) -> Generator[_Asked, None, Any]:
        if self.result is None:
            yield self
        return self.result


class _Node:
    """A process's node whose gradients and updates come from the loop."""

    def __init__(self, node: ProcessNode, training: _Training) -> None:
        self._node, self._training = node, training

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def compute(self, function: Callable[..., Any], *args: Any, samples: float = 0, donate: bool = False) -> Any:
        """See `Node`."""
        if function in (self._training.gradient, self._training.update_of_loop):
            return _Asked(function, args)
        return self._node.compute(function, *args, samples=samples, donate=donate)


class _Training:
    """What a program finds in place of `quorate.training.Training`: the loop has the data."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, weights: Sequence[float] | None, rand: Rand
    ) -> None:
        self.layout, self.weights, self.rand, self._optimizer = Layout.of(model), weights, rand, optimizer
        self._initial = self.layout.flatten(model)

    def initial(self) -> Tensor:
        return self._initial

    def batch(self, rank: int, step: int, size: Any) -> Batch:
        return Batch(torch.empty(0, dtype=torch.int64), 0, ("forward", rank, step), self.rand)

    def gradient(self, *_: Any) -> Any:
        raise AssertionError("the loop takes the gradients")

    def update_of_loop(self, *_: Any) -> Any:
        raise AssertionError("the loop's optimizer makes the updates")

    @property
    def lr(self) -> float:
        """The learning rate now, which adaptive periods ask for."""
        return float(self._optimizer.param_groups[0]["lr"])

    def update(self, _: Layout) -> Callable[..., Any]:
        """Be the program's optimizer."""
        return self.update_of_loop


class Driven:
    """A model and its optimizer in a program that the loop drives; a context manager that averages at its end.

    Args:
        model: its parameters become views of one flat tensor; all workers start from rank 0's.
        optimizer: over all trainable parameters of the model.
        program: (node, training, exchange, *, optimizer, steps) -> coroutine, with its other settings filled in, e.g.
            `functools.partial(local_sgd, period=functools.partial(every, tau=8))`.
        exchange: codec and aggregator.
        weights: one number per worker, the same on all, which sum to 1; None: all equal.
        seed: of codecs that draw random numbers.

    Raises:
        QuorateError: if the optimizer leaves out parameters of the model; from `optimizer.step()`, a RunError that
            names the rank that is late or gone.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        program: Callable[..., Coroutine[Any, Any, Tensor]],
        node: ProcessNode,
        *,
        exchange: Exchange | None = None,
        weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        left_out = [name for name, each in model.named_parameters() if each.requires_grad and id(each) not in held]
        if left_out:
            raise QuorateError(
                f"the optimizer does not hold `{left_out[0]}`", "make it from all of `model.parameters()`"
            )
        broadcast(model)
        self._model, self._node = model, node
        self._training = _Training(model, optimizer, weights, Rand(seed))
        self._parameters = [each for each in model.parameters() if each.requires_grad]
        own = _Node(node, self._training)
        said = (exchange or Exchange()).laid_out(self._training.layout)
        self._program = program(own, self._training, said, optimizer=self._training, steps=_FOREVER)
        self._asked = self._advance()
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self._before()),
            optimizer.register_step_post_hook(lambda *_: self._after()),
        ]

    def _advance(self) -> _Asked:
        """Let the program go on until it asks for something; the model then holds the parameters it speaks of."""
        while True:
            waits_for = self._program.send(None)
            if isinstance(waits_for, _Asked):
                self._flat = waits_for.args[0]
                self._training.layout.adopt(self._model, self._flat)
                return waits_for
            waits_for.wait()

    def _before(self) -> None:
        """Give the program the gradient; leave the optimizer the one to step with, or none."""
        gradients = [
            torch.zeros_like(each).reshape(-1) if each.grad is None else each.grad.reshape(-1)
            for each in self._parameters
        ]
        self._asked.result = (float("nan"), torch.cat(gradients))  # type: ignore[assignment]
        self._asked = self._advance()
        if self._asked.what == self._training.update_of_loop:
            for parameter, view in zip(
                self._parameters, self._training.layout.views(self._asked.args[1]).values(), strict=True
            ):
                parameter.grad = view
        else:
            for parameter in self._parameters:
                parameter.grad = None

    def _after(self) -> None:
        """Give the program the updated parameters."""
        if self._asked.what == self._training.update_of_loop:
            self._asked.result = (self._flat, {})  # type: ignore[assignment]
            self._asked = self._advance()
            if self._asked.what == self._training.update_of_loop:
                raise QuorateError("the program makes two updates for one gradient, which a loop can't")

    def __enter__(self) -> Driven:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is None:
            self._average()
        # Not before: the program may be in the next step already, and what it has sent for it must still arrive. A
        # rank comes to the average only when it has received what the others have sent.
        self._program.close()

    def _average(self) -> None:
        """Give all workers the mean of their parameters, so that all end with one model."""
        flat = self._training.layout.flatten(self._model)
        share = 1 / self._node.size if self._training.weights is None else self._training.weights[self._node.rank]
        mean = self._node.all_reduce(flat, share).wait()
        self._training.layout.adopt(self._model, mean)
