"""The codec that stands in a recipe for one yet to be chosen is replaced before the program starts.

A simulation is charged for described machines, so the choice is made for those; real processes measure their link, the
time of a gradient, and what coding it takes. A run's folder holds the choice, and a resumed run makes no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any, get_args

import torch
from rich.table import Table
from torch import Tensor

from quorate.adaptive import Choice, Cost, Link, Way, choose
from quorate.candidates import DENSE, codec_of, cost_of
from quorate.cluster import Cluster
from quorate.codecs.adaptive import Adaptive
from quorate.collectives.backend import backend
from quorate.collectives.direct import direct
from quorate.engines.link import measure, slowest, told
from quorate.engines.processes import ProcessNode
from quorate.errors import QuorateError, RecipeError, RunError
from quorate.exchange import Exchange
from quorate.periods import timing
from quorate.plan import plan_of
from quorate.predict import SIZES, equal_links
from quorate.rand import Rand
from quorate.recipe import Recipe
from quorate.report import units
from quorate.sparse.training import SparseTraining
from quorate.training import Training
from quorate.wire import require

KEY = "adaptive"
"""Where run.json holds the choice."""
_BATCH = 32  # samples, of programs that have no such setting
_LONGEST_PERIOD = 1000  # steps in which a first meeting is looked for
_REPEATS, _PATIENCE = 5, 0.5  # gradients that are timed at most, and for how many seconds
_STEPS = 8  # of which the mean speed counts, if it varies


def adaptive_of(recipe: Recipe, size: int) -> Adaptive | None:
    """Return what stands in a recipe for a codec to be chosen; None if nothing does, or it is switched off.

    Raises:
        RecipeError: if the choice can't be made for the recipe's program, or other parts would take part in it.
    """
    exchange = recipe.exchange
    codec = exchange.codec
    if not isinstance(codec, Adaptive):
        return None
    require(exchange.collective is backend, "adaptive chooses how messages are summed, too", "leave out [collective]")
    if not recipe.plan(size).meets:
        raise RecipeError(
            f"adaptive chooses for workers that meet all together, but those of `{recipe.tables['program']['name']}`"
            " talk in pairs",
            'name a codec, e.g. [[codec]] name = "int8"',
        )
    return codec


def resolved(recipe: Recipe, facts: Mapping[str, Any]) -> Exchange:
    """Return a recipe's exchange with the codec that was chosen; the recipe's own if it leaves nothing to choose.

    Args:
        facts: what run.json holds.

    Raises:
        RunError: if there is something to choose, but no choice in the facts.
    """
    exchange = recipe.exchange
    if not isinstance(exchange.codec, Adaptive):
        return exchange
    if KEY not in facts:
        raise RunError(f"run.json does not say which codec `{KEY}` has come to", "begin a new run")
    choice = Choice.of(facts[KEY])
    collective = direct if choice.way == "direct" else backend
    return replace(exchange, codec=codec_of(choice.name), collective=collective)


def for_described(recipe: Recipe, size: int, training: Training | SparseTraining) -> dict[str, Any]:
    """Choose for the machines of the recipe's cluster; deterministic unless their speed is "measured".

    Returns:
        What run.json is to hold; {} if there is nothing to choose.

    Raises:
        QuorateError: if there is nothing that can be chosen; see `adaptive_of`.
    """
    adaptive = adaptive_of(recipe, size)
    if adaptive is None or isinstance(training, SparseTraining):
        return {}
    layout = training.layout
    update = torch.randn(layout.numel, generator=Rand(recipe.seed).fold(KEY).generator(), dtype=layout.dtype)
    compute = _described_seconds(recipe, size, training)
    costs = _costs(recipe, size, update, layout, coding=adaptive.coding)
    return {KEY: choose(costs, _described_link(recipe.cluster, size), compute, adaptive.fraction).facts()}


def tell(facts: Mapping[str, Any], told: Callable[[str], None]) -> None:
    """Say what was chosen, and why, if something was."""
    if KEY in facts:
        told(str(Choice.of(facts[KEY])))


def for_measured(recipe: Recipe, node: ProcessNode, training: Training | SparseTraining, recorded: Any) -> Choice:
    """Measure, and choose; all workers call this at once, and rank 0 decides.

    Args:
        recorded: what run.json holds of an earlier choice, which then is taken on all workers; it is read on rank 0.

    Raises:
        QuorateError: see `for_described`; PeerError if a worker does not take part.
    """
    adaptive = adaptive_of(recipe, node.size)
    assert adaptive is not None
    assert isinstance(training, Training)
    mine = Choice.of(recorded) if recorded is not None else None
    known = _agreed(node, adaptive, mine)
    if known is not None:
        return known
    link = measure(node)
    parameters, batch = training.initial(), recipe.tables["program"].get("batch", _BATCH)
    samples = training.batch(node.rank, 0, batch)
    gradient, taken = parameters, list[float]()
    while not taken or (len(taken) < _REPEATS and sum(taken) < _PATIENCE):
        began = time.perf_counter()
        _, gradient = training.gradient(parameters, samples)
        taken.append(time.perf_counter() - began)
    compute = _steps_between(recipe) * slowest(node, min(taken))
    costs = _costs(recipe, node.size, gradient, training.layout)
    found = _agreed(node, adaptive, choose(costs, link, compute, adaptive.fraction))
    assert found is not None
    return found


def _agreed(node: ProcessNode, adaptive: Adaptive, mine: Choice | None) -> Choice | None:
    """Return rank 0's choice on all workers, with its reasons on rank 0 alone; None if it has made none."""
    ways: tuple[Way, ...] = get_args(Way)
    numbers = torch.tensor([-1, -1])
    if mine is not None:
        if mine.name not in adaptive.candidates:
            raise RunError(f"run.json holds the choice `{mine.name}`, which the recipe's `adaptive` does not offer")
        numbers = torch.tensor([adaptive.candidates.index(mine.name), ways.index(mine.way)])
    place, way = (int(number) for number in told(node, numbers)[0])
    if place < 0:
        return None
    return mine if node.rank == 0 else Choice(adaptive.candidates[place], ways[way], "rank 0 has chosen it")


def _costs(
    recipe: Recipe, size: int, update: Tensor, layout: object, coding: float | None = None
) -> dict[str, Cost | str]:
    """Return what each candidate's messages of an update cost.

    Args:
        coding: seconds per entry; None: they are measured.
    """
    exchange, costs = recipe.exchange, dict[str, Cost | str]()
    assert isinstance(exchange.codec, Adaptive)
    for name in exchange.codec.candidates:
        try:
            said = replace(exchange, codec=codec_of(name)).laid_out(layout)
            plan_of(recipe.program, size, exchange=said)
            summed = said.sums_in_flight
            cost = cost_of(said.codec, update, size, summed=summed, repeats=3 if coding is None else 0)
        except QuorateError as error:
            costs[name] = error.problem
        else:
            seconds = 0.0 if name == DENSE else (coding or 0.0) * update.numel()
            costs[name] = cost if coding is None else replace(cost, encode=seconds, decode=0.0)
    return costs


def _described_link(cluster: Cluster, size: int) -> Link:
    return Link.described(size, *equal_links(cluster, size), cluster.transport)


def _described_seconds(recipe: Recipe, size: int, training: Training | None) -> float:
    """Return for how long the slowest worker computes between two meetings; without data, 0 where that needs it."""
    batch, rand, cluster = recipe.tables["program"].get("batch", _BATCH), Rand(recipe.seed), recipe.cluster
    if training is None and not isinstance(batch, int):
        return 0.0
    samples = batch if isinstance(batch, int) or training is None else len(training.train) / size
    slowest = 0.0
    for rank in range(recipe.plan(size).trainers):
        speed = cluster.speed(rank, rand)
        slowest = max(slowest, sum(speed(step, 0) for step in range(_STEPS)) / _STEPS)
    if isfinite(slowest):
        return _steps_between(recipe) * slowest * samples
    if training is None:
        return 0.0
    began = time.perf_counter()
    training.gradient(training.initial(), training.batch(0, 0, batch))
    return _steps_between(recipe) * (time.perf_counter() - began) * cluster.measured_factor


def _steps_between(recipe: Recipe) -> int:
    """Return the steps until the first meeting of a program that does not meet after each."""
    period = getattr(recipe.program, "keywords", {}).get("period")
    if period is None:
        return 1
    when = timing(period)
    start = when.init()
    return next((step for step in range(1, _LONGEST_PERIOD) if when.due(start, step)), 1)


def table(recipe: Recipe, size: int) -> Table | None:
    """Return what `adaptive` would choose on the recipe's cluster, by the bytes of an update; None if nothing.

    No data is read: where the seconds of computing depend on it, they count as none.
    """
    adaptive = adaptive_of(recipe, size)
    if adaptive is None:
        return None
    link, compute = _described_link(recipe.cluster, size), _described_seconds(recipe, size, None)
    beside = f"{units.seconds(compute)} of computing" if compute else "computing not counted"
    shown = Table(box=None, pad_edge=False)
    shown.add_column(f"adaptive (* chosen), {beside}", no_wrap=True)
    columns = []
    for bytes in SIZES:
        shown.add_column(units.size(bytes), justify="right", no_wrap=True)
        update = torch.randn(int(bytes) // 4, generator=Rand(recipe.seed).fold(KEY).generator())
        costs = _costs(recipe, size, update, None, coding=adaptive.coding)
        columns.append(choose(costs, link, compute, adaptive.fraction))
    for place, name in enumerate(adaptive.candidates):
        rows = [choice.rows[place] for choice in columns]
        cells = [units.seconds(row.seconds) if isfinite(row.seconds) else units.NOTHING for row in rows]
        marks = ["*" if choice.name == name else "" for choice in columns]
        shown.add_row(name, *(f"{mark}{cell}" for mark, cell in zip(marks, cells, strict=True)))
    return shown
