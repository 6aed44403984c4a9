"""What travels between workers, as facts that can be checked before a run starts.

Every codec maps the facts that hold before it to the facts that hold after it, so the compatibility check of a
whole recipe is one fold over its codecs, starting from `Wire()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import inf

from torch import Tensor

from quorate.errors import RecipeError

Message = tuple[Tensor, ...]
"""What one worker sends another: a head, followed by the side information that decoding needs."""


class Opens(IntEnum):
    """What the combining side can open, or needs to: only the total of all updates, or each one."""

    TOTAL = 0
    EACH = 1


class Incompatible(RecipeError):
    """Two parts of a recipe can't work together."""


@dataclass(frozen=True)
class Wire:
    """The declared algebra of a message.

    Args:
        number: "real", "integer" (masks need a ring) or "cipher".
        aligned: entry i is the same coordinate on every worker.
        summable: decode(sum of messages) == sum of decoded messages.
        opens: what the combining side can open.
        l2_bound: no update is longer than this (Euclidean norm).
        noisy: noise for differential privacy has been added.
    """

    number: str = "real"
    aligned: bool = True
    summable: bool = True
    opens: Opens = Opens.EACH
    l2_bound: float = inf
    noisy: bool = False


def require(condition: bool, problem: str, hint: str | None = None) -> None:
    """Raise `Incompatible(problem, hint)` unless the condition holds."""
    if not condition:
        raise Incompatible(problem, hint)


def described(message: Message) -> str:
    """Return the dtypes and shapes of a message in words, e.g. "float32[10], int64[3]"."""
    return ", ".join(f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}" for tensor in message)


def size_in_bytes(message: Message) -> int:
    """Return the bytes of a message's tensors: what every engine counts as sent."""
    return sum(tensor.numel() * tensor.element_size() for tensor in message)
