"""What is said: a codec turns an update into a message and back.

A codec is a frozen dataclass in a file of its name in snake case: `codecs/top_k.py` holds `TopK`, which recipes call
`top_k`. If it has fields without defaults, its module also holds `EXAMPLES`, some instances for the laws that
`tests/codecs/test_laws.py` checks on every codec it finds.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from quorate.rand import At
from quorate.trees import Tree
from quorate.wire import Message, Wire

Side = tuple[Tensor, ...]
"""What decoding needs besides the head: indices, scales."""

State = Tree
"""What a codec remembers between steps, per worker and per bucket: {} if nothing."""


class Codec(Protocol):
    """A pair of functions that agree, and what they declare about the message between them."""

    def wire(self, before: Wire) -> Wire:
        """Return the facts that hold after this codec; raise `Incompatible`, with a hint, if it can't stand here."""

    def init(self, like: Tensor) -> State:
        """Return the state before the first step, for updates like this one, of shape (d,)."""

    def emits(self, like: Tensor) -> Message:
        """Return tensors with the shapes and dtypes of (head, *side); their values mean nothing.

        What arrives is compared with them before it is decoded.
        """

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Encode an update of shape (d,), which is given away, into a head and its side."""

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Decode a head, which is given away, to the shape and dtype of `like`, which is not written to."""


class Plain:
    """The defaults of a codec that keeps shape, meaning and nothing else."""

    def wire(self, before: Wire) -> Wire:
        """Declare that nothing changes."""
        return before

    def init(self, like: Tensor) -> State:
        """Remember nothing."""
        return {}

    def emits(self, like: Tensor) -> Message:
        """Declare a head of the update's own shape and dtype, and no side."""
        return (like,)
