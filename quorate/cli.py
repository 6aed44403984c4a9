"""The command `quorate`.

What a run is stands in its recipe; flags say where it runs. Exit status 0: done; 1: a mistake that the message
explains; 2: wrong usage of the command; 130: interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from quorate import cli_attack, cli_elastic, cli_federation, cli_flower, cli_showing, cli_using
from quorate.cli_shared import (
    Data,
    Json,
    Machines,
    RecipeFile,
    RunFolder,
    Seed,
    err_console,
    out_console,
    progress_bar,
    shown,
    tell,
)
from quorate.errors import QuorateError, RecipeError

app = typer.Typer(
    name="quorate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train one PyTorch model on many machines, simulated or real, and see what each way of doing so costs.",
)
_INTERRUPTED = 130  # the exit status that shells give to Ctrl-C
_WRONG_USAGE: type[Any] = next(each for each in typer.BadParameter.__mro__ if each.__base__ is Exception)  # or click's
_QUIET = {"worker", "member", "join"}  # commands that end with others, or say themselves how to go on


@app.command()
def run(
    recipe: RecipeFile,
    simulate: Annotated[
        int | None, typer.Option(metavar="N", help="Simulate N workers; the default, with the recipe's number.")
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Start N real processes on this machine.")] = None,
    cluster: Machines = None,
    elastic: Annotated[bool, typer.Option("--elastic", help="Let workers come and go; with --workers.")] = False,
    minimum: Annotated[
        int | None, typer.Option(metavar="M", help="Workers that an elastic run needs; more than half if not given.")
    ] = None,
    respawn: Annotated[bool, typer.Option("--respawn", help="Start a worker anew if it dies.")] = False,
    host: Annotated[str, typer.Option(help="This machine's address for workers elsewhere that join.")] = "127.0.0.1",
    out: Annotated[Path | None, typer.Option(help="Folder for the run; a new one below runs/ if not given.")] = None,
    data: Data = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: simulated, on processes of this machine, or, started by torchrun, on a cluster."""
    from quorate import folder
    from quorate import run as runs
    from quorate.engines.group import under_torchrun

    if simulate is not None and workers is not None:
        raise RecipeError("--simulate and --workers exclude each other", "give one of them")
    if under_torchrun():
        if simulate is not None or workers is not None:
            raise RecipeError("started by torchrun, a run has torchrun's workers", "leave out --simulate and --workers")
        _under_torchrun(recipe, out, data, seed, as_json)
        return
    cli_elastic.require(elastic, workers, minimum, respawn)
    if elastic:
        cli_federation.refuse(recipe, "--elastic")
    chosen = runs.changed(recipe, seed, workers if workers is not None else simulate, cluster)
    federated = chosen.plan(chosen.workers).federated
    if federated and workers is not None:
        result = cli_federation.run_here(chosen, out, data)
    elif federated:
        with cli_federation.rounds_table(chosen, shown()) as progress:
            result = runs.simulate(chosen, chosen.workers, out, data, progress, cli_elastic.said)
    elif elastic:
        from quorate.elastic import Options

        with progress_bar(chosen.steps) as progress:
            options = Options(minimum, respawn, host, told=cli_elastic.said, progress=progress)
            result = runs.elastic(chosen, chosen.workers, out, data, options)
    elif workers is not None:
        result = runs.processes(chosen, chosen.workers, out, data, show=shown())
    else:
        with progress_bar(chosen.steps) as progress:
            result = runs.simulate(chosen, chosen.workers, out, data, progress, cli_elastic.said)
    tell(result, folder.read(Path(result["run"])), as_json)


def _under_torchrun(recipe: Path, out: Path | None, data: Path | None, seed: int | None, as_json: bool) -> None:
    from quorate import folder, worker
    from quorate import run as runs

    size = int(os.environ["WORLD_SIZE"])
    cli_federation.refuse(recipe, "torchrun")
    chosen = runs.changed(recipe, seed, size)

    def create() -> Path:
        training = chosen.training(size, data)
        facts = {"batching": None, "parameters": training.layout.numel}
        return folder.create(out, chosen, "processes", size, data, facts)

    rank, result = worker.torchrun(create, timeout=chosen.processes.timeout)
    if rank == 0:
        tell(result, folder.read(Path(result["run"])), as_json)


@app.command(hidden=True)
def worker(
    where: Path, rank: int, size: int, store: Path, show: Annotated[bool, typer.Option("--show")] = False
) -> None:
    """Work as one rank of a run; started by `quorate run --workers`."""
    from quorate import folder
    from quorate import worker as workers
    from quorate.engines.launch import die_with_parent, report

    die_with_parent()
    try:
        with progress_bar(folder.recipe_of(where).steps, show) as progress:
            workers.local(where, rank, size, store, progress)
    except QuorateError as error:
        report(rank, error)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


@app.command()
def resume(
    run: RunFolder,
    data: Data = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="For an elastic run: as many workers as now; else as before.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Go on with a run that was stopped, from its last checkpoint; the end is that of an uninterrupted run."""
    from quorate import folder
    from quorate import run as runs

    facts = folder.read(run)
    if facts["status"] == "finished":
        out_console.print(f"`{run}` is finished already")
        tell(facts["result"], facts, as_json)
        return
    if facts["engine"] == "federation":
        cli_federation.resume(run, data, as_json)
        return
    chosen, show = folder.recipe_of(run), facts["engine"] == "simulator" and shown()
    federated = facts.get("federated", False)
    with cli_federation.rounds_table(chosen, show) if federated else progress_bar(chosen.steps, show) as progress:
        result = runs.resume(run, data, progress, show=shown(), size=workers, told=cli_elastic.said)
    tell(result, folder.read(run), as_json)


app.command(hidden=True)(cli_elastic.member)
app.command()(cli_elastic.join)
for _show in (cli_showing.check, cli_showing.compare, cli_showing.report):
    app.command()(_show)
app.command("list")(cli_showing.list_parts)
app.add_typer(cli_federation.app)
app.add_typer(cli_flower.app)
app.command()(cli_attack.attack)
for _use in (cli_using.predict, cli_using.export):
    app.command()(_use)


def main() -> None:
    """Run one command; modules in the working directory can be named in recipes."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        status = app(standalone_mode=False)  # typer returns the status that a command left with; 130 for Ctrl-C
    except QuorateError as error:
        err_console.print("\n".join([f"error: {error}", *getattr(error, "__notes__", [])]), markup=False)
        sys.exit(1)
    except _WRONG_USAGE as error:
        if error.format_message():  # without any words, the help has been printed
            err_console.print(f"error: {error.format_message()}", markup=False)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    if status == _INTERRUPTED and not _QUIET & set(sys.argv[1:3]):
        err_console.print("stopped; `quorate resume RUN` goes on from the last checkpoint", markup=False)
    sys.exit(status)


if __name__ == "__main__":
    main()
