"""What travels between workers, as facts that can be checked before a run starts.

Every codec maps the facts that hold before it to the facts that hold after it, so the compatibility check of a
whole recipe is one fold over its codecs, starting from `Wire()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import inf

from torch import Tensor

from quorate.errors import RecipeError, RunError

Message = tuple[Tensor, ...]
"""What one worker sends another: a head, followed by the side information that decoding needs."""

RAGGED_TENSORS = 6
RAGGED_BYTES = 1 << 30


class Ragged(tuple[Tensor, ...]):
    """A message whose tensors may have any number of rows: dtypes and the dimensions after the first are agreed on.

    At most 6 tensors, none of them a scalar, of at most 2**30 bytes together; it takes a tag from 1. Where it tells
    what is expected, a tensor's rows, if there are any, are the most that there may be; it may be on the device "meta".
    """

    __slots__ = ()


def require_carried(message: Message, tag: int) -> None:
    """Refuse a ragged message that no engine carries.

    Raises:
        RunError: if its tag is 0, or it has too many tensors or bytes, or a scalar.
    """
    if isinstance(message, Ragged):
        if not tag:
            raise RunError("a ragged message needs a tag from 1", "tag = 1")
        if len(message) > RAGGED_TENSORS or not all(tensor.dim() for tensor in message):
            raise RunError(
                f"a ragged message has at most {RAGGED_TENSORS} tensors, none a scalar, got {described(message)}"
            )
        if size_in_bytes(message) > RAGGED_BYTES:
            raise RunError(
                f"a ragged message of {size_in_bytes(message)} bytes is longer than {RAGGED_BYTES}",
                "send it in pieces",
            )


def as_ragged(message: Message) -> Ragged | None:
    """Return a message as a ragged one of the same tensors; None if it can't be one, or is not on the CPU."""
    carried = len(message) <= RAGGED_TENSORS and size_in_bytes(message) <= RAGGED_BYTES
    return Ragged(message) if carried and all(each.dim() and each.device.type == "cpu" for each in message) else None


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
    """Return the dtypes and shapes of a message in words, e.g. "float32[10], int64[3]"; any number of rows is "*"."""
    if isinstance(message, Ragged):
        shapes = ["".join(f", {length}" for length in tensor.shape[1:]) for tensor in message]
        return ", ".join(f"{_name(tensor)}[*{rest}]" for tensor, rest in zip(message, shapes, strict=True))
    return ", ".join(f"{_name(tensor)}{list(tensor.shape)}" for tensor in message)


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def size_in_bytes(message: Message) -> int:
    """Return the bytes of a message's tensors: what every engine counts as sent."""
    return sum(tensor.numel() * tensor.element_size() for tensor in message)
