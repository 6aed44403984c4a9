"""Blocks of coordinates: what a rule does to whole rows is done to pieces of them that stay in the cache.

On a CPU, torch computes a tensor of a block's length on the thread that asks for it. Several blocks are under way on as
many threads, which never wait for one another; what comes out depends neither on their number nor on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import hypot, inf

import torch
from torch import Tensor

BLOCK = 3 << 13
"""Coordinates of a block: torch splits work, and the order of its sums, from 2**15 entries on."""
ON_DEVICES = 1 << 22
"""Coordinates of a block elsewhere than on a CPU, where each operation takes microseconds to start."""
THREADS = 8
"""The most threads that are used: of more, each would wait for the others' Python."""

Work = Callable[[Sequence[slice]], None]


def in_blocks(updates: Tensor, work: Work, block: int = BLOCK) -> None:
    """Have all coordinates worked at.

    Args:
        updates: (n, d); what it is on decides where work is done.
        work: is given blocks of coordinates, in order; on several threads, each of which is given some of them.
    """
    d, on_cpu = updates.shape[1], updates.device.type == "cpu"
    length = block if on_cpu else max(1, ON_DEVICES * block // BLOCK)
    blocks = [slice(first, min(first + length, d)) for first in range(0, d, length)]
    threads = min(torch.get_num_threads(), len(blocks), THREADS) if on_cpu else 1
    if threads < 2:
        work(blocks)
        return
    inference = torch.is_inference_mode_enabled()  # which each thread has of its own

    def some(first: int) -> None:
        with torch.inference_mode(inference):
            work(blocks[first::threads])

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(some, first) for first in range(threads)]:
            done.result()


def computed_in(updates: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float32 for anything shorter."""
    return torch.promote_types(updates.dtype, torch.float32)


def lengths(updates: Tensor, rows: Sequence[int]) -> list[float]:
    """Return the Euclidean norms of rows of updates (n, d), the same bits on any number of threads; inf only if a
    float64 can't hold one."""
    found = [[0.0] * -(-updates.shape[1] // BLOCK) for _ in rows]
    detached = updates.detach()

    def work(blocks: Sequence[slice]) -> None:
        for block in blocks:
            for row, norms in zip(rows, found, strict=True):
                norms[block.start // BLOCK] = length(detached[row, block])

    in_blocks(updates, work)
    return [hypot(*norms) for norms in found]


def length(x: Tensor) -> float:
    """Return the Euclidean norm of a block x (d,), however large or small its entries are."""
    norm = float(torch.linalg.vector_norm(x, dtype=computed_in(x)))
    if 1e-15 < norm < inf:
        return norm
    largest = float(x.abs().max())
    if not 0 < largest < inf:
        return largest
    return largest * float(torch.linalg.vector_norm(x.to(torch.float64) / largest))


def times(x: Tensor, factor: float, out: Tensor) -> None:
    """Multiply x by a factor in [0, 1], however small it is."""
    if factor > 1e-30:
        torch.mul(x, factor, out=out)
    else:
        torch.mul(x, factor**0.5, out=out).mul_(factor**0.5)
