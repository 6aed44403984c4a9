"""Who somebody is in a federation: the certificates that servers, clients and operators show each other.

Clients and operators come by different ports, and each port believes an authority of its own: no client's certificate
opens the control port, and no operator's the clients'. Needs the extra `quorate[federation]`.
"""

from __future__ import annotations

import binascii
import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quorate import registry
from quorate.errors import DataError, QuorateError
from quorate.issuing import Pair, expires, now, require_whole
from quorate.registry import Member, Registry, split

_LARGEST = 1 << 16  # bytes of a key, a certificate or a bundle
_A = {"client": "a client", "operator": "an operator"}


class Refused(QuorateError):
    """Somebody may not take part; the message says why."""


@dataclass(frozen=True)
class Shown:
    """What a server shows on one of its ports, and whose certificates it believes there, as PEM."""

    key: bytes = field(repr=False)
    cert: bytes
    ca: bytes

    @staticmethod
    def load(folder: Path, server: str, authority: str) -> Shown:
        """Read NAME.key and NAME.pem of a server, and NAME.pem of an authority.

        Raises:
            DataError: if one is missing, damaged or expired, they do not belong together, or others may read the key.
        """
        places = folder / f"{server}.key", folder / f"{server}.pem", folder / f"{authority}.pem"
        shown = Shown(_private_file(places[0]), _file(places[1]), _file(places[2]))
        require_whole(Pair(shown.key, shown.cert), shown.ca, places)
        until = min(expires(shown.cert), expires(shown.ca))
        if until <= now():
            raise DataError(
                f"`{places[1]}` or its authority expired on {until:%Y-%m-%d}", f"quorate federation renew {folder}"
            )
        return shown


class ServerIdentity:
    """A server as clients and operators see it, and whom it knows.

    It needs no authority's key: `ca.key` and `control-ca.key` can be kept elsewhere.

    Args:
        folder: that `quorate federation init` has made.
        clients: what is shown to clients.
        control: what is shown to operators.
    """

    def __init__(self, folder: Path, clients: Shown, control: Shown) -> None:
        self.folder, self.control = folder, control
        self.key, self.cert, self.ca = clients.key, clients.cert, clients.ca
        self._seen: tuple[int, int, int] | None = None
        self._registry = registry.read(folder)

    @classmethod
    def load(cls, folder: Path) -> ServerIdentity:
        """Read a server's identity.

        Raises:
            DataError: naming the file that is missing or damaged, or open to others.
        """
        registry.read(folder)
        return cls(folder, Shown.load(folder, "server", "ca"), Shown.load(folder, "control", "control-ca"))

    @property
    def registry(self) -> Registry:
        """Who belongs to the federation now; a change shows at once."""
        status = (self.folder / registry.FILE).stat()
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen != self._seen:
            self._registry, self._seen = registry.read(self.folder), seen
        return self._registry

    @property
    def federation(self) -> str:
        """The federation's name."""
        return self._registry.federation

    def name_of(self, pem: bytes) -> tuple[int, str]:
        """Return the number and the name of the client that has shown a certificate.

        Raises:
            Refused: if it is unknown, revoked or expired.
        """
        number, member = _found(self.registry.clients, pem, "client", self.federation)
        return number, member.name

    def operator_of(self, pem: bytes) -> str:
        """Return the name of the operator that has shown a certificate.

        Raises:
            Refused: if it is unknown, revoked or expired.
        """
        return _found(self.registry.operators, pem, "operator", self.federation)[1].name


def _found(members: tuple[Member, ...], pem: bytes, kind: str, federation: str) -> tuple[int, Member]:
    try:
        shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))).hexdigest()
    except (ValueError, binascii.Error) as error:
        raise Refused(f"what a {kind} has shown is no certificate") from error
    for number, member in enumerate(members):
        if member.fingerprint == shown:
            if member.state == "revoked":
                raise Refused(f"{kind} `{member.name}` ({number}) is revoked")
            if registry.has_expired(member):
                raise Refused(
                    f"the certificate of {kind} `{member.name}` ({number}) expired on {member.expires:%Y-%m-%d}",
                    f"quorate federation invite FOLDER {member.name} --renew",
                )
            return number, member
    raise Refused(
        f"the certificate {shown[:16]}... is no {kind}'s of federation `{federation}`, or one that has been renewed"
    )


class _Bundle(BaseModel):
    """What stands in the one file that a client or an operator gets."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    quorate: str = Field(pattern="^(client|operator)$")
    federation: str
    name: str
    number: int = Field(ge=0)
    addresses: list[str] = Field(min_length=1)
    key: str
    certificate: str
    authority: str


@dataclass(frozen=True)
class ClientIdentity:
    """A client as its server sees it, or an operator, from the one file that it was given.

    Args:
        key: its private key, as PEM.
        cert: its certificate.
        ca: the authority that the server's certificate must be of.
        name: its own.
        number: its own, from 0.
        addresses: of the server, HOST:PORT, tried in order.
        federation: the federation's name.
    """

    key: bytes = field(repr=False)
    cert: bytes
    ca: bytes
    name: str
    number: int
    addresses: tuple[str, ...]
    federation: str

    @classmethod
    def load(cls, path: Path, kind: str = "client") -> ClientIdentity:
        """Read a bundle.

        Args:
            kind: "client" or "operator".

        Raises:
            DataError: if the file is missing, damaged, of the other kind or expired, or others may read it.
        """
        content = _private_file(path)
        try:
            bundle = _Bundle.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"`{path}` is no whole bundle: {where + ': ' if where else ''}{first['msg'][:120]}",
                "ask for it again: quorate federation invite FOLDER NAME --renew",
            ) from error
        if bundle.quorate != kind:
            raise DataError(f"`{path}` is the bundle of {_A[bundle.quorate]}, not of {_A[kind]}")
        pair = Pair(bundle.key.encode(), bundle.certificate.encode())
        require_whole(pair, bundle.authority.encode(), (path, path, path))
        until = expires(pair.certificate)
        if until <= now():
            raise DataError(
                f"the certificate in `{path}` expired on {until:%Y-%m-%d}",
                f"have it renewed: quorate federation invite FOLDER {bundle.name} --renew",
            )
        made = cls(
            pair.key,
            pair.certificate,
            bundle.authority.encode(),
            registry.require_name(bundle.name, "a client"),
            bundle.number,
            tuple(bundle.addresses),
            registry.require_name(bundle.federation, "a federation"),
        )
        for address in made.addresses:
            split(address)
        return made

    def to_json(self, kind: str = "client") -> bytes:
        """Return the bundle that `load` reads."""
        bundle = _Bundle(
            quorate=kind,
            federation=self.federation,
            name=self.name,
            number=self.number,
            addresses=list(self.addresses),
            key=self.key.decode(),
            certificate=self.cert.decode(),
            authority=self.ca.decode(),
        )
        return bundle.model_dump_json(indent=1).encode() + b"\n"


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise DataError(f"there is no file `{path}`") from error
    except OSError as error:
        raise DataError(f"`{path}` can't be read: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise DataError(f"`{path}` has more than {_LARGEST} bytes, which no key, certificate or bundle has")
    return content


def _private_file(path: Path) -> bytes:
    content = _file(path)
    if path.stat().st_mode & 0o077:
        raise DataError(f"`{path}` holds a private key, but others than its owner may use it", f"chmod 600 {path}")
    return content
