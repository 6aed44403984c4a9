"""What real workers say to one another: a program that four processes run, and whose outcome the tests read.

Each function is one experiment on the default group; `python peers.py RANK SIZE STORE OUT` does them all, and writes
what went wrong, by name.
"""

from __future__ import annotations

import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import FileStore

from quorate.engines import Forgetful
from quorate.engines.gathering import gather_trace
from quorate.engines.group import join
from quorate.engines.processes import ProcessNode
from quorate.engines.summation import ring_sum
from quorate.engines.waiting import Waiting, drive
from quorate.errors import RunError
from quorate.exchange import Exchange
from quorate.optimizer import Optimizer
from quorate.programs.parameter_server import parameter_server
from quorate.programs.sparse_server import sparse_server
from quorate.wire import Ragged
from tests.sparse.tables import in_a_plain_loop, table_training
from tests.tiny import training

SIZES, DTYPES = (2, 3, 4), (torch.float32, torch.float64, torch.bfloat16)
SUMS = [(length, dtype) for length in (1, 7, 1000, 100_001) for dtype in DTYPES]
SUMS += [(1_500_000, torch.float64)]  # more than one of gloo's largest segments for each of four ranks


def drawn(rank: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Return what a rank adds: numbers of very different sizes, so that the order of adding shows."""
    generator = torch.Generator().manual_seed(1000 * length + rank)
    size = torch.randint(-6, 7, (length,), generator=generator)
    return (torch.randn(length, generator=generator) * 2.0**size).to(dtype)


def sums_in_the_order_of_the_ring(node: ProcessNode) -> None:
    for size in SIZES:
        group = dist.new_group(list(range(size)))
        if node.rank >= size:
            continue
        for length, dtype in SUMS:
            real = drawn(node.rank, length, dtype)
            dist.all_reduce(real, group=group)
            ours = ring_sum([drawn(rank, length, dtype) for rank in range(size)])
            assert torch.equal(real, ours), f"{size} ranks, {length} entries, {dtype}"
    dist.barrier()


def receives_from_whoever_comes_first(node: ProcessNode) -> None:
    like = (torch.zeros(3),)

    async def program() -> None:
        if node.rank:
            for turn in range(2):
                await node.send(0, (torch.full((3,), 10.0 * node.rank + turn),))
            return
        heard: dict[int, list[float]] = {}
        for _ in range(2 * (node.size - 1)):
            src, (tensor,) = await node.recv(None, like)
            heard.setdefault(src, []).append(float(tensor[0]))
        assert heard == {rank: [10.0 * rank, 10.0 * rank + 1] for rank in range(1, node.size)}

    drive(program())
    dist.barrier()


def gathers_messages_of_several_tensors(node: ProcessNode) -> None:
    rank = node.rank

    def message(rank: int) -> tuple[torch.Tensor, ...]:
        values = torch.arange(6, dtype=torch.float64).reshape(2, 3) + rank
        return values, torch.tensor([rank], dtype=torch.int32), values.bfloat16().t(), torch.tensor(rank % 2 == 0)

    async def program() -> None:
        gathered = await node.all_gather(message(rank))
        assert len(gathered) == node.size
        for src, heard in enumerate(gathered):
            for one, other in zip(heard, message(src), strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)

    drive(program())


def sends_messages_of_several_tensors_in_their_order(node: ProcessNode) -> None:
    like = (torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.float16))

    async def program() -> None:
        after, before = (node.rank + 1) % node.size, (node.rank - 1) % node.size
        sent = [node.send(after, (like[0] + turn, like[1] + node.rank)) for turn in range(3)]
        coming = [node.recv(before, like) for _ in range(3)]
        for turn, every in enumerate(coming):
            src, (counts, values) = await every
            assert (src, int(counts[0]), float(values[2])) == (before, turn, before)
        for done in sent:
            await done

    drive(program())


def overlaps_what_it_has_spawned(node: ProcessNode) -> None:
    events: list[str] = []

    async def meeting(name: str, value: float) -> float:
        events.append(f"{name} begins")
        total = await node.all_reduce(torch.tensor([value]))
        events.append(f"{name} goes on")
        return float((await node.all_reduce(total))[0])

    async def program() -> None:
        one, other = node.spawn(meeting("one", 1.0)), node.spawn(meeting("other", 2.0))
        assert isinstance(one, Waiting)
        assert events == ["one begins", "other begins"]
        assert await other == 2.0 * node.size**2
        assert await one == 1.0 * node.size**2

    drive(program())


def counts_what_it_sends(node: ProcessNode) -> None:
    before, messages = node.trace.sent_bytes[node.rank], node.trace.sent_messages[node.rank]

    async def program() -> None:
        await node.all_reduce(torch.zeros(1000))
        await node.all_gather((torch.zeros(10), torch.zeros(10, dtype=torch.int64)))
        if node.rank == 0:
            await node.send(1, (torch.zeros(5),))
        if node.rank == 1:
            await node.recv(0, (torch.zeros(5),))

    drive(program())
    others = node.size - 1
    sent = 2 * others * 4000 // node.size + others * 120 + 20 * (node.rank == 0)
    assert node.trace.sent_bytes[node.rank] - before == sent
    assert node.trace.sent_messages[node.rank] - messages == 3 * others + (node.rank == 0)


def converses_beside_its_own_work(node: ProcessNode) -> None:
    """Everybody asks everybody, by connections of two, and answers in the background meanwhile."""
    like, ask, answer = (torch.zeros(3), torch.zeros(1, dtype=torch.int64)), 21, 22
    others = [rank for rank in range(node.size) if rank != node.rank]
    answered: list[int] = []

    async def serve() -> None:
        for _ in range(2 * node.size):
            src, (values, turn) = await node.recv(None, like, ask)
            answered.append(src)
            await node.send(src, (values * 2, turn + 1), answer)

    async def program() -> None:
        serving = node.background(serve())
        for turn in range(2):
            for rank in [*others, node.rank]:
                await node.send(rank, (torch.full((3,), float(node.rank)), torch.tensor([turn])), ask)
                assert await node.compute(lambda: 1) == 1
            for rank in [*others, node.rank]:
                src, (values, told) = await node.recv(rank, like, answer)
                assert (src, float(values[1]), int(told)) == (rank, 2.0 * node.rank, turn + 1)
        await serving
        assert sorted(answered) == sorted(2 * list(range(node.size)))

    drive(program())
    dist.barrier()


def sends_any_number_of_rows(node: ProcessNode) -> None:
    """Lengths that grow and shrink, so that messages meet rooms of other sizes, and no rooms at all."""
    like = Ragged((torch.zeros(0, 17), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.uint8)))
    lengths = [0, 1, 3, 1000, 2000, 1999, 70_000, 5, 0, 40_000, 40_001, 7]
    after, before = (node.rank + 1) % node.size, (node.rank - 1) % node.size

    def message(src: int, length: int) -> Ragged:
        rows = torch.arange(17.0 * length).reshape(length, 17) + src
        return Ragged((rows, torch.arange(2 * length) - src, torch.full((1000,), src, dtype=torch.uint8)))

    async def program() -> None:
        for at_once in (1, 3):
            for first in range(0, len(lengths), at_once):
                turns = lengths[first : first + at_once]
                sent = [node.send(after, message(node.rank, length), 31) for length in turns]
                for length in turns:
                    src, came = await node.recv(before, like, 31)
                    assert src == before
                    for one, other in zip(came, message(before, length), strict=True):
                        assert one.dtype == other.dtype
                        assert torch.equal(one, other)
                for every in sent:
                    await every

    drive(program())
    dist.barrier()


def refuses_a_ragged_message_without_a_tag(node: ProcessNode) -> None:
    for call in (node.send, node.recv):
        with pytest.raises(RunError, match="a ragged message needs a tag from 1"):
            call(0, Ragged((torch.zeros(3),)))


def stays_within_the_bound_of_staleness(node: ProcessNode) -> None:
    """Computations take random times."""
    for staleness in (0.0, 1.0, 3.0, inf):
        noted = _Noted()
        node._recorder = noted
        made = training(size=node.size)
        pause = random.Random(node.rank)

        def slow(*given: object, take: object = made.gradient, pause: random.Random = pause) -> object:
            time.sleep(pause.choice([0.0, 0.001, 0.02]))
            return take(*given)  # type: ignore[operator]

        made.gradient = slow  # type: ignore[assignment]
        sgd = Optimizer("sgd", {"lr": 0.1})
        program = parameter_server(
            node, made, Exchange(), optimizer=sgd, steps=12, batch=4, servers=2, staleness=staleness
        )
        drive(program)
        assert noted.staleness.keys() == set(range(1, 13))
        assert max(noted.staleness.values()) <= staleness
        assert noted.staleness[6] == noted.staleness[12] == 0
        dist.barrier()
    node._recorder = Forgetful()


def trains_a_table_within_the_bound_of_staleness(node: ProcessNode) -> None:
    """Computations take random times; servers train as well, or not."""
    for staleness, colocated in ((0.0, True), (2.0, True), (2.0, False), (inf, True)):
        noted = _Noted()
        node._recorder = noted
        made = table_training(size=node.size if colocated else node.size - 2)
        pause = random.Random(node.rank)

        def slow(*given: object, take: object = made.gradient, pause: random.Random = pause) -> object:
            time.sleep(pause.choice([0.0, 0.001, 0.02]))
            return take(*given)  # type: ignore[operator]

        made.gradient = slow
        sgd = Optimizer("sgd", {"lr": 0.1})
        chosen = {"steps": 12, "batch": 4, "servers": 2, "colocated": colocated, "staleness": staleness}
        held = drive(sparse_server(node, made, Exchange(), optimizer=sgd, **chosen))  # type: ignore[arg-type]
        assert (len(held.ids) > 0) == (node.rank == 0)
        if node.rank < made.size:
            assert noted.staleness.keys() == set(range(1, 13))
            assert max(noted.staleness.values()) <= staleness
            assert noted.staleness[6] == noted.staleness[12] == 0
        if staleness == 0 and node.rank == 0:
            table = in_a_plain_loop(made, torch.optim.SGD, 12, 4, lr=0.1)
            torch.testing.assert_close(held.rows, table[held.ids], rtol=1e-10, atol=1e-12)
        dist.barrier()
    node._recorder = Forgetful()


class _Noted(Forgetful):
    """Note the staleness that a program reports; every sixth step is saved."""

    def __init__(self) -> None:
        self.staleness: dict[int, float] = {}

    def saves(self, step: int) -> bool:
        return step % 6 == 0

    def commit(self, rank: int, step: int, *told: object) -> None:
        if told[-1] is not None:
            self.staleness[step] = told[-1]["staleness"]  # type: ignore[index]


EXPERIMENTS: tuple[Callable[[ProcessNode], None], ...] = (
    sums_in_the_order_of_the_ring,
    receives_from_whoever_comes_first,
    gathers_messages_of_several_tensors,
    sends_messages_of_several_tensors_in_their_order,
    overlaps_what_it_has_spawned,
    counts_what_it_sends,
    converses_beside_its_own_work,
    sends_any_number_of_rows,
    refuses_a_ragged_message_without_a_tag,
    stays_within_the_bound_of_staleness,
    trains_a_table_within_the_bound_of_staleness,
)


def main(rank: int, size: int, store: str, out: Path) -> None:
    """Do all experiments; go on after a failed one, which the ranks that have not failed may wait for in vain."""
    torch.set_num_threads(1)
    board = join(rank, size, FileStore(store, size), "127.0.0.1", "cpu", 200.0)
    told = {}
    try:
        node = ProcessNode(store=board)
        for experiment in EXPERIMENTS:
            try:
                experiment(node)
                told[experiment.__name__] = "as it should be"
            except Exception:
                told[experiment.__name__] = traceback.format_exc()
        summary = gather_trace(node.trace)
        told["trace"] = json.dumps([worker["sent_bytes"] for worker in summary["workers"]])
        node.close()
    finally:
        dist.destroy_process_group()
    (out / f"told-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
