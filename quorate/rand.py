"""Chance as a function of (seed, purpose): equal arguments give equal draws on every engine, in any order.

There is no hidden generator to advance, so a run can be replayed from any checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Rand:
    """A point in the tree of random streams."""

    seed: int

    def fold(self, *names: str | int) -> Rand:
        """Derive the stream for a purpose, e.g. `rand.fold("batch", rank, epoch)`.

        Strings and integers are told apart, so `fold("1")` and `fold(1)` are different streams.
        """
        key = repr((self.seed, *names)).encode()
        return Rand(int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> 1)

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a fresh torch generator at the start of this stream."""
        return torch.Generator(device).manual_seed(self.seed)


class At(NamedTuple):
    """Where in a run a message is made: what a codec may let its choices depend on."""

    step: int
    rank: int
    size: int
    rand: Rand

    @property
    def shared(self) -> Rand:
        """The stream of this step that all workers share."""
        return self.rand.fold("shared", self.step)

    @property
    def own(self) -> Rand:
        """The stream of this step and this worker."""
        return self.rand.fold("own", self.step, self.rank)
