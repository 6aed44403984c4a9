"""Error feedback: what a message does not say is added to the next update, so that nothing is lost for good.

Wraps the codecs that follow it. With momentum it accumulates what the optimizer's momentum would have made of each
entry, and forgets the velocity of entries that were said (momentum correction with factor masking): then leave the
optimizer's own momentum out.

A codec that draws random numbers may err by more than the update: by up to b > 1 times its square, in expectation, and
what is remembered would grow from step to step. Then 1 / (1 + b) of what it says is said. That contracts: of a codec C
that is right in expectation, ||x - C(x) / (1 + b)||^2 is b / (1 + b) times ||x||^2 at most.

Source: Karimireddy et al., "Error feedback fixes SignSGD and other gradient compression schemes", ICML 2019, algorithm
1. Momentum correction and warm-up: Lin et al., "Deep gradient compression", ICLR 2018, sections 3.1 to 3.3. Scaling:
Beznosikov, Horvath, Richtarik and Safaryan, "On biased compression for distributed learning", JMLR 24, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from quorate.codecs import Codec, Side, State, named
from quorate.codecs._sparsifier import Sparsifier
from quorate.codecs.chain import Chain
from quorate.codecs.qsgd import Qsgd
from quorate.codecs.top_k import TopK
from quorate.errors import RecipeError
from quorate.flat import Layout
from quorate.rand import At
from quorate.trees import branch, leaf
from quorate.wire import Message, Ragged, Wire, require

_FIRST_RATIO = 0.25  # of the source's warm-up, which ends at 0.001 after four more such factors


@dataclass(frozen=True)
class ErrorFeedback:
    """Add to each update what the messages before it have left out.

    Args:
        codec: what encodes the sum.
        momentum: factor of the velocity, from 0 (none) to below 1.
        warm_up: steps in which the ratio of a sparsifier falls from a quarter to its own, by equal factors.

    Raises:
        RecipeError: if a warm-up is asked for, but there is no ratio.
    """

    codec: Codec
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    warm_up: Annotated[int, Field(ge=0)] = 0
    unbiased: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.warm_up and not hasattr(sparsifier_of(self.codec), "ratio"):
            raise RecipeError(f"a warm-up lowers a sparsifier's ratio, but {self.codec} has none", "warm_up = 0")
        if self.momentum and sparsifier_of(self.codec) is None:
            raise RecipeError(
                f"momentum correction forgets the velocity of entries that were said, but {self.codec} says all",
                "momentum = 0, and give the optimizer its momentum",
            )

    def __str__(self) -> str:
        """Name it as messages to people do."""
        return named(self)

    def wire(self, before: Wire) -> Wire:
        """Declare what the codec declares, of updates that may be of any length."""
        require(
            before.aligned,
            "error_feedback remembers what each coordinate lacks, but is given other coordinates in every step",
            'put [[codec]] name = "error_feedback" first',
        )
        require(
            not self.codec.alone,
            f"{self.codec} needs to be the only codec, and remembers by itself what has to be remembered",
            'leave out [[codec]] name = "error_feedback"',
        )
        require(
            not isinstance(self.codec, ErrorFeedback),
            "error_feedback stands twice, but leaves nothing to be remembered",
            'leave out one [[codec]] name = "error_feedback"',
        )
        require(
            not any(getattr(each, "scaled", False) for each in (self.codec, *getattr(self.codec, "parts", ()))),
            f"{self.codec} says entries multiplied so often that what is left over grows from step to step",
            "scaled = false",
        )
        after = self.codec.wire(replace(before, l2_bound=inf))
        require(
            not after.noisy,
            "error_feedback would send again, step by step, what noise was added to hide",
            'leave out [[codec]] name = "error_feedback"',
        )
        return after

    @property
    def alone(self) -> bool:
        """Whether the codec is."""
        return self.codec.alone

    def bound(self, d: int) -> float:
        """Return the codec's, of the first step; b / (1 + b) of one that is scaled, or 1 if it is biased."""
        codec = self._at(0)
        bound, share = codec.bound(d), _share(codec, d)
        return bound if share == 1 else bound * share if codec.unbiased else 1.0

    def laid_out(self, layout: Layout) -> Self:
        """Tell the codec."""
        return replace(self, codec=self.codec.laid_out(layout))

    def init(self, like: Tensor) -> State:
        """Begin without a residual."""
        state: dict[str, Tensor | State] = {"residual": torch.zeros_like(like), "codec": self.codec.init(like)}
        if self.momentum:
            state["momentum"] = torch.zeros_like(like)
        return state

    def emits(self, like: Tensor) -> Message:
        """Declare what the codec declares; in a warm-up, messages of any length up to the first."""
        if not self.warm_up:
            return self.codec.emits(like)
        return Ragged(tensor.to("meta") for tensor in self._with_ratio(self._ratio(0)).emits(like))

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Encode the sum of update and residual."""
        after: dict[str, Tensor | State] = {}
        if self.momentum:
            after["momentum"] = x = leaf(state, "momentum").mul_(self.momentum).add_(x)
        residual, codec = leaf(state, "residual").add_(x), self._at(at.step)
        head, side, after["codec"] = codec.take(residual, branch(state, "codec"), at)
        share = _share(codec, len(x))
        if share != 1:
            codec.add(residual, head.clone(), side, 1 - share, at)
        if self.momentum:
            x[entries(codec, head, side, x, at)[0]] = 0
        return head, side, {**after, "residual": residual}

    def take(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Leave nothing in x: it is all said, or remembered."""
        head, side, state = self.encode(x, state, at)
        x.zero_()
        return head, side, state

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Decode by the codec."""
        codec = self._at(at.step)
        decoded, share = codec.decode(head, side, like, at), _share(codec, len(like))
        return decoded if share == 1 else decoded.mul_(share)

    def add(self, total: Tensor, head: Tensor, side: Side, share: float, at: At) -> None:
        """Add by the codec."""
        codec = self._at(at.step)
        codec.add(total, head, side, share * _share(codec, len(total)), at)

    def returned(self, state: State, indices: Tensor, values: Tensor) -> State:
        """Take back entries that were said but dropped on their way: (k,) indices and their values, in place."""
        leaf(state, "residual").index_add_(0, indices, values)
        return state

    def _ratio(self, step: int) -> float:
        sparsifier = sparsifier_of(self.codec)
        own: float = getattr(sparsifier, "ratio", 1.0)
        return max(own, _FIRST_RATIO * (own / _FIRST_RATIO) ** (step / self.warm_up)) if own < _FIRST_RATIO else own

    def _at(self, step: int) -> Codec:
        return self._with_ratio(self._ratio(step)) if step < self.warm_up else self.codec

    def _with_ratio(self, ratio: float) -> Codec:
        if isinstance(self.codec, Chain):
            first, *rest = self.codec.parts
            return Chain((replace(first, ratio=ratio), *rest))  # type: ignore[type-var]
        return replace(self.codec, ratio=ratio)  # type: ignore[type-var]


@lru_cache(maxsize=256)
def _share(codec: Codec, d: int) -> float:
    """Return what part of a codec's message is said, so that its error is no longer than the update."""
    bound = codec.bound(d)
    too_much = bound >= 1 if codec.unbiased else bound > 1
    return 1 / (1 + bound) if too_much and bound < inf else 1.0


def sparsifier_of(codec: Codec) -> Sparsifier | None:
    """Return the sparsifier that a codec is, wraps or begins with, if there is one."""
    if isinstance(codec, ErrorFeedback):
        return sparsifier_of(codec.codec)
    if isinstance(codec, Chain) and codec.parts:
        return sparsifier_of(codec.parts[0])
    return codec if isinstance(codec, Sparsifier) else None


def entries(codec: Codec, head: Tensor, side: Side, like: Tensor, at: At) -> tuple[Tensor, Tensor]:
    """Return the indices, int64 and ascending, and the values (k,) that a sparse message says of an update."""
    if isinstance(codec, ErrorFeedback):
        inner = codec._at(at.step)
        indices, values = entries(inner, head, side, like, at)
        share = _share(inner, len(like))
        return indices, values if share == 1 else values * share
    if isinstance(codec, Chain):
        return codec.entries(head, side, like, at)
    assert isinstance(codec, Sparsifier)
    return codec.places(head, side, like), head


EXAMPLES = (
    ErrorFeedback(TopK(0.1)),
    ErrorFeedback(TopK(0.1), momentum=0.9),
    ErrorFeedback(TopK(0.01), warm_up=2),
    ErrorFeedback(Qsgd(levels=1, block=8)),
)
