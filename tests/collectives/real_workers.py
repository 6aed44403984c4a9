"""Real workers that form sums by every collective: a program that each rank runs, in groups of all sizes up to theirs.

`python real_workers.py RANK SIZE FOLDER` writes what rank RANK has got in a group of n to `n-RANK.safetensors`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import FileStore

from quorate import parts
from quorate.engines.group import join
from quorate.engines.processes import ProcessNode
from quorate.engines.waiting import drive
from quorate.node import Node

LENGTHS = (1, 2, 3, 7, 64, 1000)
DTYPES = (torch.float32, torch.float64, torch.int64)


def given(rank: int, length: int, dtype: torch.dtype) -> Tensor:
    """Return what a rank adds: numbers of very different sizes, so that the order of adding shows."""
    generator = torch.Generator().manual_seed(100 * length + rank)
    size = torch.randint(-6, 7, (length,), generator=generator)
    numbers = torch.randn(length, generator=generator, dtype=torch.float64) * 2.0**size
    return numbers.to(dtype) if dtype.is_floating_point else (numbers * 2**20).to(dtype)


def scale(rank: int, dtype: torch.dtype) -> float:
    return 0.3 + 0.1 * rank if dtype.is_floating_point else 1.0


async def all_sums(node: Node, names: list[str]) -> dict[str, Tensor]:
    """Form the sums of tensors of all lengths and dtypes, by each collective, one right after the other."""
    sums = {}
    for name in names:
        collective = parts.build("collective", {"name": name})
        for length in LENGTHS:
            for dtype in DTYPES:
                total = await collective(node, given(node.rank, length, dtype), scale(node.rank, dtype))
                sums[f"{name} {length} {str(dtype).removeprefix('torch.')}"] = total.clone()
    return sums


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for n in range(size, rank, -1):
        board = join(rank, n, FileStore(str(folder / f"store-{n}"), n), "127.0.0.1", "cpu", 200.0)
        try:
            node = ProcessNode(store=board)
            sums = drive(all_sums(node, sorted(parts.names("collective"))))
            node.close()
        finally:
            dist.destroy_process_group()
        save_file(sums, folder / f"{n}-{rank}.safetensors")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
