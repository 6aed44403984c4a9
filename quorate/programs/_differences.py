"""How a worker's parameters differ from what it has said of them: the message of workers without a common start.

All who hear a worker add up what it says, and so hold the same copy of its parameters, its public ones. What a lossy
codec leaves out is part of the next difference, so that nothing is lost for good; error feedback would say it twice.

Source: Koloskova, Stich and Jaggi, "Decentralized stochastic optimization and gossip algorithms with compressed
communication", ICML 2019, algorithms 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar, Self

from torch import Tensor

from quorate.codecs import Codec, Side, State
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.errors import RecipeError
from quorate.exchange import Exchange, Meeting
from quorate.flat import Layout
from quorate.rand import At
from quorate.trees import branch, leaf
from quorate.wire import Message, Wire

_MANY = 1 << 20  # entries of an update whose number is not known yet


@dataclass(frozen=True)
class Differences:
    """A codec of differences that keeps in its state, as `public`, the sum of what it has said.

    What is encoded is the parameters less `public`, which the caller subtracts.
    """

    codec: Codec
    unbiased: ClassVar[bool] = False
    alone: ClassVar[bool] = False

    def __str__(self) -> str:
        """Name the codec."""
        return str(self.codec)

    def bound(self, d: int) -> float:
        """Return the codec's."""
        return self.codec.bound(d)

    def wire(self, before: Wire) -> Wire:
        """Declare that messages are not summed on their way: a worker must know what it has said itself."""
        return replace(self.codec.wire(before), summable=False)

    def laid_out(self, layout: Layout) -> Self:
        """Tell the codec."""
        return replace(self, codec=self.codec.laid_out(layout))

    def init(self, like: Tensor) -> State:
        """Begin with the parameters (d,) that all workers begin with."""
        return {"public": like.clone(), "codec": self.codec.init(like)}

    def emits(self, like: Tensor) -> Message:
        """Declare what the codec declares."""
        return self.codec.emits(like)

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Encode a difference, and add what its message says to `public`, in place."""
        public = leaf(state, "public")
        head, side, after = self.codec.encode(x, branch(state, "codec"), at)
        self.codec.add(public, head.clone(), side, 1.0, at)
        return head, side, {"public": public, "codec": after}

    def take(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Leave nothing in x: the next difference has it."""
        head, side, state = self.encode(x.clone(), state, at)
        x.zero_()
        return head, side, state

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Decode by the codec."""
        return self.codec.decode(head, side, like, at)

    def add(self, total: Tensor, head: Tensor, side: Side, share: float, at: At) -> None:
        """Add by the codec."""
        self.codec.add(total, head, side, share, at)


def lossless(codec: Codec, d: int = _MANY) -> bool:
    """Return whether nothing of an update is ever left out."""
    return codec.bound(d) == 0


def of_differences(program: str, exchange: Exchange) -> Exchange:
    """Return the exchange for a program that encodes differences to what was said before.

    Raises:
        RecipeError: if the recipe's codec can't be used so.
    """
    codec = exchange.codec
    require_one_meeting(program, exchange, "local_sgd")
    if isinstance(codec, ErrorFeedback):
        if codec.momentum or codec.warm_up:
            raise RecipeError(
                f"{program} says what was not said in the next difference, which is error feedback without momentum or"
                f" warm-up; got momentum = {codec.momentum:g} and warm_up = {codec.warm_up}",
                'leave out [[codec]] name = "error_feedback"',
            )
        codec = codec.codec
    bound = codec.bound(_MANY)
    if 1 < bound < inf:
        raise RecipeError(
            f"{program} adds up what {codec} says, whose error may be {bound:.3g} times what it is given: the copies"
            " would drift away",
            '[[codec]] name = "top_k", or finer settings',
        )
    return replace(exchange, codec=Differences(codec))


def require_one_meeting(program: str, exchange: Exchange, instead: str) -> None:
    """Refuse codecs that can't say an update in one message to one peer.

    Args:
        instead: a program that can use them.

    Raises:
        RecipeError: naming the codec.
    """
    if meets(exchange.codec):
        raise RecipeError(
            f"{program} says an update in one message, but {exchange.codec} needs all workers to meet",
            f'the program "{instead}", or [[codec]] name = "top_k"',
        )


def meets(codec: Any) -> bool:
    """Return whether a codec, or one that it wraps, needs all workers to meet."""
    wrapped = (*getattr(codec, "parts", ()), *([codec.codec] if hasattr(codec, "codec") else []))
    return isinstance(codec, Meeting) or any(meets(each) for each in wrapped)
