"""What a defence is worth: a recipe run against every attack, beside plain averaging and all other defences.

Every cell of the table is a whole training run on the simulator, from the same seed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from quorate import parts
from quorate.aggregators import claimed, most_of
from quorate.engines.batching import Batching
from quorate.engines.simulator import Simulator
from quorate.errors import QuorateError, RecipeError, RunError
from quorate.files import write_atomically
from quorate.metrics_file import read_lines
from quorate.recipe import Recipe, resolve
from quorate.training import Training

NO_ATTACK, AVERAGING = "no attack", "mean"


@dataclass(frozen=True)
class Cell:
    """One run of the table.

    Args:
        partition, attack, defence: what its place in the table is called.
        recipe: what is run.
    """

    partition: str
    attack: str
    defence: str
    recipe: Recipe

    @property
    def key(self) -> str:
        """What the run's outcome depends on, as a hash."""
        return hashlib.sha256(self.recipe.to_toml().encode()).hexdigest()[:32]


def called(table: Mapping[str, Any]) -> str:
    """Return what a part's table is called in the table of attacks: its name, and its numbers if it has any."""
    told = [f"{value:g}" for key, value in table.items() if key in ("alpha", "size") and isinstance(value, int | float)]
    return " ".join([str(table["name"]), *told])


def plan(
    recipe: Recipe,
    attacks: Sequence[str] | None = None,
    defences: Sequence[str] | None = None,
    partitions: Sequence[str] | None = None,
) -> tuple[list[Cell], dict[str, str]]:
    """Return the table's cells, row by row, and which defences are left out, with the reason.

    Args:
        recipe: its aggregator, with its pre-aggregators, is the first defence; how many lie is its [hostile] or what
            that aggregator was told to withstand.
        attacks: names; None for all.
        defences: names of aggregators beside the recipe's and averaging; None for all that claim to withstand attacks.
        partitions: names, with a number after a space: "dirichlet 0.3"; None for the recipe's and, if that is `iid`,
            "dirichlet 0.3".

    Raises:
        RecipeError: for a name that is none, or if nobody would lie.
    """
    whole = tomllib.loads(recipe.to_toml())
    f = hostile_of(recipe)
    if f < 1:
        raise RecipeError(
            "the recipe's aggregator claims to withstand nobody, so there is nothing to try",
            'f = 2 in [aggregator], with e.g. name = "trimmed_mean", or [hostile]\nf = 2',
        )
    own = called_defence(whole)
    kept: dict[str, dict[str, Any]] = {
        own: {key: whole[key] for key in ("aggregator", "pre_aggregator") if key in whole}
    }
    kept[AVERAGING] = {"aggregator": {"name": "mean"}}
    left_out: dict[str, str] = {}
    for name in defences if defences is not None else parts.names("aggregator"):
        part = parts.find("aggregator", name)
        most = most_of(part, recipe.plan(recipe.workers).trainers)
        if defences is None and not hasattr(part, "most"):
            continue
        if most < f:
            left_out[name] = f"withstands at most {most} of {recipe.workers}, not {f}"
            continue
        kept.setdefault(name, {"aggregator": {"name": name} | _settings("aggregator", name) | {"f": f}})
    places = {called(whole["partition"]): whole["partition"]}
    for text in partitions if partitions is not None else ["dirichlet 0.3"] * (whole["partition"]["name"] == "iid"):
        name, *number = text.split()
        places[text] = {"name": name} | ({"alpha": float(number[0])} if number else {})
    hostile = whole.get("hostile", {}) | {"f": f}
    cells = []
    for place, partition in places.items():
        for attack in [NO_ATTACK, *(parts.names("attack") if attacks is None else attacks)]:
            for defence, tables in kept.items():
                made = {key: each for key, each in deepcopy(whole).items() if key not in _REPLACED}
                made |= {"partition": partition, **tables}
                if attack != NO_ATTACK:
                    made |= {"attack": {"name": attack} | _settings("attack", attack), "hostile": hostile}
                cells.append(Cell(place, attack, defence, resolve(made, recipe.name, recipe.folder)))
    return cells, left_out


def hostile_of(recipe: Recipe) -> int:
    """Return how many workers lie in a recipe's table of attacks."""
    if recipe.hostile.ranks:
        return len(recipe.hostile.ranks)
    return recipe.hostile.f if recipe.hostile.f is not None else claimed(recipe.exchange.aggregator)


_REPLACED = ("partition", "aggregator", "pre_aggregator", "attack", "hostile")


def called_defence(tables: Mapping[str, Any]) -> str:
    """Return what a recipe's defence is called: its aggregator after its pre-aggregators."""
    before = [called(each) for each in tables.get("pre_aggregator", ())]
    return " + ".join([*before, str(tables["aggregator"]["name"])])


def _settings(kind: str, name: str) -> dict[str, Any]:
    """Return the settings of a part that it can't do without, as in its first example."""
    part = parts.find(kind, name)
    needed = [key for key, each in parts.settings(part).items() if each.default is each.empty and key != "f"]
    module = importlib.import_module(f"quorate.{parts.KINDS[kind]}.{name}") if ":" not in name else None
    for example in getattr(module, "EXAMPLES", ()):
        told = example.keywords if isinstance(example, partial) else vars(example)
        return {key: told[key] for key in needed if key in told}
    return {}


def outcome(recipe: Recipe, data: Path | None) -> dict[str, float | str | None]:
    """Return what a run comes to: `accuracy` and `loss`; 0 and None if it `stopped`; why there was none, `failed`."""
    torch.set_num_threads(1)
    try:
        size, training = recipe.workers, recipe.training(recipe.workers, data)
        if recipe.plan(size).federated:
            from quorate.run import simulate

            quiet = replace(recipe, comparison=recipe.comparison.model_copy(update={"clients": 0}))
            with tempfile.TemporaryDirectory(prefix="quorate-") as folder:
                result = simulate(quiet, size, Path(folder) / "run", data)
            return {"accuracy": result["accuracy"], "loss": result["loss"]}
        if not isinstance(training, Training):
            raise RecipeError("tables of attacks are of models that all workers hold")
        exchange = recipe.attacked(recipe.exchange.laid_out(training.layout), size)
        simulator = Simulator(size, recipe.cluster, rand=training.rand, batching=Batching(exact=True))
        parameters = simulator.run(lambda node: recipe.program(node, training, exchange))[0]
        measured = training.evaluate(parameters)
    except RunError as error:  # it has begun, and gone wrong: that is what the attack was for
        return {"accuracy": 0.0, "loss": None, "stopped": " ".join(str(error).split())[:300]}
    except QuorateError as error:
        return {"failed": " ".join(str(error).split())[:300]}
    loss = measured["test_loss"]
    return {"accuracy": measured.get("accuracy"), "loss": loss if math.isfinite(loss) else None}


def fill(
    cells: Sequence[Cell], folder: Path, data: Path | None, processes: int
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Run the cells that are not in the folder yet, some at a time, and yield all as they come.

    Args:
        folder: made if it is missing; `cells.jsonl` holds what has been done, and is gone on with.
        processes: that run at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cells.jsonl"
    done = {each["key"]: each for each in read_lines(path)}
    write_atomically(path, "".join(json.dumps(each) + "\n" for each in done.values()).encode())  # no half line stays
    for cell in cells:
        if cell.key in done:
            yield cell, done[cell.key]
    missing = [cell for cell in cells if cell.key not in done]
    if not missing:
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool, path.open("a") as file:
        running = {pool.submit(outcome, cell.recipe, data): cell for cell in missing}
        try:
            for future in as_completed(running):
                cell = running[future]
                told: dict[str, Any] = {
                    "key": cell.key,
                    "partition": cell.partition,
                    "attack": cell.attack,
                    "defence": cell.defence,
                }
                told |= future.result()
                file.write(json.dumps(told) + "\n")
                file.flush()
                yield cell, told
        finally:
            for each in running:
                each.cancel()


def run(
    cells: Sequence[Cell], folder: Path, data: Path | None, processes: int, told: Callable[[int, int], None]
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Return all outcomes by partition, attack and defence; see `fill`.

    Args:
        told: is told how many cells are done, and of how many.
    """
    table: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for cell in cells:
        table.setdefault(cell.partition, {}).setdefault(cell.attack, {})
    for count, (cell, each) in enumerate(fill(cells, folder, data, processes), 1):
        table[cell.partition][cell.attack][cell.defence] = each
        told(count, len(cells))
    return table
