"""Identity: send the update as it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quorate.codecs import Plain, Side, State
from quorate.rand import At


@dataclass(frozen=True)
class Identity(Plain):
    """Leave the update uncompressed; encoding and decoding copy nothing."""

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Return the update itself."""
        return x, (), state

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Return the head itself."""
        return head
