"""Quantisers: codecs that say every entry in a few bits, and a number or two for each block of entries.

The head holds the codes, packed; the side holds the blocks' numbers (blocks, width). An update is coded piece by piece,
each small enough to stay in the processor's cache, so that the passes that a codec makes over a piece cost little
besides the one that fetches it from memory, and no temporary grows with d.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from quorate import bit_packing, kernels
from quorate.codecs import Plain, Side, State
from quorate.errors import QuorateError, RecipeError
from quorate.rand import At
from quorate.wire import Message, Wire, described, require

Block = Annotated[int, Field(ge=8, multiple_of=8)]

_ON_CPU = 1 << 18  # entries of a piece: 1 MiB of float32
_ELSEWHERE = 1 << 24


class Anatomy(NamedTuple):
    """How the bits of a floating-point number are used: a sign, an exponent, a mantissa."""

    integer: torch.dtype
    mantissa: int
    bias: int

    @property
    def width(self) -> int:
        """The number of all bits."""
        return self.integer.itemsize * 8


_ANATOMY = {torch.float32: Anatomy(torch.int32, 23, 127), torch.float64: Anatomy(torch.int64, 52, 1023)}


def anatomy(dtype: torch.dtype) -> Anatomy:
    """Return how a number's bits are used.

    Raises:
        RecipeError: unless it is float32 or float64.
    """
    if dtype not in _ANATOMY:
        raise RecipeError(f"quantisers are given float32 or float64, got {dtype}", "convert the model: `model.float()`")
    return _ANATOMY[dtype]


def pieces(d: int, block: int, device: torch.device) -> Iterator[tuple[slice, slice, int]]:
    """Cut d entries into pieces of whole blocks.

    Yields:
        The piece's entries, its blocks, and how many entries each of them has: `block`, unless it is the last.
    """
    most = max(1, (_ON_CPU if device.type == "cpu" else _ELSEWHERE) // block)
    whole = d // block
    for first in range(0, whole, most):
        last = min(first + most, whole)
        yield slice(first * block, last * block), slice(first, last), block
    if d % block:
        yield slice(whole * block, d), slice(whole, whole + 1), d % block


class Quantiser(Plain, ABC):
    """What all quantisers share; each says how a block is coded.

    Raises:
        RecipeError: if a block is no multiple of 8 entries.
    """

    block: int
    """Entries that share the numbers of the side."""
    width: ClassVar[int] = 1
    """How many numbers a block has."""
    random: ClassVar[bool] = False
    """Whether it draws random bits."""

    def __post_init__(self) -> None:
        if self.block < 8 or self.block % 8:
            raise RecipeError(f"a quantiser's blocks have a multiple of 8 entries, got {self.block}", "block = 1024")

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits of a code, at most 8."""

    @abstractmethod
    def quantise(self, rows: Tensor, numbers: Tensor, codes: Tensor, spare: Tensor, chance: Tensor | None) -> None:
        """Code some blocks.

        Args:
            rows: (r, b), entries of r blocks, only read.
            numbers: (r, width), to be filled: finite numbers, of the entries' dtype.
            codes: (r, b), uint8, to be filled.
            spare: (r, b), of the entries' dtype, for any use.
            chance: (r, b), random bits as integers of the entries' size, for any use; None unless `random`.
        """

    @abstractmethod
    def values(self, codes: Tensor, numbers: Tensor, out: Tensor) -> None:
        """Decode some blocks: see `quantise`; `out` (r, b) is to be filled, codes may be written to."""

    def fused(self) -> kernels.Fused | None:
        """Return the kernels that do all of it in one pass over an update on a GPU, if there are any."""
        return None

    def wire(self, before: Wire) -> Wire:
        """Declare that messages hold numbers of blocks, which can't be summed."""
        require(before.number == "real", f"{self} rounds real numbers, but is given something else", "put it last")
        return replace(before, number="integer", summable=False, l2_bound=inf)

    def emits(self, like: Tensor) -> Message:
        """Declare the packed codes and the blocks' numbers."""
        d = len(like)
        head = like.new_empty(bit_packing.size(d, self.bits), dtype=bit_packing.DTYPE)
        return head, like.new_empty(-(-d // self.block), self.width)

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Code all blocks."""
        return (*self._said(x, at, take=False), state)

    def take(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Code all blocks, and subtract from each what its codes say, as long as it is at hand."""
        return (*self._said(x, at, take=True), state)

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Decode all blocks."""
        out = like.new_empty(len(like))
        if fused := self._fused(like):
            fused.hear(out, head, self._numbers(head, side, like), self.block, None)
            return out
        for place, codes, numbers in self._heard(head, side, like):
            self.values(codes, numbers, out[place].view_as(codes))
        return out

    def add(self, total: Tensor, head: Tensor, side: Side, share: float, at: At) -> None:
        """Decode block by block, and add."""
        if fused := self._fused(total):
            fused.hear(total, head, self._numbers(head, side, total), self.block, share)
            return
        spare = total.new_empty(self._longest(total))
        for place, codes, numbers in self._heard(head, side, total):
            said = spare[: codes.numel()]
            self.values(codes, numbers, said.view_as(codes))
            total[place].add_(said, alpha=share)

    def _said(self, x: Tensor, at: At, *, take: bool) -> tuple[Tensor, Side]:
        head, numbers = self.emits(x)
        if fused := self._fused(x):
            fused.say(x, head, numbers, self.block, take=take)
            return head, (numbers,)
        longest = self._longest(x)
        spare, unpacked = x.new_empty(longest), head.new_empty(longest if self.bits < 8 else 0)
        drawn = torch.empty(longest * x.element_size() // 8 + 1 if self.random else 0, dtype=torch.int64).to(x.device)
        generator = at.own.fold(type(self).__name__).generator(x.device) if self.random else None
        for place, blocks, width in pieces(len(x), self.block, x.device):
            rows, count = x[place].view(-1, width), place.stop - place.start
            packed = head[place.start * self.bits // 8 : bit_packing.size(place.stop, self.bits)]
            codes = (packed if self.bits == 8 else unpacked[:count]).view_as(rows)
            floats, chance = spare[:count].view_as(rows), None
            if generator is not None:
                drawn.random_(-(1 << 63), None, generator=generator)
                chance = drawn.view(anatomy(x.dtype).integer)[:count].view_as(rows)
            self.quantise(rows, numbers[blocks], codes, floats, chance)
            if self.bits < 8:
                packed.copy_(bit_packing.pack(codes.view(-1), self.bits))
            if take:
                self.values(codes, numbers[blocks], floats)
                rows.sub_(floats)
        return head, (numbers,)

    def _fused(self, x: Tensor) -> kernels.Fused | None:
        return self.fused() if x.dtype == torch.float32 and kernels.usable(x, self.block) else None

    def _numbers(self, head: Tensor, side: Side, like: Tensor) -> Tensor:
        """Return the blocks' numbers of a message.

        Raises:
            QuorateError: if it is no message of this codec.
        """
        wanted = self.emits(like.to("meta"))
        said = (head, *side)
        if [(each.shape, each.dtype) for each in said] != [(each.shape, each.dtype) for each in wanted]:
            raise QuorateError(f"{self} expects {described(wanted)}, got {described(said)}: the message is damaged")
        (numbers,) = side
        if not torch.isfinite(numbers).all():
            raise QuorateError(f"the numbers of a message of {self} are not finite: it is damaged")
        return numbers

    def _heard(self, head: Tensor, side: Side, like: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield where a piece is, its codes and its numbers; see `_numbers`."""
        numbers = self._numbers(head, side, like)
        for place, blocks, width in pieces(len(like), self.block, like.device):
            packed = head[place.start * self.bits // 8 : bit_packing.size(place.stop, self.bits)]
            codes = bit_packing.unpack(packed, place.stop - place.start, self.bits)
            yield place, codes.view(-1, width), numbers[blocks]

    def _longest(self, x: Tensor) -> int:
        return max((place.stop - place.start for place, _, _ in pieces(len(x), self.block, x.device)), default=0)


def largest(rows: Tensor, spare: Tensor) -> Tensor:
    """Return the blocks' largest absolute values (r, 1)."""
    return torch.abs(rows, out=spare).amax(dim=1, keepdim=True)


def sign_bits(rows: Tensor, codes: Tensor, spare: Tensor) -> None:
    """Write 1 to the codes (r, b) of the entries that are negative, -0 included, and 0 to the others."""
    kind = anatomy(rows.dtype)
    integers = spare.view(kind.integer)
    torch.bitwise_right_shift(rows.view(kind.integer), kind.width - 1, out=integers)
    codes.copy_(integers).bitwise_and_(1)


def normal(steps: Tensor, most: float) -> Tensor:
    """Keep steps so large that a division by them, and so small that `most` times them, is finite; in place."""
    numbers = torch.finfo(steps.dtype)
    return steps.clamp_(numbers.tiny, numbers.max / most * (1 - numbers.eps))


def widened(codes: Tensor, mantissa: int, bias: int, out: Tensor) -> None:
    """Write to `out` the numbers that 8-bit codes mean: a sign, an exponent, and a mantissa of so many bits.

    Subnormal ones included; what other formats take for infinity and NaN is a number like any other.
    """
    kind = anatomy(out.dtype)
    shift = kind.mantissa - mantissa
    numbers = out.view(kind.integer).copy_(codes.view(torch.int8)).bitwise_left_shift_(shift)
    numbers.bitwise_and_((0x7F << shift) - (1 << kind.width - 1))
    if kind.bias != bias:
        out.mul_(2.0 ** (kind.bias - bias))
