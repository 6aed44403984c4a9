"""The command `quorate flower ...`: a recipe for those who run Flower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quorate.cli_shared import RecipeFile, out_console

app = typer.Typer(name="flower", no_args_is_help=True, help="Take a recipe to Flower, for those who run it.")


@app.callback()
def flower() -> None:
    """Take a recipe to Flower, for those who run it."""


@app.command()
def init(
    where: Annotated[Path, typer.Argument(metavar="FOLDER", help="The app's folder.", show_default=False)],
    recipe: RecipeFile,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder on the SuperLink's machine; below runs/ if not given.")
    ] = None,
) -> None:
    """Write the folder of an app that `flwr run` takes."""
    from quorate.flower_folder import write_app
    from quorate.recipe import load

    chosen = load(recipe)
    write_app(where, chosen, out or Path("runs") / f"{chosen.name}-flower")
    out_console.print(f"set -a; . {where}/flower.env; set +a", markup=False)
    out_console.print(f"flwr run {where} CONNECTION --stream", markup=False)
