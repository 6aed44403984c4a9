"""A federated recipe becomes a run."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from quorate import checkpoint, final_model, folder
from quorate.engines.cohorts import Cohorts
from quorate.engines.federation_simulator import FederationSimulator
from quorate.federated.comparison import FOLDER, Comparison
from quorate.federated.record import Rounds
from quorate.federated.setup import client_of
from quorate.federated.summary import in_numbers
from quorate.recipe import Recipe
from quorate.recorder import Progress, RunRecorder
from quorate.trace import Trace
from quorate.training import Training

_COLLECT = (10_000, 50, 100)  # the garbage collector's thresholds


def simulate(
    recipe: Recipe, size: int, where: Path, training: Training, progress: Progress | None, exact: bool = True
) -> dict[str, Any]:
    """Simulate a federation of so many clients, from its last checkpoint on if it has one.

    Args:
        exact: clients train one by one, to the bits of real ones, and not many at once.

    Returns:
        The run's result; see `quorate.run.simulate`.
    """
    trace = Trace(size + 1)
    resumed = checkpoint.latest(where / "checkpoints", 1)
    program, exchange = recipe.program, recipe.attacked(recipe.exchange, size)
    clients = client_of(program, training, exchange, size)
    cohorts = Cohorts(training.gradient, exact, recipe.simulator.processes)
    comparison = Comparison(clients, training.shards, recipe.comparison, cohorts)
    more = (lambda parameters: comparison.during(parameters, simulator.memory)) if recipe.comparison.during else None
    told = None if progress is None else _with_bytes(progress, trace)
    record = RunRecorder(where, range(1), 1, recipe.record, training, trace, resumed, told, more)
    simulator: FederationSimulator = FederationSimulator(
        clients,
        training.shards,
        recipe.cluster,
        rand=training.rand,
        recorder=record,
        trace=trace,
        train=cohorts,
        availability=recipe.availability,
        rounds=Rounds(where, 0 if resumed is None else resumed.step),
        interrupted=recipe.simulator.interrupted,
        paranoid=recipe.simulator.paranoid,
    )
    exchange = replace(exchange, judged=record.judge)
    with closing(record), closing(cohorts), _set_aside():
        parameters = simulator.run(lambda server: program(server, training, exchange))
        measures, seconds = record.finish(parameters), record.wall_seconds
        final_model.keep(where, record.steps, clients, parameters, simulator.memory)
        if recipe.comparison.clients:
            compared = comparison.run(parameters, simulator.memory, where)
            record.add(in_numbers(compared))
            folder.update(where, {"comparison": compared})
    if cohorts.reasons:
        folder.update(where, {"one_by_one_because": list(cohorts.reasons)})
    if cohorts.lost:
        folder.update(where, {"processes_lost": cohorts.lost})
    result = folder.finish(where, parameters, training.layout, measures, record.steps, trace.summary(), seconds)
    shutil.rmtree(where / FOLDER, ignore_errors=True)
    return result


@contextmanager
def _set_aside() -> Iterator[None]:
    """Spare what there is, clients' shards and modules, the garbage collector's visits; and make these less frequent.

    A round of a thousand clients makes tens of thousands of objects, but no cycles; at Python's own pace, looking for
    them is an eighth of the time.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(*_COLLECT)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def _with_bytes(progress: Progress, trace: Trace) -> Progress:
    """Tell of the bytes that clients have sent, and received, too; the server is the last machine of the trace."""

    def told(round: int, measures: dict[str, float]) -> None:
        received = trace.sent_bytes[-1]
        progress(round, measures | {"sent": float(trace.bytes - received), "received": float(received)})

    return told
