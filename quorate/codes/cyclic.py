"""The cyclic code: every worker answers one mixture of its gradients, and who has lied is told from all mixtures.

It needs no replicas that agree to the bit, and exists for every n of at least 2s + 1; a worker computes the gradients
of 2s + 1 batches, as it does under `repetition`. What is decoded is the mean of all batches up to rounding, 3e-8 of it
with `transport = "single"`. An answer takes twice the bytes of a gradient, or, with `numbers = "real"`, as many. If
2s + 1 divides n, the mixtures are means of groups, and `repetition` does the same by comparing bits, with less work.

Source: Chen, Wang, Charles and Papailiopoulos, "DRACO: Byzantine-resilient distributed training via redundant
gradients", ICML 2018, section 4, with spread holders and real numbers, see `_circle`, and another locator, see
`_locator`. In floating point a liar is seen only if its error shows in the checks: s liars, s large, that stand side by
side on the circle and know each other's answers can hide what is small; workers of neighbouring ranks stand far apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from quorate.codes import Decoded, _circle, _reading, _rows
from quorate.errors import RunError
from quorate.wire import require


@dataclass(frozen=True)
class Cyclic:
    """Worker i answers the sum over its 2s + 1 batches j of W[i, j] times the gradient of j.

    An answer has d numbers, or 2d, real parts and imaginary ones in turn, where W is complex.

    Args:
        s: how many workers may answer arbitrarily, or not at all.
        transport: "single", an answer's numbers are float32, or "double", float64.
        numbers: "complex", or, for odd n, "real": half the bytes; liars are found as well, but the more of them are
            neighbours on the circle, the less exact is the mean: with s = 5 of n = 45 drawn at random, the error is 1.3
            times that without liars, in 1 of 100 draws 17 times, and at worst 320 times; complex, 1.4, 2.5 and 3.3.
        tolerance: the part of an answer by which honest ones may be off, besides rounding; more than 0 if machines
            differ, e.g. 1e-5.
    """

    s: Annotated[int, Field(ge=0)] = 1
    transport: Literal["single", "double"] = "single"
    numbers: Literal["complex", "real"] = "complex"
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def batches(self, n: int, rank: int) -> tuple[int, ...]:
        """Return the batches of a worker, ascending.

        Raises:
            Incompatible: if n is less than 2s + 1, or is even and numbers are to be real.
        """
        self._real(n)
        place = _place(n, rank)
        return tuple(batch for batch, held_by in enumerate(_circle.holders(n, self.s)) if place in held_by)

    def encode(self, gradients: Sequence[Tensor], n: int, rank: int) -> Tensor:
        """Return the mixture of the batches' gradients (d,): (d,), or (2d,) if W is complex; see `transport`."""
        real, like = self._real(n), gradients[0]
        by = _circle.weights(n, self.s, real)[_place(n, rank), list(self.batches(n, rank))]
        dtype = self._dtype if real else self._dtype.to_complex()
        answer = _rows.combined(gradients, by, torch.empty(len(like), dtype=dtype, device=like.device))
        return answer if real else torch.view_as_real(answer).view(-1)

    def decode(self, answers: Sequence[Tensor | None], like: Tensor) -> Decoded:
        """Return the mean of all batches' gradients, and who has answered wrongly.

        Raises:
            Incompatible: see `batches`.
            RunError: if more than s answers are wrong or missing, and that can be seen.
        """
        n = len(answers)
        real, wrong, rows = self._real(n), set(), {}
        for rank, answer in enumerate(answers):
            if answer is None:
                continue
            if answer.dtype != self._dtype or answer.shape != (len(like) * (1 if real else 2),):
                wrong.add(_place(n, rank))
            else:
                rows[_place(n, rank)] = answer if real else torch.view_as_complex(answer.contiguous().view(-1, 2))
        found = _reading.told_apart(rows, n, self.s, real, self._rounding)
        if found is None:
            raise RunError(
                f"more than s = {self.s} of {n} answers are wrong or missing",
                f"s = {self.s + 1}; if nobody is hostile, machines compute too different numbers: set `tolerance`",
            )
        kept, liars = found
        by = _circle.combination(_circle.basis(n, self.s, real), kept, torch.full((n,), 1 / n, dtype=torch.float64))
        mean = _rows.combined([rows[place] for place in kept], by, torch.empty_like(like))
        return Decoded(mean, tuple(rank for rank in range(n) if _place(n, rank) in wrong | liars))

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.transport == "single" else torch.float64

    @property
    def _rounding(self) -> float:
        """By which part of its length an honest answer is off at most."""
        return self.tolerance + (2.0**-24 * 1.01 if self.transport == "single" else 2.0**-44)

    def _real(self, n: int) -> bool:
        require(
            n > 2 * self.s,
            f"cyclic with s = {self.s} needs at least {2 * self.s + 1} workers, got {n}",
            f"s = {(n - 1) // 2}" if n > 0 else None,
        )
        require(
            self.numbers == "complex" or n % 2 == 1,
            f"cyclic's numbers can be real for an odd number of workers, got {n}",
            f'numbers = "complex", or workers = {n + 1}',
        )
        return self.numbers == "real"


def _place(n: int, rank: int) -> int:
    """Return where on the circle a worker stands: neighbouring ranks a golden section apart."""
    step = next(each for each in range(round(n * (5**0.5 - 1) / 2), n + 1) if gcd(each, n) == 1)
    return rank * step % n


EXAMPLES = (Cyclic(), Cyclic(0), Cyclic(2), Cyclic(2, numbers="real"), Cyclic(transport="double"))
