"""The commands that look at recipes and runs without changing any: check, compare, report, list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from quorate.cli_shared import Data, Json, Machines, RecipeFile, Seed, out_console, progress_bar


def check(
    recipe: RecipeFile,
    workers: Annotated[int | None, typer.Option(metavar="N")] = None,
    cluster: Machines = None,
) -> None:
    """Read a recipe, build its parts, and say what travels, or why it can't work; no data is read."""
    from quorate import attacked, choosing
    from quorate import run as runs
    from quorate.predict import predicted, route
    from quorate.predict_rounds import rounds_table
    from quorate.rehearsal import in_epochs, schedule_of

    chosen = runs.changed(recipe, None, workers, cluster)
    exchange = chosen.exchange
    facts = exchange.facts
    summed = exchange.sums_in_flight
    name = chosen.tables["collective" if summed else "sparse_collective"]["name"]
    table = Table(show_header=False, box=None, pad_edge=False)
    steps = f", {chosen.steps} steps" if chosen.steps is not None else ""
    table.add_row("program", f"{chosen.tables['program']['name']}{steps}")
    federated = chosen.plan(chosen.workers).federated
    table.add_row("clients" if federated else "workers", str(chosen.workers))
    for label, text in chosen.plan(chosen.workers).says:
        table.add_row(label, text)
    schedule = schedule_of(chosen, chosen.workers)
    if schedule.events:
        table.add_row("schedule", schedule.describe())
    if schedule.changes_members:
        epochs = in_epochs(chosen, schedule)
        table.add_row("who leaves", "all begin anew from the last step" if epochs else "the program goes on without")
    table.add_row("messages", str(exchange.codec))
    meets, to_be_chosen = chosen.plan(chosen.workers).meets, choosing.table(chosen, chosen.workers)
    if meets and to_be_chosen is None:
        table.add_row("in a meeting", f"updates are {route(exchange, name)}")
    if meets and summed and to_be_chosen is None:
        table.add_row("summed by", name)
    for label, text in attacked.described(chosen):
        table.add_row(label, text)
    opened = "each update" if facts.opens else "the total only"
    table.add_row("readable", f"{opened}, by who combines them")
    table.add_row("bounded", f"L2 norm up to {facts.l2_bound:g}" if facts.l2_bound < float("inf") else "no")
    table.add_row("noise", "yes" if facts.noisy else "no")
    out_console.print(f"{recipe}: ok")
    out_console.print(table)
    if federated:
        if chosen.availability is not None:
            out_console.print(f"clients come and go as `{chosen.tables['availability']['name']}` says", markup=False)
        out_console.print(rounds_table(chosen.program, exchange, chosen.cluster, chosen.workers, chosen.seed))
    if to_be_chosen is not None:
        out_console.print(to_be_chosen)
    elif meets:
        tables, hints = predicted(exchange, name, chosen.cluster, chosen.workers)
        for each in tables:
            out_console.print(each)
        for hint in hints:
            out_console.print(hint, markup=False)


def compare(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes to simulate, or folders of runs.", show_default=False)],
    simulate: Annotated[int | None, typer.Option(metavar="N", help="Simulate N workers for every recipe.")] = None,
    cluster: Machines = None,
    target: Annotated[
        str | None, typer.Option(help="What to reach, e.g. accuracy=0.95: who is there first?", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the HTML report.")] = Path("comparison.html"),
    data: Data = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Put recipes or runs side by side: accuracy, time, bytes, waiting."""
    from quorate import folder
    from quorate import run as runs
    from quorate.report.page import write_report
    from quorate.report.table import comparison
    from quorate.report.target import Target

    goal = None if target is None else Target.parse(target)
    chosen = [path if path.is_dir() else runs.changed(path, seed, simulate, cluster) for path in recipes]
    folders = []
    for each in chosen:
        if isinstance(each, Path):
            folders.append(each)
            continue
        with progress_bar(each.steps, label=each.name) as progress:
            folders.append(Path(runs.simulate(each, each.workers, None, data, progress)["run"]))
    out_console.print(comparison(folders, goal))
    out_console.print(f"report: {write_report(folders, out, goal)}")
    if as_json:
        print(json.dumps([folder.read(each)["result"] for each in folders]))


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="File; in the run's folder if not given.")] = None,
) -> None:
    """Draw the pictures again, of one run or of several together."""
    from quorate.report.page import write_report

    where = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    out_console.print(f"report: {write_report(runs, where)}")


def list_parts() -> None:
    """List the parts that recipes can name, and the recipes below `recipes/`, with one line each."""
    import tomllib

    from quorate import parts

    for folder in dict.fromkeys(parts.KINDS.values()):
        kind = next(kind for kind, its in parts.KINDS.items() if its == folder)
        out_console.print(f"[bold]{folder}[/bold]")
        for name, line in parts.in_recipes(kind).items():
            out_console.print(f"  {name:20} {line}", markup=False)
    found = sorted(Path("recipes").rglob("*.toml"))
    out_console.print("[bold]recipes[/bold]" + ("" if found else " (none below recipes/ here)"))
    for path in found:
        comment = path.read_text().splitlines()[0].lstrip("# ")
        program = tomllib.loads(path.read_text()).get("program", {}).get("name", "?")
        out_console.print(f"  {path!s:32} {program}: {comment}", markup=False)
