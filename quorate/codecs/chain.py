"""A chain: each codec encodes the head that the one before it made.

What several `[[codec]]` tables in a recipe mean, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Self

import torch
from torch import Tensor

from quorate.codecs import Codec, Side, State
from quorate.codecs._sparsifier import Sparsifier
from quorate.codecs.identity import Identity
from quorate.errors import QuorateError, RecipeError
from quorate.flat import Layout
from quorate.rand import At
from quorate.trees import branch
from quorate.wire import Message, Ragged, Wire, require


@dataclass(frozen=True)
class Chain:
    """Codecs one after another; their sides travel together, in the same order.

    After the side of a part whose head may have any number of rows travels that number, if another part follows.
    """

    parts: tuple[Codec, ...]

    def __str__(self) -> str:
        """Name the parts, in their order."""
        return ", then ".join(map(str, self.parts)) or "identity"

    def wire(self, before: Wire) -> Wire:
        """Fold the declared facts over the parts."""
        for part in self.parts:
            require(
                len(self.parts) == 1 or not part.alone,
                f"{part} needs to be the only codec",
                "leave out the other [[codec]]",
            )
            before = part.wire(before)
        return before

    @property
    def alone(self) -> bool:
        """Whether a part is."""
        return any(part.alone for part in self.parts)

    @property
    def unbiased(self) -> bool:
        """Whether all parts are."""
        return all(part.unbiased for part in self.parts)

    def bound(self, d: int) -> float:
        """Return the bound of one part, if all others lose nothing; of several, it is known after a sparsifier.

        What a sparsifier leaves out, at most a share b of the squared norm, and what another codec of bound c loses of
        the rest are orthogonal: b + c (1 - b), or c if that is more than 1.
        """
        like, bounds = torch.empty(d, device="meta"), []
        for part in self.parts:
            bounds.append(part.bound(len(like)))
            like = part.emits(like)[0]
        lossy = [bound for bound in bounds if bound]
        if len(lossy) == 2 and bounds[0] and isinstance(self.parts[0], Sparsifier) and not self.parts[0].unbiased:
            left_out, lost = lossy
            return max(lost, left_out + lost * (1 - left_out))
        return inf if len(lossy) > 1 else sum(lossy)

    def laid_out(self, layout: Layout) -> Self:
        """Tell the first part, which alone sees the parameters."""
        return replace(self, parts=(self.parts[0].laid_out(layout), *self.parts[1:])) if self.parts else self

    def init(self, like: Tensor) -> State:
        """Hold each part's state under its position.

        Raises:
            RecipeError: if a part would remember entries that are others in every step.
        """
        state = {}
        for position, part in enumerate(self.parts):
            if like.is_meta and part.init(like):
                raise RecipeError(
                    f"{part} remembers something of every entry, but is given others in every step",
                    'put [[codec]] name = "error_feedback" first',
                )
            state[str(position)] = {} if like.is_meta else part.init(like)
            like = part.emits(like)[0]
        return state

    def emits(self, like: Tensor) -> Message:
        """Return the last part's head and the sides of all."""
        sides: Side = ()
        ragged = False
        for position, part in enumerate(self.parts):
            emitted = part.emits(like)
            like, *side = emitted
            sides += tuple(side)
            if isinstance(emitted, Ragged):
                ragged = True
                if position + 1 < len(self.parts):
                    sides += (torch.empty(1, dtype=torch.int32, device="meta"),)
        return Ragged((like.to("meta"), *[each.to("meta") for each in sides])) if ragged else (like, *sides)

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Encode the head of each part by the next."""
        return self._encode(x, state, at, 0)

    def take(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Leave in x what is not said; after a sparsifier, only the entries that it has chosen are looked at again."""
        if len(self.parts) == 1:
            head, side, after = self.parts[0].take(x, branch(state, "0"), at)
            return head, side, {"0": after}
        first = self.parts[0] if self.parts else None
        if not isinstance(first, Sparsifier):
            head, side, state = self.encode(x.clone(), state, at)
            x.sub_(self.decode(head.clone(), side, x, at))
            return head, side, state
        said, side, _ = first.take(x, {}, at)
        values, count = said.clone(), self._count(first, x, said)
        head, further, state = self._encode(values, state, at, 1)
        left = said - self._decode(head.clone(), further, said, at, self.parts[1:])
        x.index_add_(0, first.places(said, side, x), left)
        return head, (*side, *count, *further), {"0": {}, **state}

    def _encode(self, x: Tensor, state: State, at: At, start: int) -> tuple[Tensor, Side, State]:
        sides: Side = ()
        after: dict[str, State] = {}
        for position, part in enumerate(self.parts[start:], start):
            like = x
            x, side, after[str(position)] = part.encode(x, branch(state, str(position)), at)
            sides += side
            if position + 1 < len(self.parts):
                sides += self._count(part, like, x)
        return x, sides, after

    @staticmethod
    def _count(part: Codec, like: Tensor, head: Tensor) -> Side:
        return (torch.tensor([len(head)], dtype=torch.int32),) if isinstance(part.emits(like), Ragged) else ()

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Decode by the parts in the opposite order."""
        return self._decode(head, side, like, at, self.parts)

    def add(self, total: Tensor, head: Tensor, side: Side, share: float, at: At) -> None:
        """Decode by all parts but the first, which adds."""
        if not self.parts:
            total.add_(head, alpha=share)
            return
        first, own, like, rest = self._first(side, total, self.parts)
        first.add(total, self._decode(head, rest, like, at, self.parts[1:]), own, share, at)

    def entries(self, head: Tensor, side: Side, like: Tensor, at: At) -> tuple[Tensor, Tensor]:
        """Return indices and values that a message of a chain that begins with a sparsifier says."""
        first, own, inner, rest = self._first(side, like, self.parts)
        assert isinstance(first, Sparsifier)
        values = self._decode(head, rest, inner, at, self.parts[1:])
        return first.places(values, own, like), values

    def _first(self, side: Side, like: Tensor, parts: Sequence[Codec]) -> tuple[Codec, Side, Tensor, Side]:
        """Return the first part, its own side, what its head looks like, and the sides of the other parts."""
        first, emitted = parts[0], parts[0].emits(like)
        width = len(emitted) - 1
        if not isinstance(emitted, Ragged) or len(parts) == 1:
            return first, side[:width], emitted[0], side[width:]
        rows, most = int(side[width]), len(emitted[0])
        if not 0 <= rows <= most:
            raise QuorateError(f"a message of {first} says that it has {rows} entries, but has at most {most}")
        return first, side[:width], like.new_empty(rows, dtype=emitted[0].dtype), side[width + 1 :]

    def _decode(self, head: Tensor, side: Side, like: Tensor, at: At, parts: Sequence[Codec]) -> Tensor:
        if not parts:
            return head
        first, own, inner, rest = self._first(side, like, parts)
        return first.decode(self._decode(head, rest, inner, at, parts[1:]), own, like, at)


EXAMPLES = (Chain(()), Chain((Identity(), Identity())))
