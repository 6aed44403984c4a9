"""Redundancy codes: several workers compute the same batches, so that wrong answers can be found and left out.

A code is a frozen dataclass in a file of its name. With at most `s` workers that answer arbitrarily, what it decodes is
what honest workers alone would have come to. Source of the idea: Chen, Wang, Charles and Papailiopoulos, "DRACO:
Byzantine-resilient distributed training via redundant gradients", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Decoded:
    """What has become of a meeting's answers.

    Args:
        mean: (d,), the mean of the gradients of all batches.
        convicted: ranks that have answered wrongly, in order.
    """

    mean: Tensor
    convicted: tuple[int, ...]


class Code(Protocol):
    """A redundancy code."""

    @property
    def s(self) -> int:
        """How many workers may answer arbitrarily."""

    def batches(self, n: int, rank: int) -> tuple[int, ...]:
        """Return the batches, of 0 .. n - 1, whose gradients a worker of n computes.

        Raises:
            Incompatible: if the code does not exist for n workers.
        """

    def encode(self, gradients: Sequence[Tensor], n: int, rank: int) -> Tensor:
        """Return a worker's answer, one tensor, made of the gradients (d,) of its batches, in their order."""

    def decode(self, answers: Sequence[Tensor | None], like: Tensor) -> Decoded:
        """Return the mean of all batches' gradients, and who has answered wrongly.

        Args:
            answers: of all workers, in their order; None of who has said nothing, which counts among the s.
            like: (d,), of the gradients' dtype.

        Raises:
            RunError: if more than s answers are wrong, and that can be seen.
        """
