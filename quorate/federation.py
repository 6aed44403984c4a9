"""A federated recipe becomes a run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from quorate import checkpoint, folder
from quorate.engines.federation_simulator import FederationSimulator
from quorate.federated.setup import client_of
from quorate.recipe import Recipe
from quorate.recorder import Progress, RunRecorder
from quorate.trace import Trace
from quorate.training import Training


def simulate(recipe: Recipe, size: int, where: Path, training: Training, progress: Progress | None) -> dict[str, Any]:
    """Simulate a federation of so many clients, from its last checkpoint on if it has one.

    Returns:
        The run's result; see `quorate.run.simulate`.
    """
    trace = Trace(size + 1)
    resumed = checkpoint.latest(where / "checkpoints", 1)
    record = RunRecorder(where, range(1), 1, recipe.record, training, trace, resumed, progress)
    program, exchange = recipe.program, recipe.exchange
    simulator = FederationSimulator(
        client_of(program, training, exchange, size),
        training.shards,
        recipe.cluster,
        rand=training.rand,
        recorder=record,
        trace=trace,
    )
    with closing(record):
        parameters = simulator.run(lambda server: program(server, training, exchange))
        measures = record.finish(parameters)
    return folder.finish(
        where, parameters, training.layout, measures, record.steps, trace.summary(), record.wall_seconds
    )
