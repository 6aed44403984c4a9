"""What all commands share: their options, the two consoles, the progress bar, and how a run's result is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

out_console = Console(highlight=False, soft_wrap=True)
err_console = Console(stderr=True, highlight=False, soft_wrap=True)

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)]
Data = Annotated[
    Path | None, typer.Option(envvar="QUORATE_DATA", help="Folder of data sets, for tasks that read files.")
]
Machines = Annotated[
    Path | None,
    typer.Option(
        "--cluster", help="TOML file of the machines to simulate, instead of the recipe's.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on the last line.")]
Seed = Annotated[int | None, typer.Option(help="Instead of the recipe's seed.", show_default=False)]


def shown() -> bool:
    """Return whether a person is looking, for whom progress is drawn."""
    return sys.stderr.isatty()


@contextmanager
def progress_bar(steps: int | None, show: bool | None = None, label: str = "training") -> Iterator[Any]:
    """Draw a progress bar on standard error; yields what a recorder tells of its steps."""
    if not (shown() if show is None else show):
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[measures]}"),
    )
    with Progress(*columns, console=err_console, transient=True) as bar:
        task = bar.add_task(label, total=steps, measures="")

        def told(step: int, measures: dict[str, float]) -> None:
            text = "  ".join(f"{name} {value:.4f}" for name, value in measures.items())
            bar.update(task, completed=step, measures=text)

        yield told


def tell(result: dict[str, Any], facts: dict[str, Any], as_json: bool) -> None:
    """Say what a run has come to.

    Args:
        facts: what its `run.json` says.
        as_json: print the result as JSON, too.
    """
    where = Path(result["run"])
    clock = "virtual" if facts["engine"] == "simulator" else "real"
    steps, workers = ("rounds", "clients") if facts.get("federated") else ("steps", "workers")
    measured = f"test accuracy {result['accuracy']:.4f}, " if result["accuracy"] is not None else ""
    out_console.print(
        f"{measured}test loss {result['loss']:.4f} after {result['steps']} {steps} of {facts['workers']} {workers}"
    )
    out_console.print(
        f"{result['clock_seconds']:.3f} {clock} seconds, {result['bytes'] / 1e6:.3f} MB sent,"
        f" {result['wall_seconds']:.1f} s of this machine"
    )
    compared = facts.get("comparison")
    if compared is not None:
        from quorate.federated.summary import lines

        for line in lines(compared):
            out_console.print(line, markup=False)
        result = result | {"comparison": compared}
    out_console.print(f"run:    {where}")
    out_console.print(f"report: {where / 'report.html'}")
    if as_json:
        print(json.dumps(result))
