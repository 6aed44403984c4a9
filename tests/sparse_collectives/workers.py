"""Workers that combine sparse updates by every sparse collective, simulated or real.

`python -m tests.sparse_collectives.workers RANK SIZE FOLDER` writes what rank RANK has got to `RANK.safetensors`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import FileStore

from quorate import parts
from quorate.codecs._sparsifier import Sparsifier
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.top_k import TopK
from quorate.engines.group import join
from quorate.engines.processes import ProcessNode
from quorate.engines.waiting import drive
from quorate.exchange import Exchange
from quorate.node import Node
from quorate.rand import At, Rand

LENGTHS = (1, 2, 5, 64, 3000)
STEPS = 3


@dataclass(frozen=True)
class NotZero(Sparsifier):
    """Say all entries but zeros: as many as there happen to be."""

    exact: ClassVar[bool] = False

    def at_most(self, d: int) -> int:
        return d

    def select(self, x: Tensor, at: At) -> Tensor:
        return x.nonzero()[:, 0]


def made(name: str, codec: object = None) -> Exchange:
    """Return an exchange by the sparse collective of a name."""
    built = parts.build("sparse_collective", {"name": name})
    return Exchange(codec or ErrorFeedback(NotZero()), sparse_collective=built)


def given(rank: int, d: int, step: int = 0, kept: float = 0.3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a rank's update: numbers of very different sizes among zeros, so that the order of adding shows."""
    generator = torch.Generator().manual_seed(1000 * d + 10 * step + rank)
    size = torch.randint(-6, 7, (d,), generator=generator)
    numbers = torch.randn(d, generator=generator, dtype=torch.float64) * 2.0**size
    return (numbers * (torch.rand(d, generator=generator) < kept)).to(dtype)


async def all_sums(node: Node, names: list[str]) -> dict[str, Tensor]:
    """Meet by each sparse collective in some steps, and at last by several at once."""
    got: dict[str, Tensor] = {}
    for name in names:
        for d in LENGTHS:
            for codec in (ErrorFeedback(NotZero()), ErrorFeedback(TopK(0.2))):
                exchange = made(name, codec)
                state = exchange.init(given(0, d))
                for step in range(STEPS):
                    at = At(step, node.rank, node.size, Rand(0))
                    total, state = await exchange(node, given(node.rank, d, step), state, at)
                    got[f"{name} {d} {type(codec.codec).__name__} {step}"] = total.clone()
                got[f"{name} {d} {type(codec.codec).__name__} left"] = state["residual"].clone()
    at = At(0, node.rank, node.size, Rand(0))
    exchanges = {f"{name} {d}": (made(name), d) for name in names for d in (64, 3000)}
    meetings = {
        label: node.spawn(exchange(node, given(node.rank, d), exchange.init(given(0, d)), at))
        for label, (exchange, d) in exchanges.items()
    }
    return got | {f"{label} at once": (await meeting)[0].clone() for label, meeting in meetings.items()}


async def gathered(node: Node, d: int) -> Tensor:
    """Meet by messages of known lengths."""
    update = given(node.rank, d)
    return (await Exchange(Identity(), sum_of_each)(node, update, {}, At(0, node.rank, node.size, Rand(0))))[0]


def sum_of_each(updates: Tensor, weights: Tensor | None = None) -> Tensor:
    return updates.sum(dim=0)


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    board = join(rank, size, FileStore(str(folder / "store"), size), "127.0.0.1", "cpu", 200.0)
    try:
        node = ProcessNode(store=board)
        sums = drive(all_sums(node, sorted(parts.names("sparse_collective"))))
        sums["gathered"] = drive(gathered(node, 3000))
        sums["bytes"] = torch.tensor(node.trace.sent_bytes)
        node.close()
    finally:
        dist.destroy_process_group()
    save_file(sums, folder / f"{rank}.safetensors")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
