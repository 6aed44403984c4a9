"""The commands `quorate federation ...`: who takes part, the server, the clients, and how they stand."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

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
Folder = Annotated[
    Path, typer.Argument(help="The federation's folder, which holds its keys; keep it to yourself.", show_default=False)
]
Named = Annotated[str, typer.Argument(metavar="NAME", help="The client's name.", show_default=False)]
Days = Annotated[float, typer.Option(help="How long the certificate holds.", min=0.01, max=36500)]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="HOST[:PORT]",
        help="Where clients reach the server; may be given several times. This machine only, if not given.",
        show_default=False,
    ),
]
_NEEDED = ("grpc", "cryptography")
_INTERRUPTED = 130  # the exit status that shells give to Ctrl-C


def require_installed() -> None:
    """Refuse what needs gRPC or certificates if they are not there.

    Raises:
        RecipeError: saying what to install.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would log every connection that is refused
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(
            f"federations across machines need {' and '.join(missing)}", "pip install 'quorate[federation]'"
        )


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="What the federation is called.")] = "federation",
    host: Hosts = None,
    port: Annotated[int, typer.Option(help="The port for clients.", min=1, max=65535)] = 9092,
    control_port: Annotated[int, typer.Option(help="The port for operators.", min=1, max=65535)] = 9093,
    days: Days = 730.0,
) -> None:
    """Found a federation: make its authorities, its server's certificates and an operator's bundle."""
    require_installed()
    from quorate import founding

    made = founding.init(folder, name, host or (), port=port, control_port=control_port, days=days)
    _say(f"federation `{name}`: {folder}, which holds private keys; whoever has them can let anybody in")
    _say(f"clients reach its server at {', '.join(made.addresses)}")
    if not host:
        _say("only from this machine: give --host NAME for clients elsewhere")
    _say(f"next: quorate federation invite {folder} NAME")


@app.command()
def invite(
    folder: Folder,
    name: Named,
    out: Annotated[
        Path | None, typer.Option(help="The bundle; in the folder's `invitations` if not given.", show_default=False)
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="A new certificate for a client that there is; the old one counts no more.")
    ] = False,
    days: Days = 730.0,
) -> None:
    """Make one file, a bundle, that lets a client take part."""
    require_installed()
    from quorate import founding

    made = founding.invite(folder, name, out, renew=renew, days=days)
    _say(f"client `{name}` has number {made.number}; its bundle: {made.bundle}")
    _say(
        "Who has this file is the client. Bring it there by a way that you trust, such as scp or a USB stick; no mail."
    )
    _say("Then delete it here, and compare the fingerprint over the telephone with `quorate federation show BUNDLE`:")
    _say(_grouped(made.fingerprint))
    _say(f"there: quorate federation join {made.bundle.name} RECIPE --data FOLDER")


@app.command()
def show(bundle: Annotated[Path, typer.Argument(help="A client's bundle.", show_default=False)]) -> None:
    """Say whose a bundle is, where its server is, and how long it holds."""
    require_installed()
    from quorate import issuing
    from quorate.certificates import ClientIdentity

    found = ClientIdentity.load(bundle)
    _say(f"client `{found.name}`, number {found.number}, of federation `{found.federation}`")
    _say(f"server: {', '.join(found.addresses)}")
    _say(f"holds until {issuing.expires(found.cert):%Y-%m-%d}")
    _say(_grouped(issuing.fingerprint(found.cert)))


@app.command()
def revoke(folder: Folder, name: Named) -> None:
    """Shut a client out for good; a running server sees it at once."""
    require_installed()
    from quorate import founding

    number = founding.revoke(folder, name)
    _say(f"client `{name}` ({number}) is revoked; neither its name nor its number is given again")


@app.command()
def renew(folder: Folder, host: Hosts = None, days: Days = 730.0) -> None:
    """Make new certificates of the server, and a new operator's bundle; clients need nothing new."""
    require_installed()
    from quorate import founding

    made = founding.renew(folder, host or (), days)
    _say(f"clients reach the server at {', '.join(made.addresses)}; start it again to use its new certificates")
    if host:
        _say(f"bundles that are out name the old address: quorate federation invite {folder} NAME --renew")


@app.command("list")
def list_clients(folder: Folder, as_json: Json = False) -> None:
    """List who has been invited, who is revoked, and how long certificates hold."""
    require_installed()
    from quorate import registry

    known = registry.read(folder)
    if as_json:
        print(known.model_dump_json())
        return
    table = Table(box=None, pad_edge=False)
    for column in ("client", "name", "state", "holds until", "fingerprint"):
        table.add_column(column, justify="right" if column == "client" else "left")
    for number, each in enumerate(known.clients):
        state = "expired" if each.state == "invited" and registry.has_expired(each) else each.state
        table.add_row(str(number), each.name, state, f"{each.expires:%Y-%m-%d}", f"{each.fingerprint[:16]}...")
    out_console.print(f"federation `{known.federation}`, {', '.join(known.addresses)}", markup=False)
    out_console.print(table if known.clients else f"nobody: quorate federation invite {folder} NAME")


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
    _say("the server stops; `quorate resume RUN` on its machine goes on")


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
    try:
        with rounds_table(chosen, shown()) as progress:
            ports = deployment.Ports(address, control)
            result = deployment.serve(chosen, found, where, data, ports, progress, _told)
    except deployment.Stopped as stopped:
        _say(f"{stopped.problem}; `{stopped.hint}` goes on")
        return
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
    seed: Seed = None,
) -> None:
    """Be a client of a federation, until its run ends; data stays here."""
    require_installed()
    from quorate import deployment
    from quorate import run as runs

    try:
        measures = deployment.join(
            bundle, runs.changed(recipe, seed, None), data, deployment.part_of(part), home, told=_told
        )
    except KeyboardInterrupt:
        _told("left; the same command comes back")
        raise typer.Exit(_INTERRUPTED) from None
    accuracy = measures.get("accuracy")
    _say("the run is over" + ("" if accuracy is None else f": test accuracy {accuracy:.4f}"))


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


def _grouped(fingerprint: str) -> str:
    return " ".join(fingerprint[start : start + 8] for start in range(0, len(fingerprint), 8))


def _say(text: str) -> None:
    out_console.print(text, markup=False)


def _told(text: str) -> None:
    err_console.print(text, markup=False)
