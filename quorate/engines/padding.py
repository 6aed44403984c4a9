"""Messages that differ in length, by a collective that takes equally long ones: they are filled up to the longest."""

from __future__ import annotations

from collections.abc import Callable

import torch

from quorate.engines.waiting import Waiting
from quorate.errors import RunError
from quorate.wire import RAGGED_BYTES, Message, Ragged, described, size_in_bytes

Gather = Callable[[Message], Waiting[list[Message]]]


def gather_ragged(gather: Gather, message: Ragged, like: Message | None) -> Waiting[list[Message]]:
    """Give every worker the ragged messages of all; how long they are is told first, and waited for.

    Args:
        gather: gives every worker the messages of all, which are equally long.
        like: the most rows that each tensor may have; None: as many as a ragged message may have.

    Raises:
        RunError: naming the rank whose message is longer than it may be.
    """
    told = gather((torch.tensor([len(tensor) for tensor in message]),)).wait()
    outlines = [_outline(message, like, rank, rows.tolist()) for rank, (rows,) in enumerate(told)]
    packed = torch.zeros(max(map(size_in_bytes, outlines)), dtype=torch.uint8)
    offset = 0
    for tensor in message:
        count = size_in_bytes((tensor,))
        packed[offset : offset + count] = tensor.contiguous().reshape(-1).view(torch.uint8)
        offset += count
    coming = gather((packed,))
    return Waiting(
        lambda: [_cut(filled[0], outline) for filled, outline in zip(coming.wait(), outlines, strict=True)],
        lambda: _through(coming),
    )


def _through(coming: Waiting[list[Message]]) -> None:
    coming.wait()


def _outline(message: Ragged, like: Message | None, rank: int, rows: list[int]) -> Ragged:
    most = [len(tensor) for tensor in like] if like is not None else [0] * len(message)
    outline = Ragged(
        tensor.new_empty((max(0, count), *tensor.shape[1:]), device="meta")
        for tensor, count in zip(message, rows, strict=True)
    )
    within = all(0 <= count <= (limit or count) for count, limit in zip(rows, most, strict=True))
    if not within or size_in_bytes(outline) > RAGGED_BYTES:
        raise RunError(f"rank {rank} says {described(message)} of {rows} rows, but may say at most {most}")
    return outline


def _cut(packed: torch.Tensor, outline: Ragged) -> Ragged:
    pieces, offset = [], 0
    for tensor in outline:
        count = size_in_bytes((tensor,))
        piece = torch.empty(tensor.shape, dtype=tensor.dtype)
        piece.reshape(-1).view(torch.uint8).copy_(packed[offset : offset + count])
        pieces.append(piece)
        offset += count
    return Ragged(pieces)
