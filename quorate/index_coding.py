"""Where the entries of a sparse vector are, in few bytes: int32, or Elias-Fano's code if that is shorter.

Which of the two follows from how many of d entries there are, so that nothing has to say it. Elias-Fano's code splits
an index into low bits, which are written as they are, and high bits, which are written in unary as differences. It is
within half a bit of the shortest possible for random positions: 12 bits instead of 32 where one in 1,000 is chosen.

Source: Elias, "Efficient storage and retrieval by content and address of static files", Journal of the ACM 21(2), 1974.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quorate.errors import QuorateError

DTYPE = torch.uint8
LARGEST = 1 << 31
"""Vectors have fewer entries than this: an index fits into int32."""


def size(count: int, d: int) -> int:
    """Return the bytes of `count` coded indices below d; it grows with `count` no faster than by 4 bytes each."""
    return min(4 * count, _low_bytes(count, d) + _high_bytes(count, d))


def encode(indices: Tensor, d: int) -> Tensor:
    """Code indices.

    Args:
        indices: (k,), int64, ascending, each below d and there once.
        d: at most `LARGEST`.

    Returns:
        (size(k, d),), uint8, on the CPU.
    """
    count, numbers = len(indices), indices.cpu().numpy()
    if 4 * count <= _low_bytes(count, d) + _high_bytes(count, d):
        return torch.from_numpy(numbers.astype("<i4").view(np.uint8))
    low = _low_bits(count, d)
    ones = np.zeros(_high_bits(count, d), np.uint8)
    ones[(numbers >> low) + np.arange(count)] = 1
    parts = [np.packbits(ones, bitorder="little")]
    if low:
        parts.append(_packed(numbers, low))
    return torch.from_numpy(np.concatenate(parts))


def decode(coded: Tensor, count: int, d: int) -> Tensor:
    """Invert `encode`; the memory it takes is bounded by `count` and d, whatever the bytes are.

    Returns:
        (count,), int64, ascending, each below d and there once.

    Raises:
        QuorateError: if the bytes are no such indices.
    """
    if not 0 <= count <= d <= LARGEST or coded.dtype != DTYPE or coded.shape != (size(count, d),):
        raise QuorateError(
            f"{count} indices below {d} can't be coded by {coded.dtype}{list(coded.shape)}: the message is damaged"
        )
    found = _decoded(coded.cpu().numpy(), count, d)
    if len(found) != count or (count and (found[0] < 0 or found[-1] >= d or (np.diff(found) <= 0).any())):
        raise QuorateError(f"a message's indices are not {count} different ones below {d}: the message is damaged")
    return torch.from_numpy(found)


def _decoded(coded: npt.NDArray[np.uint8], count: int, d: int) -> npt.NDArray[np.int64]:
    if 4 * count <= _low_bytes(count, d) + _high_bytes(count, d):
        return np.frombuffer(coded.tobytes(), "<i4").astype(np.int64)
    low, split = _low_bits(count, d), _high_bytes(count, d)
    ones = np.flatnonzero(np.unpackbits(coded[:split], bitorder="little"))
    if len(ones) != count:
        return np.empty(0, np.int64)
    found = (ones - np.arange(count)) << low
    if low:
        found |= _unpacked(coded[split:], count, low)
    return found


def packed(numbers: Tensor, bits: int) -> Tensor:
    """Return the lowest bits of each number, one after the other.

    Args:
        numbers: (k,), int64, from 0.
        bits: of each, from 1 to 32.

    Returns:
        (ceil(k * bits / 8),), uint8, on the CPU.
    """
    return torch.from_numpy(_packed(numbers.cpu().numpy(), bits))


def unpacked(coded: Tensor, count: int, bits: int) -> Tensor:
    """Invert `packed`: return (count,), int64, on the CPU, each below 2 to the power of `bits`."""
    return torch.from_numpy(_unpacked(coded.cpu().numpy(), count, bits))


def _packed(numbers: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.uint8]:
    each = (numbers.astype(np.uint32)[:, None] >> np.arange(bits, dtype=np.uint32)) & 1
    return np.packbits(each.astype(np.uint8).reshape(-1), bitorder="little")


def _unpacked(coded: npt.NDArray[np.uint8], count: int, bits: int) -> npt.NDArray[np.int64]:
    each = np.unpackbits(coded, count=count * bits, bitorder="little").reshape(count, bits)
    return each.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))


def _low_bits(count: int, d: int) -> int:
    return max(0, (d // count).bit_length() - 1) if count else 0


def _high_bits(count: int, d: int) -> int:
    return count + (d >> _low_bits(count, d)) + 1


def _low_bytes(count: int, d: int) -> int:
    return (count * _low_bits(count, d) + 7) // 8


def _high_bytes(count: int, d: int) -> int:
    return (_high_bits(count, d) + 7) // 8
