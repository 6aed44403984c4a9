"""The commands `quorate federation ...`: the server, its clients, and how they stand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quorate.cli_identities import init, invite, list_clients, renew, require_installed, revoke, say, show
from quorate.cli_shared import Json, RecipeFile, Seed, err_console, out_console, shown, tell
from quorate.errors import QuorateError, RecipeError

if TYPE_CHECKING:
    from quorate.recipe import Recipe
    from quorate.recorder import Progress

app = typer.Typer(
    name="federation",
    no_args_is_help=True,
    help="Train with machines of others over the network: data stays with them, and they only dial out.",
)
for _command in (init, invite, show, revoke, renew):
    app.command()(_command)
app.command("list")(list_clients)
_INTERRUPTED = 130  # the exit status that shells give to Ctrl-C


Bundle = Annotated[
    Path | None,
    typer.Option("--operator", help="The operator's bundle, operator.json of the federation's folder."),
]
Run = Annotated[Path | None, typer.Argument(help="The run's folder, on the server's machine.", show_default=False)]
ControlAddress = Annotated[
    str | None, typer.Option("--control", metavar="HOST:PORT", help="The server's port for operators.")
]


@app.command()
def status(
    run: Run = None,
    control: ControlAddress = None,
    operator: Bundle = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Show how a run stands: its rounds, and what its clients do."""
    require_installed()
    from quorate import live_table
    from quorate.engines import control_plane

    if watch and as_json:
        raise RecipeError("--watch and --json exclude each other", "give one of them")
    identity, address = _operator(run, control, operator)
    if watch:
        live_table.watch(lambda: control_plane.status(identity, address), out_console)
        return
    found = control_plane.status(identity, address)
    if as_json:
        print(control_plane.to_json(found).decode())
    else:
        out_console.print(live_table.whole(found))


@app.command()
def stop(run: Run = None, control: ControlAddress = None, operator: Bundle = None) -> None:
    """Have a server stop; `quorate resume RUN` goes on where it was."""
    require_installed()
    from quorate.engines import control_plane

    identity, address = _operator(run, control, operator)
    control_plane.stop(identity, address)
    say("the server stops; `quorate resume RUN` on its machine goes on")


def _operator(run: Path | None, control: str | None, operator: Path | None) -> tuple[Any, str | None]:
    """Return the operator's identity, and where to ask if its bundle is not to say."""
    from quorate import deployment
    from quorate.certificates import ClientIdentity
    from quorate.registry import joined, split

    if (run is None) == (operator is None):
        raise RecipeError(
            "name the run's folder, or, from elsewhere, the operator's bundle",
            "quorate federation status --operator operator.json --control HOST:PORT",
        )
    if run is not None:
        at, identity_folder = deployment.where_is_control(run)
        operator, control = identity_folder / "operator.json", control or at
    assert operator is not None
    return ClientIdentity.load(operator, "operator"), None if control is None else joined(*split(control, 9093))


@app.command()
def serve(
    recipe: RecipeFile,
    identity: Annotated[Path, typer.Option(help="The federation's folder.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the run, which goes on if it holds one; a new one below runs/ if not given."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to listen for clients; everywhere if not given.")
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to listen for operators; on this machine if not given."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(envvar="QUORATE_DATA", help="Folder of data sets, of which the test data are used.")
    ] = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Be the server of a federation: ask clients, and put together what they say."""
    require_installed()
    from quorate import deployment, folder
    from quorate import run as runs
    from quorate.certificates import ServerIdentity

    chosen = runs.changed(recipe, seed, None)
    found, where = ServerIdentity.load(identity), out or folder.fresh(chosen.name)
    with _stopping(), rounds_table(chosen, shown()) as progress:
        ports = deployment.Ports(address, control)
        result = deployment.serve(chosen, found, where, data, ports, progress, _told)
        tell(result, folder.read(where), as_json)


@app.command()
def join(
    bundle: Annotated[Path, typer.Argument(help="The file that `invite` has made.", show_default=False)],
    recipe: RecipeFile,
    data: Annotated[Path | None, typer.Option(envvar="QUORATE_DATA", help="Folder of this client's data.")] = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="To try out: this client has part I of the data, divided among N as the recipe says; else all of it.",
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(help="Folder for what this client remembers; beside the bundle if not given.", show_default=False),
    ] = None,
    give_up: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0, help="Stop after so long without contact with the server; never if not given."
        ),
    ] = None,
    seed: Seed = None,
) -> None:
    """Be a client of a federation, until its run ends; data stays here."""
    require_installed()
    from quorate import deployment
    from quorate import run as runs

    try:
        measures = deployment.join(
            bundle, runs.changed(recipe, seed, None), data, deployment.part_of(part), home, give_up, _told
        )
    except KeyboardInterrupt:
        _told("left; the same command comes back")
        raise typer.Exit(_INTERRUPTED) from None
    accuracy = measures.get("accuracy")
    say("the run is over" + ("" if accuracy is None else f": test accuracy {accuracy:.4f}"))


@app.command(hidden=True)
def member(where: Path, number: int, private: Path, show: Annotated[bool, typer.Option("--show")] = False) -> None:
    """Be a client, or the server, of a run on this machine; started by `quorate run --workers`."""
    from quorate import deployment, folder
    from quorate.engines.launch import die_with_parent, report

    die_with_parent()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        with rounds_table(folder.recipe_of(where), show) as progress:
            deployment.member(where, number, private, progress)
    except QuorateError as error:
        report(number, error)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def resume(run: Path, data: Path | None, as_json: bool) -> None:
    """Go on with a federation's run; see `deployment.resume`."""
    require_installed()
    from quorate import deployment, folder

    show = shown() and not folder.read(run).get("here")
    with _stopping(), rounds_table(folder.recipe_of(run), show) as progress:
        result = deployment.resume(run, data, progress, shown())
        tell(result, folder.read(run), as_json)


@contextmanager
def _stopping() -> Iterator[None]:
    """Take it for a good end if an operator has stopped the server."""
    from quorate.engines.federation import Stopped

    try:
        yield
    except Stopped as stopped:
        say(f"{stopped.problem}; `{stopped.hint}` goes on")


def run_here(recipe: Recipe, out: Path | None, data: Path | None) -> dict[str, Any]:
    """Run a federated recipe on processes of this machine; see `deployment.run_here`."""
    require_installed()
    from quorate import deployment

    return deployment.run_here(recipe, out, data, shown())


def refuse(recipe: Path, how: str) -> None:
    """Refuse to run a federated recipe in a way that needs workers to meet.

    Args:
        how: "torchrun" or "--elastic".

    Raises:
        RecipeError: if the recipe is federated, with the nearest thing that works.
    """
    from quorate import recipe as recipes

    chosen = recipes.load(recipe)
    if not chosen.plan(chosen.workers).federated:
        return
    if how == "torchrun":
        raise RecipeError(
            f"`{chosen.tables['program']['name']}` is the program of a federation's server, whose clients join by"
            " themselves, with certificates; torchrun's workers all run one program and meet in collectives",
            f"quorate run {recipe} --workers {chosen.workers}, or, on several machines, `quorate federation --help`",
        )
    raise RecipeError(
        "clients of a federation come and go as they like, without --elastic",
        f"quorate run {recipe} --workers {chosen.workers}",
    )


@contextmanager
def rounds_table(recipe: Recipe, show: bool) -> Iterator[Progress | None]:
    """Show the rounds of a federated recipe while it runs here."""
    from quorate import live_table

    program = recipe.program.keywords
    with live_table.rounds_table(program.get("rounds", 0), program.get("cohort", 0), err_console, show) as progress:
        yield progress


def _told(text: str) -> None:
    err_console.print(text, markup=False)
