"""The commands `quorate federation ...` that say who takes part: founding, inviting, renewing, revoking, listing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from quorate.cli_shared import Json, out_console
from quorate.errors import RecipeError

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
    say(f"federation `{name}`: {folder}, which holds private keys; whoever has them can let anybody in")
    say(f"clients reach its server at {', '.join(made.addresses)}")
    if not host:
        say("only from this machine: give --host NAME for clients elsewhere")
    say(f"next: quorate federation invite {folder} NAME")


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
    say(f"client `{name}` has number {made.number}; its bundle: {made.bundle}")
    say("Who has this file is the client. Bring it there by a way that you trust, such as scp or a USB stick; no mail.")
    say("Then delete it here, and compare the fingerprint over the telephone with `quorate federation show BUNDLE`:")
    say(_grouped(made.fingerprint))
    say(f"there: quorate federation join {made.bundle.name} RECIPE --data FOLDER")


def show(bundle: Annotated[Path, typer.Argument(help="A client's bundle.", show_default=False)]) -> None:
    """Say whose a bundle is, where its server is, and how long it holds."""
    require_installed()
    from quorate import issuing
    from quorate.certificates import ClientIdentity

    found = ClientIdentity.load(bundle)
    say(f"client `{found.name}`, number {found.number}, of federation `{found.federation}`")
    say(f"server: {', '.join(found.addresses)}")
    say(f"holds until {issuing.expires(found.cert):%Y-%m-%d}")
    say(_grouped(issuing.fingerprint(found.cert)))


def revoke(folder: Folder, name: Named) -> None:
    """Shut a client out for good; a running server sees it at once."""
    require_installed()
    from quorate import founding

    number = founding.revoke(folder, name)
    say(f"client `{name}` ({number}) is revoked; neither its name nor its number is given again")


def renew(folder: Folder, host: Hosts = None, days: Days = 730.0) -> None:
    """Make new certificates of the server, and a new operator's bundle; clients need nothing new."""
    require_installed()
    from quorate import founding

    made = founding.renew(folder, host or (), days)
    say(f"clients reach the server at {', '.join(made.addresses)}; start it again to use its new certificates")
    if host:
        say(f"bundles that are out name the old address: quorate federation invite {folder} NAME --renew")


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


def _grouped(fingerprint: str) -> str:
    return " ".join(fingerprint[start : start + 8] for start in range(0, len(fingerprint), 8))


def say(text: str) -> None:
    """Say something on standard output, as it is."""
    out_console.print(text, markup=False)
