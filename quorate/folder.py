"""The folder that a run writes: made once, locked while somebody writes to it, finished with results and report.

run.json  recipe.toml  metrics.jsonl  tensorboard/  checkpoints/  trace.json  parameters.safetensors  report.html, and
histogram.jsonl if the recipe asks for it
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

import quorate
from quorate.errors import QuorateError, RunError
from quorate.files import write_atomically, write_json
from quorate.flat import Layout
from quorate.recipe import Recipe, parse
from quorate.report.page import write_report
from quorate.sparse.training import TableLayout

_NEEDED = {"recipe", "recipe_folder", "data", "engine", "workers", "status", "result"}


def create(
    out: Path | None, recipe: Recipe, engine: str, size: int, data: Path | None, facts: Mapping[str, Any]
) -> Path:
    """Make a run's folder, and write down what the run is.

    Args:
        out: the folder, which must not hold a run yet; None for a new one below `runs/`.
        facts: more of what `run.json` says.

    Raises:
        RunError: if there is a run already, or the folder can't be written to.
    """
    now = datetime.datetime.now(datetime.UTC)
    folder = out or fresh(recipe.name, now)
    if (folder / "run.json").exists():
        raise RunError(
            f"`{folder}` already holds a run", f"name another folder with --out, or `quorate resume {folder}`"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RunError(f"`{folder}` is not empty, and holds no run", "name another folder with --out")
        write_atomically(folder / "recipe.toml", recipe.to_toml().encode())
        write_json(
            folder / "run.json",
            {
                "quorate": quorate.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "recipe": recipe.name,
                "recipe_folder": str(recipe.folder),
                "data": str(data.resolve()) if data is not None else None,
                "engine": engine,
                "workers": size,
                "seed": recipe.seed,
                "program": recipe.tables["program"]["name"],
                "task": recipe.tables["task"]["name"],
                "started": now.isoformat(timespec="seconds"),
                "status": "running",
                "error": None,
                "result": None,
                **({"federated": True} if recipe.plan(size).federated else {}),
                **facts,
            },
        )
    except OSError as error:
        raise RunError(f"can't write to `{folder}`: {error.strerror}", "name another folder with --out") from error
    return folder


def fresh(name: str, now: datetime.datetime | None = None) -> Path:
    """Return a folder for a run of a recipe of that name, below `runs/`, that is not there yet."""
    folder = Path("runs") / f"{name}-{now or datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    number, found = 1, folder
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def read(folder: Path) -> dict[str, Any]:
    """Return what `run.json` says.

    Raises:
        RunError: if the folder is no run's.
    """
    try:
        facts = json.loads((folder / "run.json").read_text())
    except FileNotFoundError as error:
        raise RunError(f"`{folder}` is not a run folder: it has no run.json") from error
    except (OSError, ValueError) as error:
        raise RunError(f"`{folder / 'run.json'}` can't be read: {error}") from error
    if not isinstance(facts, dict) or not facts.keys() >= _NEEDED:
        raise RunError(f"`{folder / 'run.json'}` does not describe a run")
    return facts


def recipe_of(folder: Path) -> Recipe:
    """Read the recipe that a run's folder holds.

    Raises:
        QuorateError: if the folder is no run's, or its recipe can't be read any more.
    """
    facts = read(folder)
    try:
        text = (folder / "recipe.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"`{folder / 'recipe.toml'}` can't be read: {error}") from error
    return parse(text, facts["recipe"], Path(facts["recipe_folder"]))


def update(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change what `run.json` says."""
    write_json(folder / "run.json", read(folder) | dict(changes))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder for writing.

    Raises:
        RunError: if another process holds it.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"`{folder}` is being written by a run that still goes on") from error
        yield


def sha256(*parameters: Tensor) -> str:
    """Return the SHA-256 of the parameters' bytes, little-endian, in the layout's order."""
    digest = hashlib.sha256()
    for each in parameters:
        digest.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def finish(
    folder: Path,
    parameters: Any,
    layout: Layout | TableLayout,
    measures: Mapping[str, float],
    steps: int,
    trace: Mapping[str, Any],
    wall_seconds: float,
) -> dict[str, Any]:
    """Write parameters, trace, result and report.

    Args:
        parameters: as the layout knows them: a flat tensor, or the touched rows of a table.

    Returns:
        The result, as `--json` prints it.
    """
    named = {
        name.removeprefix("model."): view.detach().cpu().clone() for name, view in layout.views(parameters).items()
    }
    write_atomically(folder / "parameters.safetensors", save(named))
    write_json(folder / "trace.json", trace)
    result = {
        "accuracy": measures.get("accuracy"),
        "loss": measures["test_loss"],
        "steps": steps,
        "clock_seconds": trace["seconds"],
        "wall_seconds": wall_seconds,
        "bytes": sum(worker["sent_bytes"] for worker in trace["workers"]),
        "parameters_sha256": sha256(*layout.views(parameters).values()),
        "run": str(folder),
    }
    update(folder, {"status": "finished", "error": None, "result": result})
    write_report([folder], folder / "report.html")
    return result


def failed(folder: Path, error: BaseException) -> None:
    """Write down that a run has come to an end by an error."""
    reason = error.problem if isinstance(error, QuorateError) else f"{type(error).__name__}: {error}"
    update(folder, {"status": "failed", "error": reason})


def stopped(folder: Path, why: BaseException) -> None:
    """Write down that somebody has stopped a run, which can be gone on with."""
    update(folder, {"status": "stopped", "error": why.problem if isinstance(why, QuorateError) else "interrupted"})
