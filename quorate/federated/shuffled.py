"""The orders in which a client goes through its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from quorate.rand import Rand


class Shuffled(Sequence[Tensor]):
    """A client's samples in a new random order for each epoch, drawn when it is asked for.

    Args:
        shard: (n,), positions of the samples.
        streams: of the epochs.
    """

    def __init__(self, shard: Tensor, streams: Sequence[tuple[Rand, tuple[str | int, ...]]]) -> None:
        self._shard, self._streams = shard, streams
        self._orders: list[Tensor] | None = None

    @property
    def lengths(self) -> list[int]:
        """How many samples each epoch has."""
        return [self._shard.shape[0]] * len(self._streams)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...

    @overload
    def __getitem__(self, place: slice) -> list[Tensor]: ...

    def __getitem__(self, place: int | slice) -> Tensor | list[Tensor]:
        """Return an epoch's order (n,), or those of several."""
        if self._orders is None:
            n = self._shard.shape[0]
            drawn = (torch.randperm(n, generator=rand.fold(*names).generator()) for rand, names in self._streams)
            self._orders = [self._shard.index_select(0, order) for order in drawn]
        return self._orders[place]

    def __len__(self) -> int:
        """Return how many epochs there are."""
        return len(self._streams)
