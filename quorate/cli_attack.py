"""The command that tries a recipe's defence: attack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from quorate.cli_shared import Data, RecipeFile, Seed, err_console, out_console, progress_bar

_TOLD = 3  # failed runs whose reasons are printed


def attack(
    recipe: RecipeFile,
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", help="One to try, may be repeated; all if not given.")
    ] = None,
    defences: Annotated[
        list[str] | None,
        typer.Option("--defence", help="An aggregator to compare with, may be repeated; all if not given."),
    ] = None,
    partitions: Annotated[
        list[str] | None,
        typer.Option("--partition", help='How data is divided, e.g. "dirichlet 0.3"; may be repeated.'),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; attacks/RECIPE if not given. Goes on with what is there.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Runs at once; one for each core if not given.")] = None,
    data: Data = None,
    seed: Seed = None,
) -> None:
    """Run a recipe under every attack, beside averaging and other defences, and draw what each defence is worth."""
    from quorate import attack_table
    from quorate import run as runs
    from quorate.report import attacks as drawing

    chosen = runs.changed(recipe, seed, None)
    cells, left_out = attack_table.plan(chosen, attacks, defences, partitions)
    where = out or Path("attacks") / chosen.name
    err_console.print(f"{len(cells)} runs; results in `{where}`, from which an interrupted table goes on", markup=False)
    with progress_bar(len(cells), label="runs") as progress:
        tables = attack_table.run(
            cells,
            where,
            data,
            processes or len(os.sched_getaffinity(0)),
            lambda done, _: progress(done, {}) if progress is not None else None,
        )
    free, plain = attack_table.NO_ATTACK, attack_table.AVERAGING
    for place, rows in tables.items():
        out_console.print(drawing.table(place, rows, free, plain))
    failed = [each for rows in tables.values() for row in rows.values() for each in row.values() if "failed" in each]
    for each in failed[:_TOLD]:
        name = f"{each['attack']} against {each['defence']} ({each['partition']})"
        err_console.print(f"{name} could not be run: {each['failed']}", markup=False)
    for name, why in left_out.items():
        err_console.print(f"left out: {name} {why}", markup=False)
    f, n = attack_table.hostile_of(chosen), chosen.plan(chosen.workers).trainers
    notes = [f"Left out: {name} {why}." for name, why in left_out.items()]
    page = drawing.write(f"Attacks on {chosen.name}", tables, notes, where / "attacks.html", free, plain, f, n)
    out_console.print(f"drawn: {page}", markup=False)
