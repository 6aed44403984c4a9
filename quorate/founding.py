"""Founding a federation: its authorities, its server's certificates, and the bundles of those who are invited.

In the folder: `federation.json`, for each of `ca`, `control-ca`, `server` and `control` a key and a certificate, and
`operator.json`. Keys and bundles can be read by their owner only. Needs the extra `quorate[federation]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quorate import issuing, registry
from quorate.certificates import ClientIdentity, Shown
from quorate.errors import DataError, RecipeError
from quorate.files import write_atomically
from quorate.issuing import Pair
from quorate.registry import Member, Registry, joined, require_name, split

PORT, CONTROL_PORT = 9092, 9093
_AUTHORITY_DAYS, _DAYS = 3650.0, 730.0
_LOCAL = "127.0.0.1"


def init(
    folder: Path,
    name: str = "federation",
    hosts: Sequence[str] = (),
    *,
    port: int = PORT,
    control_port: int = CONTROL_PORT,
    days: float = _DAYS,
) -> Registry:
    """Found a federation in a folder that is empty or not there yet.

    Args:
        name: of the federation.
        hosts: where clients reach the server, HOST or HOST:PORT; none: on this machine.
        port: that the server listens on for clients, and the one of a host that names none.
        control_port: that it listens on for operators.
        days: that certificates hold.

    Raises:
        QuorateError: if there is something in the folder already, or a name or host can't be one.
    """
    require_name(name, "a federation")
    addresses = _addresses(hosts, port)
    if port == control_port:
        raise RecipeError(f"clients and operators need different ports; got {port} for both", f"--port {PORT}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"`{folder}` is not an empty folder", "name one that does not exist yet")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        for authority in ("ca", "control-ca"):
            _write(folder, authority, issuing.authority(f"{name} {authority}", max(days, _AUTHORITY_DAYS)))
        made = Registry(federation=name, addresses=addresses, port=port, control_port=control_port)
        made = _with_servers(folder, made, days)
        registry.write(folder, made)
    except OSError as error:
        raise DataError(f"can't write to `{folder}`: {error.strerror}") from error
    return made


@dataclass(frozen=True)
class Invitation:
    """What a client was given.

    Args:
        bundle: the file to bring to it.
        number: its own.
        fingerprint: of its certificate.
    """

    bundle: Path
    number: int
    fingerprint: str


def invite(folder: Path, name: str, out: Path | None = None, *, renew: bool = False, days: float = _DAYS) -> Invitation:
    """Make a client's key and certificate, and write them into one file, which is all that it needs.

    Args:
        out: the file, which must not be there yet; None: NAME.json in `invitations` of the folder.
        renew: of a client that there is: with its number; the certificate from before counts no more.

    Raises:
        QuorateError: if the name is taken, or revoked, or nobody has it who is to be renewed.
    """
    require_name(name, "a client")
    bundle = out or folder / "invitations" / f"{name}.json"
    with registry.changing(folder) as known:
        names = {each.name.casefold(): number for number, each in enumerate(known.clients)}
        number = names.get(name.casefold(), len(known.clients))
        if renew:
            number, member = known.client(name)
            _require_not_revoked(member)
            name = member.name
        elif name.casefold() in names:
            _require_not_revoked(known.clients[number])
            raise RecipeError(
                f"client `{name}` has been invited, as number {number}", f"{name} --renew, or another name"
            )
        if bundle.exists() and not (renew and out is None):
            raise DataError(f"`{bundle}` is there already", "remove it, or name another file with --out")
        pair = issuing.issue(_authority(folder, "ca"), name, "client", days)
        member = _member(name, pair)
        clients = (*known.clients[:number], member, *known.clients[number + 1 :])
        identity = _identity(folder, "ca", known, member, number, pair, known.addresses)
        try:
            bundle.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(bundle, identity.to_json(), private=True)
            registry.write(folder, known.model_copy(update={"clients": clients}))
        except OSError as error:
            raise DataError(
                f"`{name}` is not invited: `{bundle}`: {error.strerror}", "name a file with --out"
            ) from error
    return Invitation(bundle, number, member.fingerprint)


def revoke(folder: Path, name: str) -> int:
    """Have the server refuse a client from now on, also if it is connected; return its number.

    Raises:
        QuorateError: if there is no client of that name.
    """
    with registry.changing(folder) as known:
        number, member = known.client(name)
        gone = member.model_copy(update={"state": "revoked"})
        clients = (*known.clients[:number], gone, *known.clients[number + 1 :])
        registry.write(folder, known.model_copy(update={"clients": clients}))
    return number


def renew(folder: Path, hosts: Sequence[str] = (), days: float = _DAYS) -> Registry:
    """Make new certificates of the server, and a new operator's bundle; clients need nothing new.

    Args:
        hosts: where clients reach the server from now on; none: where they did. Bundles that are out name the old ones.

    Raises:
        QuorateError: if the folder is no federation's, or its authorities' keys are elsewhere.
    """
    with registry.changing(folder) as known:
        if hosts:
            known = known.model_copy(update={"addresses": _addresses(hosts, known.port)})
        made = _with_servers(folder, known, days)
        registry.write(folder, made)
    return made


def _addresses(hosts: Sequence[str], port: int) -> tuple[str, ...]:
    return tuple(joined(*split(host, port)) for host in hosts or ("localhost", _LOCAL))


def _with_servers(folder: Path, known: Registry, days: float) -> Registry:
    """Write both certificates of a server, and the operator's bundle; return the registry that knows the operator."""
    hosts = list(dict.fromkeys([*(split(address)[0] for address in known.addresses), "localhost", _LOCAL, "::1"]))
    _write(folder, "server", issuing.issue(_authority(folder, "ca"), known.federation, "server", days, hosts))
    control = _authority(folder, "control-ca")
    _write(folder, "control", issuing.issue(control, known.federation, "server", days, hosts))
    pair = issuing.issue(control, "operator", "client", days)
    operator = _member("operator", pair)
    reached = dict.fromkeys([*(split(address)[0] for address in known.addresses), _LOCAL])
    addresses = tuple(joined(host, known.control_port) for host in reached)
    identity = _identity(folder, "control-ca", known, operator, 0, pair, addresses)
    write_atomically(folder / "operator.json", identity.to_json("operator"), private=True)
    return known.model_copy(update={"operators": (operator,)})


def _identity(
    folder: Path, authority: str, known: Registry, member: Member, number: int, pair: Pair, addresses: tuple[str, ...]
) -> ClientIdentity:
    signer = (folder / f"{authority}.pem").read_bytes()
    return ClientIdentity(pair.key, pair.certificate, signer, member.name, number, addresses, known.federation)


def _member(name: str, pair: Pair) -> Member:
    made = pair.certificate
    return Member(name=name, fingerprint=issuing.fingerprint(made), expires=issuing.expires(made))


def _authority(folder: Path, name: str) -> Pair:
    shown = Shown.load(folder, name, name)
    return Pair(shown.key, shown.cert)


def _write(folder: Path, name: str, pair: Pair) -> None:
    write_atomically(folder / f"{name}.key", pair.key, private=True)
    write_atomically(folder / f"{name}.pem", pair.certificate)


def _require_not_revoked(member: Member) -> None:
    if member.state == "revoked":
        raise RecipeError(
            f"client `{member.name}` is revoked, and its name and number are not given again", "another name"
        )
