"""What is said: a codec turns an update into a message and back.

A codec is a frozen dataclass in a file of its name in snake case: `codecs/top_k.py` holds `TopK`, which recipes call
`top_k`. If it has fields without defaults, its module also holds `EXAMPLES`, some instances for the laws that
`tests/codecs/test_laws.py` checks on every codec it finds.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from math import inf
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from quorate.contraction import Contraction as Contraction
from quorate.contraction import contraction as contraction
from quorate.flat import Layout
from quorate.rand import At
from quorate.trees import Tree
from quorate.wire import Message, Wire

Side = tuple[Tensor, ...]
"""What decoding needs besides the head: indices, scales."""

State = Tree
"""What a codec remembers between steps, per worker and per bucket: {} if nothing."""


class Codec(Protocol):
    """A pair of functions that agree, and what they declare about the message between them."""

    def __hash__(self) -> int:
        """Codecs of equal settings are equal."""

    @property
    def unbiased(self) -> bool:
        """Whether the expectation of what is decoded, over the codec's own chance, is the update."""

    @property
    def alone(self) -> bool:
        """Whether it can't be one of several."""

    def bound(self, d: int) -> float:
        """Return what ||x - decoded||^2 / ||x||^2 never exceeds for any x of shape (d,); infinity if nothing is known.

        Of a codec that draws random numbers, it is the expectation that does not.
        """

    def wire(self, before: Wire) -> Wire:
        """Return the facts that hold after this codec; raise `Incompatible`, with a hint, if it can't stand here."""

    def laid_out(self, layout: Layout) -> Self:
        """Return the codec for updates whose entries are the parameters that a layout names."""

    def init(self, like: Tensor) -> State:
        """Return the state before the first step, for updates like this one, of shape (d,)."""

    def emits(self, like: Tensor) -> Message:
        """Return tensors with the shapes and dtypes of (head, *side); their values mean nothing.

        What arrives is compared with them before it is decoded. If the numbers of rows differ between messages, it is
        `Ragged`, and its tensors have as many rows as there can be; they are on the device "meta", without memory.
        """

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Encode an update of shape (d,) into a head and its side.

        Update and state are given away: both may be written to, and the head may share the update's memory, but the
        state that is returned may not.
        """

    def take(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Encode an update so that x holds afterwards what its message does not say: the update less its decoding.

        Head and side share no memory with x.
        """

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Decode a head, which is given away, to the shape and dtype of `like`, which is not written to.

        Raises:
            QuorateError: if it is no message of this codec.
        """

    def add(self, total: Tensor, head: Tensor, side: Side, share: float, at: At) -> None:
        """Add `share` times what a message says to a total of shape (d,), in place; see `decode`."""


def named(codec: Any) -> str:
    """Return a codec as recipes name it, with the settings that are not their defaults: `top_k(ratio=0.01)`."""
    kind = type(codec)
    name = kind.__module__.rpartition(".")[2] if kind.__module__.startswith("quorate.") else kind.__name__
    shown = [each for each in fields(codec) if each.repr] if is_dataclass(codec) else []
    values = {each.name: getattr(codec, each.name) for each in shown if getattr(codec, each.name) != each.default}
    told = [str(value) if key == "codec" else f"{key}={value!r}" for key, value in values.items()]
    return f"{name}({', '.join(told)})" if told else name


class Plain:
    """The defaults of a codec that keeps shape, meaning and nothing else."""

    unbiased: ClassVar[bool] = False
    alone: ClassVar[bool] = False

    def __str__(self) -> str:
        """Name it as messages to people do."""
        return named(self)

    def bound(self, d: int) -> float:
        """Know nothing."""
        return inf

    def wire(self, before: Wire) -> Wire:
        """Declare that nothing changes."""
        return before

    def laid_out(self, layout: Layout) -> Self:
        """Make no difference between parameters."""
        return self

    def init(self, like: Tensor) -> State:
        """Remember nothing."""
        return {}

    def emits(self, like: Tensor) -> Message:
        """Declare a head of the update's own shape and dtype, and no side."""
        return (like,)

    def take(self: Codec, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Encode a copy, and subtract what it decodes to."""
        head, side, state = self.encode(x.clone(), state, at)
        x.sub_(self.decode(head.clone(), side, x, at))
        return head, side, state

    def add(self: Codec, total: Tensor, head: Tensor, side: Side, share: float, at: At) -> None:
        """Decode, and add."""
        total.add_(self.decode(head, side, total, at), alpha=share)
