"""Who belongs to a federation: a file in the folder that `quorate federation init` makes.

A client is its certificate. Its number is never given again, not even when it is revoked, because what the server knows
of a client it knows by number.
"""

from __future__ import annotations

import datetime
import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from quorate.errors import DataError, RecipeError
from quorate.files import write_atomically

FILE = "federation.json"
_LARGEST = 1 << 26  # bytes of a registry
_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Entry):
    """A client, or an operator.

    Args:
        name: unique among those of its kind.
        fingerprint: SHA-256 of its one certificate that counts.
        expires: until when that holds.
        state: a revoked one never comes back.
    """

    name: str
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    expires: AwareDatetime
    state: Literal["invited", "revoked"] = "invited"


class Registry(_Entry):
    """All that a server knows of who may take part.

    Args:
        federation: its name.
        addresses: where clients reach the server, HOST:PORT.
        port: that it listens on for clients.
        control_port: that it listens on for operators.
        clients: by number.
        operators: who may ask how things stand, and stop a run.
    """

    federation: str
    addresses: tuple[str, ...] = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    control_port: int = Field(ge=1, le=65535)
    clients: tuple[Member, ...] = ()
    operators: tuple[Member, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Registry:
        for members in (self.clients, self.operators):
            names = [each.name.casefold() for each in members]
            if len(set(names)) < len(names):
                raise ValueError("two of the same name")
        return self

    def client(self, name: str) -> tuple[int, Member]:
        """Return a client's number and what is known of it.

        Raises:
            RecipeError: if there is none of that name.
        """
        for number, each in enumerate(self.clients):
            if each.name.casefold() == name.casefold():
                return number, each
        raise RecipeError(
            f"federation `{self.federation}` has no client `{name}`", "`quorate federation list FOLDER` shows them"
        )


def read(folder: Path) -> Registry:
    """Read a federation's registry.

    Raises:
        DataError: if the folder is no federation's, or its file can't be read.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise DataError(
            f"`{folder}` is not the folder of a federation: it has no {FILE}", f"quorate federation init {folder}"
        ) from error
    except OSError as error:
        raise DataError(f"`{path}` can't be read: {error.strerror}") from error
    try:
        if len(content) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes")
        return Registry.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"`{path}` is damaged: {where + ': ' if where else ''}{first['msg']}") from error
    except ValueError as error:
        raise DataError(f"`{path}` is damaged: {error}") from error


def write(folder: Path, registry: Registry) -> None:
    """Write a federation's registry, so that a reader sees the old one or the new one."""
    write_atomically(folder / FILE, registry.model_dump_json(indent=1).encode() + b"\n")


@contextmanager
def changing(folder: Path) -> Iterator[Registry]:
    """Hold the registry, so that no other command changes it in the meantime; a server goes on reading it."""
    read(folder)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield read(folder)


def require_name(name: str, whose: str) -> str:
    """Return a name that can stand in a certificate and be that of a file.

    Raises:
        RecipeError: if it can't.
    """
    if not _NAME.fullmatch(name):
        raise RecipeError(
            f"{whose} can't be called {name!r}: up to 40 letters of a-z, digits, dots, dashes and underscores, and no"
            " sign comes first",
            "hospital-1",
        )
    return name


def has_expired(member: Member) -> bool:
    """Return whether a member's certificate holds no more."""
    return member.expires <= datetime.datetime.now(datetime.UTC)


def split(address: str, port: int | None = None, least: int = 1) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT, [IPv6]:PORT, or, if there is a usual port, HOST or IPv6.

    Args:
        port: the usual one, if there is any.
        least: 0 where any free port will do.

    Raises:
        RecipeError: if it is no address.
    """
    host, colon, digits = address.rpartition(":")
    if not colon or (address.count(":") > 1 and not host.endswith("]")):
        host, digits = address, "" if port is None else str(port)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (_HOST.fullmatch(host) or _is_ip(host)) or not digits.isascii() or not digits.isdigit():
        raise RecipeError(f"`{address}` is no address of a server", "fl.example.org:9092")
    if not least <= int(digits) <= 65535:
        raise RecipeError(f"`{address}` names no port: one is {least} .. 65535", "fl.example.org:9092")
    return host, int(digits)


def joined(host: str, port: int) -> str:
    """Return HOST:PORT, as `split` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
