"""Identity: send the update as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from quorate.codecs import Plain, Side, State
from quorate.rand import At


@dataclass(frozen=True)
class Identity(Plain):
    """Leave the update uncompressed; encoding and decoding copy nothing."""

    unbiased: ClassVar[bool] = True

    def bound(self, d: int) -> float:
        """Return 0."""
        return 0.0

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Return the update itself."""
        return x, (), state

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Return the head itself."""
        return head
