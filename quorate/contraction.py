"""How much of an update a codec loses, measured next to what the literature promises.

A codec C contracts if ||x - C(x)||^2 <= b ||x||^2 with b < 1 for every x: then error feedback around it converges
(Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018, definition 2.1). Gradients are kinder than the
worst case; where they are bell-shaped, Shi et al. (2019) have a tighter bound for the largest entries.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from quorate.errors import QuorateError
from quorate.rand import At, Rand

if TYPE_CHECKING:
    from quorate.codecs import Codec
    from quorate.node import Node


@dataclass(frozen=True)
class Contraction:
    """What a codec loses of one update, as shares of its squared norm.

    Args:
        measured: ||x - C(x)||^2 / ||x||^2, of one draw if C draws random numbers; 0 if x is 0.
        bound: what it never exceeds, or, if C draws random numbers, its expectation; infinity if nothing is known.
        bell_shaped_bound: what it does not exceed where x is bell-shaped; None if the codec states none.
    """

    measured: float
    bound: float
    bell_shaped_bound: float | None


def contraction(codec: Codec, x: Tensor, *, seed: int = 0) -> Contraction:
    """Measure what a codec loses of an update in its first step.

    Args:
        x: (d,), finite; only read.
        seed: of the random numbers that it draws.

    Raises:
        QuorateError: if x is not one vector of finite numbers.

    Source: Shi, Chu, Cheung and See, "Understanding top-k sparsification in distributed deep learning", 2019, for
        `bell_shaped_bound`; each codec states that of its `bound`.
    """
    if x.dim() != 1 or not torch.isfinite(x).all():
        raise QuorateError(f"contraction needs finite numbers of shape (d,), got {list(x.shape)}", "x.flatten()")
    at, state = At(0, 0, 1, Rand(seed)), codec.init(x)
    if hasattr(codec, "meet"):
        said, _ = _result(codec.meet(cast("Node", _Alone()), x.clone(), state, at, 1.0, _alone))
    else:
        head, side, _ = codec.encode(x.clone(), state, at)
        said = codec.decode(head, side, x, at)
    norm = float(torch.linalg.vector_norm(x, dtype=torch.float64))
    lost = float(torch.linalg.vector_norm(said - x, dtype=torch.float64))
    bell_shaped = getattr(codec, "bell_shaped_bound", None)
    return Contraction(
        (lost / norm) ** 2 if norm else 0.0, codec.bound(len(x)), bell_shaped(len(x)) if bell_shaped else None
    )


class _Alone:
    """The only worker."""

    rank = 0
    size = 1


class _Said:
    """The sum over all workers, if there is but one."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __await__(self) -> Generator[None, None, Tensor]:
        return self._tensor
        yield


def _alone(node: Node, tensor: Tensor, scale: float = 1.0, /) -> _Said:
    return _Said(tensor * scale)


def _result(meeting: Coroutine[Any, Any, Any]) -> Any:
    """Return what a meeting that waits for nobody returns."""
    try:
        meeting.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a meeting of one worker waited for another")
