"""One rank of a run on real processes."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from quorate import checkpoint, choosing, folder
from quorate.checkpoint import Checkpoint
from quorate.engines import PeerError
from quorate.engines.gathering import collect_trace, gather_trace
from quorate.engines.group import join, torchrun_store
from quorate.engines.processes import ProcessNode
from quorate.errors import RunError
from quorate.exchange import Exchange
from quorate.files import write_atomically
from quorate.recipe import Recipe
from quorate.recorder import Progress, RunRecorder, merge
from quorate.sparse.training import SparseTraining
from quorate.trace import Trace
from quorate.training import Training
from quorate.trees import flatten, nest

_OFFERED = 4  # checkpoints that a rank offers to go on from
_LARGEST_SHARED = 1 << 36  # bytes of shared state that a rank takes from rank 0


def work(where: Path, rank: int, size: int, store: Store, address: str, progress: Progress | None = None) -> None:
    """Take part in a run as one rank; go on from the last checkpoint that all ranks have, if there is one.

    Args:
        where: the run's folder; other machines than rank 0's may have one of their own at the same place.
        store: a key-value store that all ranks share, empty of what an earlier attempt has left.
        address: of another rank, or of the store's host; the network interface that leads there is used.

    Raises:
        RunError: naming the rank and the step, and who is late or gone.
    """
    facts = folder.read(where)
    recipe = folder.recipe_of(where)
    settings = recipe.processes
    torch.set_num_threads(settings.threads)
    board = join(rank, size, store, address, settings.device, settings.timeout)
    try:
        device = f"cuda:{torch.cuda.current_device()}" if settings.device == "cuda" else "cpu"
        data = Path(facts["data"]) if facts["data"] else None
        training = recipe.training(size, data, device)
        _run(where, recipe, training, board, device, progress)
    finally:
        dist.destroy_process_group()


def _run(
    where: Path,
    recipe: Recipe,
    training: Training | SparseTraining,
    board: Store,
    device: str,
    progress: Progress | None,
) -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    trace = Trace(size)
    with _together(rank, "agree on a checkpoint to begin from"):
        resumed = _agreed(where / "checkpoints", rank, size)
    chosen = _chosen(where, recipe, training, board, device)
    record = RunRecorder(where, range(rank, rank + 1), size, recipe.record, training, trace, resumed, progress)
    node = ProcessNode(recorder=record, trace=trace, store=board, device=device, timeout=recipe.processes.timeout)
    exchange = recipe.attacked(chosen.laid_out(training.layout), size)
    exchange = replace(exchange, watch=record.watch, judged=record.judge)
    with closing(record):
        parameters = node.run(recipe.program(node, training, exchange))
        measures = record.finish(parameters)
    with _together(rank, "gather the trace"):
        if recipe.plan(size).survives:  # no collectives, which a rank that has left would hold up
            summary = collect_trace(trace, rank, board, lambda: node.board.silent() if node.board else ())
        else:
            summary = gather_trace(trace)
    if rank == 0:
        merge(where, size)
        steps, seconds = record.steps, record.wall_seconds
        folder.finish(where, parameters, training.layout, measures, steps, summary, seconds)
    node.close()


def _chosen(where: Path, recipe: Recipe, training: Training | SparseTraining, board: Store, device: str) -> Exchange:
    """Return what is said in the run's meetings; if that is to be chosen, rank 0 chooses, or has done so before."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if choosing.adaptive_of(recipe, size) is None:
        return choosing.resolved(recipe, {})
    # A node of its own, so that what is measured is not counted as the run's.
    node = ProcessNode(store=PrefixStore("choosing", board), device=device, timeout=recipe.processes.timeout)
    recorded = folder.read(where).get(choosing.KEY) if rank == 0 else None
    choice = choosing.for_measured(recipe, node, training, recorded)
    node.close()
    facts = {choosing.KEY: choice.facts()}
    if rank == 0 and recorded is None:
        folder.update(where, facts)
        choosing.tell(facts, lambda text: print(text, file=sys.stderr, flush=True))
    return choosing.resolved(recipe, facts)


@contextmanager
def _together(rank: int, what: str) -> Iterator[None]:
    """Name what was going on when torch raises outside the program because a peer is late or gone."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:160]
        raise PeerError(f"rank {rank} ({socket.gethostname()}): the ranks could not {what} [{reason}]") from error


def _agreed(checkpoints: Path, rank: int, size: int) -> Checkpoint | None:
    """Find the last step of which all ranks have their file; the shared state comes from rank 0."""
    mine = torch.full((_OFFERED,), -1, dtype=torch.int64)
    steps = checkpoint.steps_of(checkpoints, rank, size)[-_OFFERED:]
    mine[: len(steps)] = torch.tensor(steps, dtype=torch.int64)
    offers = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(offers, mine)
    common = set.intersection(*(set(offer.tolist()) for offer in offers)) - {-1}
    if not common:
        return None
    saved = checkpoint.read(checkpoints, max(common), size, only=rank)
    packed = torch.frombuffer(bytearray(save(flatten(saved.shared))), dtype=torch.uint8)
    length = torch.tensor([len(packed)])
    dist.broadcast(length, 0)
    if not 0 <= int(length) <= _LARGEST_SHARED:
        raise RunError(f"rank 0 offers {int(length)} bytes of shared state, over {_LARGEST_SHARED}")
    if rank != 0:
        packed = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(packed, 0)
    return Checkpoint(saved.step, nest(load_tensors(packed.numpy().tobytes())), saved.own, saved.facts)


def local(where: Path, rank: int, size: int, path: Path, progress: Progress | None = None) -> None:
    """Work as one of the processes that `quorate run --workers` starts; the store is a file in a private folder."""
    work(where, rank, size, FileStore(str(path), size), "127.0.0.1", progress)


def torchrun(
    create: Callable[[], Path], progress: Progress | None = None, timeout: float = 300.0
) -> tuple[int, dict[str, Any]]:
    """Work as one of torchrun's processes.

    After a restart by torchrun the run goes on from its last checkpoint.

    Args:
        create: makes the run's folder; called on rank 0 in the first attempt.

    Returns:
        This process's rank, and the run's result on rank 0, {} on the others.
    """
    rank, size, address = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ["MASTER_ADDR"]
    lasting, store = torchrun_store(timeout)
    if rank == 0 and not lasting.check(["folder"]):
        made = create()
        texts = {name: (made / name).read_text() for name in ("run.json", "recipe.toml")}
        lasting.set("folder", json.dumps({"folder": str(made), "texts": texts}))
    told = json.loads(lasting.get("folder"))
    where = Path(told["folder"])
    if not (where / "run.json").exists():  # another machine, without a file system in common
        where.mkdir(parents=True, exist_ok=True)
        for name in ("recipe.toml", "run.json"):
            write_atomically(where / name, told["texts"][name].encode())
    if rank == 0:
        with folder.locked(where):
            folder.update(where, {"status": "running", "error": None})
            try:
                work(where, rank, size, store, address, progress)
            except BaseException as error:
                folder.failed(where, error)
                raise
            return rank, dict(folder.read(where)["result"])
    work(where, rank, size, store, address)
    return rank, {}
