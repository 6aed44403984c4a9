"""Whole numbers of a few bits each, side by side in bytes.

Eight codes of b bits fill b bytes: code i has bits i b to (i + 1) b - 1 of them, lowest first. They are moved within
64-bit numbers, by a few passes over as many bytes as there are codes, on any device; machines are little-endian.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quorate.errors import QuorateError

DTYPE = torch.uint8
_EACH_BYTE = 0x0101_0101_0101_0101
_GATHER = 0x0102_0408_1020_4080  # times eight bytes of one bit: its highest byte holds the eight bits
_LANES = {16: torch.int16, 32: torch.int32}
_SPREAD = 0x8040_2010_0804_0201  # bit i of byte i


def size(count: int, bits: int) -> int:
    """Return the bytes that `count` codes of `bits` bits take.

    Raises:
        ValueError: unless 1 <= bits <= 8.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"codes have 1 to 8 bits, got {bits}")
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes.

    Args:
        codes: (n,), uint8, each below 2**bits.

    Returns:
        (size(n, bits),), uint8; for 8 bits the codes themselves.
    """
    count = size(len(codes), bits)
    if bits == 8:
        return codes
    words = _words(codes)
    if bits == 1:
        return (words * _GATHER).view(DTYPE)[7::8][:count]
    width, lane = bits, 8  # bits used of the bits of a lane; lanes are joined by twos until they hold whole bytes
    while width % 8:
        low, high = _mask(width, 2 * lane, 0), _mask(width, 2 * lane, lane)
        words = (words & low).bitwise_or_((words & high).bitwise_right_shift_(lane - width))
        width, lane = 2 * width, 2 * lane
    if width == 8:
        return words.view(_LANES[lane]).to(DTYPE)[:count]
    return words.view(DTYPE).view(-1, lane // 8)[:, : width // 8].reshape(-1)[:count]


def unpack(packed: Tensor, count: int, bits: int) -> Tensor:
    """Invert `pack`; the memory it takes is bounded by `count`, and the bytes' number is checked first.

    Returns:
        (count,), uint8, each below 2**bits whatever the bytes are; for 8 bits the bytes themselves.

    Raises:
        QuorateError: if so many codes have another number of bytes.
    """
    if count < 0 or packed.dtype != DTYPE or packed.shape != (size(count, bits),):
        raise QuorateError(
            f"{count} codes of {bits} bits can't be packed in {packed.dtype}{list(packed.shape)}: the message is"
            " damaged"
        )
    if bits == 8:
        return packed
    if bits == 1:
        words = (packed.to(torch.int64) * _EACH_BYTE).bitwise_and_(_signed(_SPREAD))
        return words.view(DTYPE).ne_(0)[:count]
    words, width, lane = _lanes(packed, bits)
    while lane > 8:
        width, lane = width // 2, lane // 2
        low, high = _mask(width, 2 * lane, 0), _mask(width, 2 * lane, width)
        words = (words & low).bitwise_or_((words & high).bitwise_left_shift_(lane - width))
    return words.view(DTYPE)[:count]


def _lanes(packed: Tensor, bits: int) -> tuple[Tensor, int, int]:
    """Return 64-bit numbers of lanes, and the bits that are used of a lane, whole bytes, and that it has."""
    width, lane = bits, 8
    while width % 8:
        width, lane = 2 * width, 2 * lane
    used = width // 8
    count = -(-len(packed) // used)
    lanes = packed.new_zeros(-(-count * lane // 64) * 64 // lane, lane // 8)
    if used == 1:
        lanes.view(_LANES[lane])[:count, 0] = packed
    else:
        whole = len(packed) // used
        lanes[:whole, :used] = packed[: whole * used].view(-1, used)
        lanes[whole:count, : len(packed) % used] = packed[whole * used :]
    return lanes.view(-1).view(torch.int64), width, lane


def _words(codes: Tensor) -> Tensor:
    """Return codes as 64-bit numbers of eight, the last filled up by zeros."""
    if len(codes) % 8 or codes.stride(0) != 1 or codes.storage_offset() % 8:
        filled = codes.new_zeros(-(-len(codes) // 8) * 8)
        filled[: len(codes)] = codes
        codes = filled
    return codes.view(torch.int64)


def _mask(width: int, lane: int, shift: int) -> int:
    """Return `width` ones, shifted, in each lane of a signed 64-bit number."""
    return _signed(sum((((1 << width) - 1) << shift) << place for place in range(0, 64, lane)))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
