"""A recipe becomes a run: on the simulator, on processes of this machine, or as one of torchrun's workers."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch

from quorate import checkpoint, choosing, federation, folder, rehearsal
from quorate.cluster_file import load_cluster
from quorate.cursor import SharedTraining
from quorate.elastic import Options, coordinate, required
from quorate.engines.batching import Batching
from quorate.engines.launch import launch
from quorate.engines.simulator import Simulator
from quorate.errors import RunError
from quorate.member import require_elastic, training_of
from quorate.parts import typed
from quorate.recipe import Recipe, Seed, load
from quorate.recorder import Progress, RunRecorder
from quorate.schedule import Schedule
from quorate.sparse.training import SparseTraining
from quorate.trace import Trace
from quorate.training import Training

_EXACT_UP_TO = 16  # workers


def simulate(
    recipe: Recipe,
    size: int,
    out: Path | None = None,
    data: Path | None = None,
    progress: Progress | None = None,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a recipe on the simulator.

    Args:
        size: number of workers.
        out: the run's folder; None for a new one below `runs/`.
        data: the folder of data sets, for tasks that read files.
        progress: told of the steps done and the last evaluation.
        told: is told which workers leave and join, by the cluster's events.

    Returns:
        The run's result: accuracy, loss, steps, clock_seconds, wall_seconds, bytes, parameters_sha256, run.

    Raises:
        QuorateError: for a mistake in the recipe, the data or the task; the folder and its checkpoints are kept.
    """
    torch.set_num_threads(recipe.simulator.threads)
    schedule = rehearsal.schedule_of(recipe, size)
    training = _prepared(recipe, schedule, data)
    facts = {"batching": _batching(recipe, size), "parameters": training.layout.numel}
    if schedule.events:
        facts["schedule"] = schedule.describe(len(schedule.events))
    facts |= choosing.for_described(recipe, size, training)
    where = folder.create(out, recipe, "simulator", size, data, facts)
    choosing.tell(facts, told)
    with folder.locked(where):
        return _guarded(where, lambda: _simulate(recipe, schedule, where, training, progress, told))


def _prepared(recipe: Recipe, schedule: Schedule, data: Path | None) -> Training | SparseTraining:
    if rehearsal.in_epochs(recipe, schedule):
        return training_of(recipe, data)
    return recipe.training(schedule.size, data)


def _batching(recipe: Recipe, size: int) -> str:
    chosen = recipe.simulator.batching
    if chosen == "auto":
        return "exact" if size <= _EXACT_UP_TO else "vectorised"
    return chosen


def _simulate(
    recipe: Recipe,
    schedule: Schedule,
    where: Path,
    training: Training | SparseTraining,
    progress: Progress | None,
    told: Callable[[str], None],
) -> dict[str, Any]:
    size = schedule.size
    batching = Batching(exact=_batching(recipe, size) == "exact")
    if isinstance(training, SharedTraining):
        return rehearsal.simulate(recipe, schedule, where, training, batching, told, progress)
    if recipe.plan(size).federated and isinstance(training, Training):
        return federation.simulate(recipe, size, where, training, progress, batching.exact)
    trace = Trace(size)
    resumed = checkpoint.latest(where / "checkpoints", 1)
    record = RunRecorder(where, range(size), size, recipe.record, training, trace, resumed, progress)
    simulator = Simulator(
        size,
        recipe.cluster,
        rand=training.rand,
        batching=batching,
        recorder=rehearsal.Announced(record, where, size, told) if schedule.changes_members else record,
        paranoid=recipe.simulator.paranoid,
        trace=trace,
        schedule=schedule,
        may_leave=recipe.plan(size).may_leave,
    )
    exchange = recipe.attacked(choosing.resolved(recipe, folder.read(where)).laid_out(training.layout), size)
    program, exchange = recipe.program, replace(exchange, watch=record.watch, judged=record.judge)
    with closing(record):
        parameters = simulator.run(lambda node: program(node, training, exchange))[0]
        measures = record.finish(parameters)
    if batching.reasons:
        folder.update(where, {"one_by_one_because": list(batching.reasons)})
    return folder.finish(
        where, parameters, training.layout, measures, record.steps, trace.summary(), record.wall_seconds
    )


def _guarded(where: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return run()
    except BaseException as error:
        folder.failed(where, error)
        if isinstance(error, RunError):
            error.add_note(_kept(where))
        raise


def _kept(where: Path) -> str:
    """Say what is left of a run that has stopped."""
    size = folder.read(where)["workers"]
    steps = [max(checkpoint.steps(where / "checkpoints", writers), default=0) for writers in (1, size)]
    return f"run:   {where}, " + (f"with a checkpoint of step {max(steps)}" if max(steps) else "without a checkpoint")


def processes(
    recipe: Recipe, size: int, out: Path | None = None, data: Path | None = None, show: bool = False
) -> dict[str, Any]:
    """Run a recipe on processes of this machine, one per worker; see `simulate`.

    Args:
        show: whether rank 0 draws a progress bar.
    """
    choosing.adaptive_of(recipe, size)
    training = recipe.training(size, data)
    facts = {"batching": None, "parameters": training.layout.numel}
    where = folder.create(out, recipe, "processes", size, data, facts)
    with folder.locked(where):
        return _guarded(where, lambda: _launch(where, size, show, recipe.plan(size).may_leave))


def _launch(where: Path, size: int, show: bool, may_leave: Collection[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="quorate-") as private:
        commands = [
            [sys.executable, "-m", "quorate", "worker", str(where), str(rank), str(size), str(Path(private) / "store")]
            + (["--show"] if show and rank == 0 else [])
            for rank in range(size)
        ]
        launch(commands, Path(private), may_leave)
    return dict(folder.read(where)["result"])


def elastic(
    recipe: Recipe, size: int, out: Path | None = None, data: Path | None = None, options: Options | None = None
) -> dict[str, Any]:
    """Run a recipe on workers that may come and go, the first ones on this machine; see `simulate`.

    Returns:
        The run's result, with more in it; see `coordinate`.
    """
    options = options or Options()
    require_elastic(recipe, size)
    minimum = required(size, options.minimum)
    training = training_of(recipe, data)
    facts = {"batching": None, "parameters": training.layout.numel, "token": token_hex(8), "minimum": minimum}
    facts |= {"host": options.host, "respawn": options.respawn, **choosing.for_described(recipe, size, training)}
    where = folder.create(out, recipe, "elastic", size, data, facts)
    choosing.tell(facts, options.told)
    with folder.locked(where):
        return _guarded(where, lambda: coordinate(where, size, minimum, options))


def resume(
    where: Path,
    data: Path | None = None,
    progress: Progress | None = None,
    show: bool = False,
    size: int | None = None,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Go on with a run from its last checkpoint; a finished run gives its result again.

    Args:
        data: the folder of data sets, if it is not where it was.
        size: of an elastic run, as many workers as now; None for as many as before.
        told: is told what happens to the members of an elastic run.

    Raises:
        RunError: if the folder holds no run, or somebody still writes to it.
    """
    facts = folder.read(where)
    if facts["status"] == "finished":
        return dict(facts["result"])
    recipe = folder.recipe_of(where)
    data = data or (Path(facts["data"]) if facts["data"] else None)
    if facts["engine"] == "federation":
        from quorate import deployment  # needs gRPC

        return deployment.resume(where, data, progress, show)
    if facts["engine"] != "elastic" and size not in (None, facts["workers"]):
        raise RunError(
            f"`{where}` is a run of {facts['workers']} workers, and can't go on with {size}",
            "leave out --workers; only elastic runs can change their number",
        )
    size = size or facts["workers"]
    with folder.locked(where):
        folder.update(where, {"status": "running", "error": None, "data": str(data) if data else None})
        if facts["engine"] == "elastic":
            minimum = required(size, facts["minimum"] if size == facts["workers"] else None)
            folder.update(where, {"workers": size, "minimum": minimum})
            options = Options(minimum, facts["respawn"], facts["host"], told=told)
            return _guarded(where, lambda: coordinate(where, size, minimum, options))
        if facts["engine"] == "simulator":
            torch.set_num_threads(recipe.simulator.threads)
            schedule = rehearsal.schedule_of(recipe, size)
            training = _prepared(recipe, schedule, data)
            return _guarded(where, lambda: _simulate(recipe, schedule, where, training, progress, told))
        return _guarded(where, lambda: _launch(where, size, show, recipe.plan(size).may_leave))


def changed(path: Path, seed: int | None, workers: int | None, cluster: Path | None = None) -> Recipe:
    """Read a recipe, with the seed, the number of workers and the cluster that the command line gives, if any."""
    recipe = load(path)
    if workers is not None and workers < 1:
        raise RunError(f"a run needs at least one worker, got {workers}", "--simulate 8")
    chosen = replace(
        recipe,
        seed=recipe.seed if seed is None else typed("--seed", Seed, seed),
        workers=recipe.workers if workers is None else workers,
    )
    chosen.plan(chosen.workers)
    if cluster is not None:
        chosen = replace(chosen, cluster=load_cluster(cluster, chosen.workers))
    return chosen
