"""A chain: each codec encodes the head that the one before it made.

What several `[[codec]]` tables in a recipe mean, in their order.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quorate.codecs import Codec, Side, State
from quorate.codecs.identity import Identity
from quorate.rand import At
from quorate.trees import branch
from quorate.wire import Message, Wire


@dataclass(frozen=True)
class Chain:
    """Codecs one after another; their sides travel together, in the same order."""

    parts: tuple[Codec, ...]

    def wire(self, before: Wire) -> Wire:
        """Fold the declared facts over the parts."""
        for part in self.parts:
            before = part.wire(before)
        return before

    def init(self, like: Tensor) -> State:
        """Hold each part's state under its position."""
        state = {}
        for position, part in enumerate(self.parts):
            state[str(position)] = part.init(like)
            like = part.emits(like)[0]
        return state

    def emits(self, like: Tensor) -> Message:
        """Return the last part's head and the sides of all."""
        sides: Side = ()
        for part in self.parts:
            like, *side = part.emits(like)
            sides += tuple(side)
        return (like, *sides)

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Encode the head of each part by the next."""
        sides: Side = ()
        after: dict[str, State] = {}
        for position, part in enumerate(self.parts):
            x, side, after[str(position)] = part.encode(x, branch(state, str(position)), at)
            sides += side
        return x, sides, after

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Decode by the parts in the opposite order."""
        likes, widths = [], []
        for part in self.parts:
            likes.append(like)
            like, *emitted = part.emits(like)
            widths.append(len(emitted))
        for part, like, width in zip(reversed(self.parts), reversed(likes), reversed(widths), strict=True):
            own = len(side) - width
            head, side = part.decode(head, side[own:], like, at), side[:own]
        return head


EXAMPLES = (Chain(()), Chain((Identity(), Identity())))
