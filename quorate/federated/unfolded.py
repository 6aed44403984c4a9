"""A client's parameters, or how they have changed, that have not been multiplied out: a tensor in all but memory.

Thousands of simulated clients that do a step or two change their parameters by few numbers each. Whoever computes with
such a tensor gets the numbers as if it were any other; a server that only needs the sum of many asks for that instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor


class Changes(Protocol):
    """What several clients have come to that started from the same parameters."""

    start: Tensor
    count: int
    """How many clients."""

    def parameters(self, client: int) -> Tensor:
        """Return one client's parameters (d,), in memory of their own."""

    def add(self, total: Tensor, weights: Sequence[float]) -> None:
        """Add all clients' changes, each times its weight, to a total (d,), in place."""

    def squares(self) -> Tensor:
        """Return the squared length of each client's change, (count,)."""


class Unfolded(Tensor):
    """The parameters (d,) of one of several clients, or what they were at the start less what they are now.

    The first that needs the numbers has them multiplied out; from then on it has memory, which may be written to.
    """

    changes: Changes
    client: int
    lost: bool
    """Whether it is the start less the parameters, and not the parameters."""
    _folded: Tensor | None

    @staticmethod
    def of(changes: Changes, client: int, *, lost: bool = False) -> Unfolded:
        """Return one client's tensor, which shares what all have in common."""
        made = Tensor._make_subclass(Unfolded, _without_memory(changes.start.shape, changes.start.dtype))
        made.changes, made.client, made.lost, made._folded = changes, client, lost, None
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Multiply out, and go on with the numbers."""
        if func is torch.dot and args[0] is args[1]:
            only: Unfolded = args[0]
            if only.untouched and only.lost:
                return only.changes.squares()[only.client]
        known = {name: _folded(value) for name, value in (kwargs or {}).items()}
        return func(*(_folded(each) for each in args), **known)

    def __rsub__(self, other: Any) -> Tensor:
        """Return what was lost, if the other is the start."""
        if other is self.changes.start and self.untouched and not self.lost:
            return Unfolded.of(self.changes, self.client, lost=True)
        difference: Tensor = other - self.folded()
        return difference

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The start's."""
        return self.changes.start.dtype

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """The start's."""
        return self.changes.start.shape

    def dim(self) -> int:
        """Return 1."""
        return 1

    def numel(self) -> int:
        """Return d."""
        return self.changes.start.numel()

    def element_size(self) -> int:
        """Return the bytes of a number."""
        return self.changes.start.element_size()

    @property
    def untouched(self) -> bool:
        """Whether nobody has needed the numbers yet."""
        return self._folded is None

    def folded(self) -> Tensor:
        """Return it multiplied out; from now on it has memory."""
        if self._folded is None:
            self._folded = self.changes.parameters(self.client)
            if self.lost:
                self._folded.neg_().add_(self.changes.start)
        return self._folded


@cache
def _without_memory(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _folded(value: Any) -> Any:
    if isinstance(value, Unfolded):
        return value.folded()
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)([_folded(each) for each in value])
    return value


def folded(tensor: Tensor) -> Tensor:
    """Return a tensor that has memory: multiplied out, or as it is."""
    return tensor.folded() if isinstance(tensor, Unfolded) else tensor


class Unmoved:
    """A client's parameters that are those at the start, for whoever goes through its work without doing it.

    Args:
        start: (d,).
    """

    count = 1

    def __init__(self, start: Tensor) -> None:
        self.start = start

    def parameters(self, client: int) -> Tensor:
        """Return a copy of the start."""
        return self.start.clone()

    def add(self, total: Tensor, weights: Sequence[float]) -> None:
        """Add nothing."""

    def squares(self) -> Tensor:
        """Return (0,)."""
        return self.start.new_zeros(1)


class Gathered:
    """Updates of which only the sum is needed."""

    def __init__(self) -> None:
        self._groups: dict[int, tuple[Changes, dict[int, float]]] = {}

    def take(self, update: Tensor, weight: float) -> bool:
        """Take an update that counts so much, if it is one that has not been multiplied out; return whether it is."""
        if not (isinstance(update, Unfolded) and update.untouched and update.lost):
            return False
        _, members = self._groups.setdefault(id(update.changes), (update.changes, {}))
        members[update.client] = members.get(update.client, 0.0) - weight
        return True

    def add_to(self, total: Tensor) -> None:
        """Add their weighted sum to a total (d,), in place."""
        for changes, members in self._groups.values():
            changes.add(total, [members.get(client, 0.0) for client in range(changes.count)])
