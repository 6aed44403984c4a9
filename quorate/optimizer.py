"""Any optimizer of torch.optim, or of `quorate.optimizers`, as a function from state to state.

(parameters, gradient, state) -> (parameters, state)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from quorate import parts
from quorate.errors import RecipeError, suggestion
from quorate.flat import Layout
from quorate.trees import Tree, branch

_ELEMENTWISE = frozenset(
    ["sgd", "adam", "adamw", "adadelta", "adagrad", "adamax", "nadam", "radam", "rmsprop", "rprop", "asgd"]
)  # each coordinate for itself: all parameters, of all workers, may be updated as one tensor
_REFUSED = {"lbfgs": "needs the loss more than once a step", "sparseadam": "needs sparse gradients"}


def torch_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Return the optimizers of torch.optim that can be used, by lower-case name."""
    return {
        name.lower(): part
        for name, part in vars(torch.optim).items()
        if inspect.isclass(part) and issubclass(part, torch.optim.Optimizer) and part is not torch.optim.Optimizer
        if name.lower() not in _REFUSED
    }


@cache
def known_optimizers() -> Mapping[str, type[torch.optim.Optimizer]]:
    """Return the optimizers that can be used, torch's and those of `quorate.optimizers`, by lower-case name."""
    return torch_optimizers() | {name: parts.find("optimizer", name) for name in parts.names("optimizer")}


@dataclass(frozen=True)
class Optimizer:
    """The choice of an optimizer.

    Args:
        name: of a class of torch.optim or a file of `quorate.optimizers`, in any case.
        settings: its keyword arguments, e.g. {"lr": 0.1, "momentum": 0.9}.

    Raises:
        RecipeError: if there is no such optimizer, or torch refuses the settings.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known, name = known_optimizers(), self.name.lower()
        if name in _REFUSED:
            raise RecipeError(f"optimizer `{self.name}` {_REFUSED[name]}", "use `sgd` or `adam`")
        if name not in known:
            raise RecipeError(f"unknown optimizer `{self.name}`", suggestion(self.name, known))
        accepted = [key for key in inspect.signature(known[name]).parameters if key != "params"]
        for key in self.settings:
            if key not in accepted:
                raise RecipeError(f"unknown setting of `{self.name}` `{key}`", suggestion(key, accepted))
        if self._surely_works():
            return
        probe = nn.Parameter(torch.zeros(1, 1))
        probe.grad = torch.zeros(1, 1)
        try:
            self.build([probe]).step()
        except Exception as error:  # torch checks some settings by indexing and asserting
            raise RecipeError(f"optimizer `{self.name}` refuses its settings: {error}") from error

    def _surely_works(self) -> bool:
        """Return whether torch is sure to take the settings; trying it loads its compiler, which is 80 MB."""
        numbers = all(isinstance(value, int | float) and value >= 0 for value in self.settings.values())
        return numbers and self.plain is not None

    @property
    def elementwise(self) -> bool:
        """Whether each coordinate is updated for itself."""
        return self.name.lower() in _ELEMENTWISE

    @cached_property
    def plain(self) -> tuple[float, float] | None:
        """Learning rate and weight decay of a step `w - lr (gradient + decay w)`; None if a step is anything else."""
        given = self.settings
        if self.name.lower() != "sgd" or not given.keys() <= {"lr", "weight_decay", "momentum", "dampening"}:
            return None
        lr, decay = given.get("lr", 1e-3), given.get("weight_decay", 0)
        if given.get("momentum") or not isinstance(lr, int | float) or not isinstance(decay, int | float):
            return None
        return float(lr), float(decay)

    def build(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Make the torch optimizer."""
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in self.settings.items()
        }
        return known_optimizers()[self.name.lower()](parameters, **settings)

    @property
    def lr(self) -> float:
        """The learning rate, torch's default if none is set."""
        return float(self.build([nn.Parameter(torch.zeros(1, 1))]).param_groups[0]["lr"])

    def update(self, layout: Layout) -> Update:
        """Return the optimizer's step for parameters of a layout.

        Raises:
            RecipeError: if it can't train parameters of these shapes.
        """
        update = Update(self, layout)
        if not update.elementwise:
            try:
                self.build([nn.Parameter(torch.empty(shape, device="meta")) for _, shape, _ in layout.places])
            except ValueError as error:
                raise RecipeError(
                    f"optimizer `{self.name}` refuses the model's parameters: {error}", "use `sgd` or `adam`"
                ) from error
        return update


@dataclass(frozen=True)
class Update:
    """One step of an optimizer, in place: (parameters (d,), gradient (d,), state, factor) -> (parameters, state)."""

    optimizer: Optimizer
    layout: Layout

    @property
    def elementwise(self) -> bool:
        """Whether each coordinate is updated for itself, so that parameters may have any shape (..., d)."""
        return self.optimizer.elementwise

    def __call__(self, parameters: Tensor, gradient: Tensor, state: Tree, factor: float = 1.0) -> tuple[Tensor, Tree]:
        """Step once; parameters and the tensors of state are written to, the gradient is not.

        Args:
            factor: of the learning rate.
        """
        plain = self.optimizer.plain
        if plain is not None and not state:
            lr, decay = plain
            slope = gradient.add(parameters, alpha=decay) if decay else gradient
            return parameters.add_(slope, alpha=-lr * factor), {}
        if self.elementwise:
            return parameters, self._step({"": parameters}, {"": gradient}, {"": state}, factor)[""]
        views, gradients = self.layout.views(parameters), self.layout.views(gradient)
        names = {name: name.replace(".", "/") for name in views}
        after = self._step(views, gradients, {name: branch(state, key) for name, key in names.items()}, factor)
        return parameters, {names[name]: tree for name, tree in after.items()}

    def _step(
        self,
        views: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        state: Mapping[str, Tree],
        factor: float,
    ) -> dict[str, Tree]:
        owned = {name: nn.Parameter(view) for name, view in views.items()}
        step = self.optimizer.build(list(owned.values()))
        if factor != 1:
            for group in step.param_groups:
                group["lr"] *= factor
        for name, parameter in owned.items():
            parameter.grad = gradients[name]
            if state[name]:
                step.state[parameter] = dict(state[name])
        step.step()
        after: dict[str, Tree] = {}
        for name, parameter in owned.items():
            kept = {key: value for key, value in step.state[parameter].items() if value is not None}
            for key, value in kept.items():
                if not isinstance(value, Tensor):
                    raise RecipeError(f"optimizer `{self.optimizer.name}` keeps `{key}`, which is no tensor")
            after[name] = kept
        return after
