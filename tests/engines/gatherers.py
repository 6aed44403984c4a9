"""What real workers gather over connections of two: a program that two or three processes run.

`python -m tests.engines.gatherers RANK SIZE STORE OUT EXPERIMENT` does one experiment, and writes what came of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import FileStore

from quorate.engines.group import join
from quorate.engines.processes import ProcessNode
from quorate.errors import QuorateError
from quorate.wire import Ragged

LENGTHS = (0, 1, 100, 70_000, 7, 40_000, 40_001, 3, 300_000, 2, 65_536)


def said(rank: int, turn: int) -> Ragged:
    """Return what a rank says in a turn: messages of all lengths, different on all ranks."""
    length = LENGTHS[(turn + 3 * rank) % len(LENGTHS)]
    values = torch.arange(length, dtype=torch.float32) + 1000 * rank + turn
    return Ragged((values, torch.full((length % 50,), rank, dtype=torch.uint8)))


LIKE = Ragged((torch.empty(max(LENGTHS), device="meta"), torch.empty(50, dtype=torch.uint8, device="meta")))


def right(node: ProcessNode, heard: list[tuple[torch.Tensor, ...]], turn: int) -> bool:
    """Return whether these are all ranks' messages of a turn."""
    expected = [said(rank, turn) for rank in range(node.size)]
    pairs = zip(heard, expected, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def one_after_the_other(node: ProcessNode) -> object:
    return all(right(node, node.all_gather(said(node.rank, turn), LIKE).wait(), turn) for turn in range(30))


def several_under_way(node: ProcessNode) -> object:
    """Each rank awaits them in an order of its own."""
    outcomes = []
    for first in range(0, 24, 6):
        under_way = {turn: node.all_gather(said(node.rank, turn), LIKE) for turn in range(first, first + 6)}
        order = sorted(under_way, key=lambda turn: (turn * 7 + node.rank * 3) % 5)
        outcomes += [right(node, under_way[turn].wait(), turn) for turn in order]
    return all(outcomes)


def of_several_likes(node: ProcessNode) -> object:
    """Buckets of different lengths, the longest of which a rank that is ahead sends first."""
    outcomes = []
    for _ in range(5):
        if node.rank:
            time.sleep(0.02)
        under_way = []
        for rows in (5, 90_000, 50):
            like = Ragged((torch.empty(rows, device="meta"),))
            under_way.append((rows, node.all_gather(Ragged((torch.full((rows,), 1.0 + node.rank),)), like)))
        for rows, gather in reversed(under_way):
            heard = gather.wait()
            outcomes += [len(each) == rows and float(each.sum()) == rows * (1.0 + r) for r, (each,) in enumerate(heard)]
    return all(outcomes)


def one_says_too_much(node: ProcessNode) -> object:
    like = Ragged((torch.empty(10, device="meta"),))
    mine = Ragged((torch.zeros(11 if node.rank == 1 else 10),))
    return refusal(lambda: node.all_gather(mine, like).wait())


def one_says_something_else(node: ProcessNode) -> object:
    like = Ragged((torch.empty(10, device="meta"),))
    mine = Ragged((torch.zeros(3, dtype=torch.int64 if node.rank == 1 else torch.float32),))
    return refusal(lambda: node.all_gather(mine, like).wait())


def one_is_killed(node: ProcessNode) -> object:
    """What the others learn of gathers that were under way, whichever they await first."""
    node.all_gather(said(node.rank, 0), LIKE).wait()
    if node.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    first, second = (node.all_gather(said(node.rank, turn), LIKE) for turn in (1, 2))
    return [refusal(second.wait), refusal(first.wait)]


def one_has_ended(node: ProcessNode) -> object:
    node.all_gather(said(node.rank, 0), LIKE).wait()
    if node.rank == 1:
        return []
    return [refusal(lambda: node.all_gather(said(node.rank, 1), LIKE).wait())]


def one_fails_with_gathers_under_way(node: ProcessNode) -> object:
    under_way = [node.all_gather(said(node.rank, turn), LIKE) for turn in (0, 1)]
    if node.rank == 1:
        raise QuorateError("a bad sample")
    return [right(node, under_way[1].wait(), 1), refusal(lambda: node.all_gather(said(node.rank, 2), LIKE).wait())]


def refusal(call: Callable[[], object]) -> str:
    """Return what a call that must fail says, and how fast it does."""
    began = time.monotonic()
    try:
        call()
    except QuorateError as error:
        return f"{type(error).__name__}: {error.problem}" + " too late" * (time.monotonic() - began > 100)
    return "it went well"


def main(rank: int, size: int, store: str, out: Path, experiment: str) -> None:
    """Do one experiment."""
    torch.set_num_threads(1)
    board = join(rank, size, FileStore(store, size), "127.0.0.1", "cpu", 200.0)
    node = ProcessNode(store=board, timeout=200.0)
    began = 0.0

    async def program() -> object:
        return globals()[experiment](node)

    try:
        told = node.run(program())
    except QuorateError as error:
        told = error.problem
    finally:
        began = time.monotonic()
        node.close()
        dist.destroy_process_group()
    left = sorted(each.name for each in threading.enumerate() if each.name.startswith("quorate"))
    seconds = time.monotonic() - began
    (out / f"told-{rank}.json").write_text(json.dumps({"told": told, "seconds": seconds, "threads": left}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5])
