"""Messages between a federation's server and its clients: a checked header in JSON, and bytes after it.

Every header is checked for its types and limits, and what it says of tensors against what the recipe's parts send,
before memory is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quorate.errors import RunError

PROTOCOL = 1
METHOD = "Talk"
SERVICE = "quorate.Federation"
HEADER_BYTES = 1 << 20  # the most that a header has

_LENGTH = struct.Struct("<I")

Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Numbers = Annotated[dict[Name, float], Field(max_length=64)]


class Garbled(RunError):
    """What a peer has sent is no message that it may send."""


class Spec(BaseModel):
    """Dtypes and shapes of a message of tensors that has a name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    ragged: bool
    tensors: Annotated[tuple[tuple[Name, Annotated[tuple[Count, ...], Field(max_length=8)]], ...], Field(max_length=16)]


Specs = Annotated[tuple[Spec, ...], Field(max_length=64)]


class Header(BaseModel):
    """What stands before a message's bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
    kind: ClassVar[str]


class Hello(Header):
    """A client's first message: what it runs, and facts about itself."""

    kind = "hello"
    protocol: Count
    configuration: Annotated[dict[Name, Name], Field(max_length=64)]
    facts: Numbers


class Welcome(Header):
    """The server's answer: which run this is."""

    kind = "welcome"
    run: Id
    federation: Name
    name: Name
    number: Count
    size: Count
    chunk: Annotated[int, Field(ge=1, le=1 << 26)]


class Ready(Header):
    """What a client holds of the run: chunks of broadcasts, and the request that it works on or has a reply to."""

    kind = "ready"
    held: Annotated[tuple[Digest, ...], Field(max_length=14_000)]
    busy: Id | None


class Refusal(Header):
    """The server's last message on a stream; a client that is refused for good stops."""

    kind = "refusal"
    why: str
    final: bool


class Ask(Header):
    """A request, whose tensors follow in chunks as far as the client lacks them."""

    kind = "ask"
    id: Id
    round: Count
    what: Name
    numbers: Numbers
    tensors: Specs
    bytes: Count
    chunk: Annotated[int, Field(ge=1, le=1 << 26)]
    chunks: tuple[Digest, ...]


class Chunk(Header):
    """A piece of a broadcast, which is known by the SHA-256 of its bytes."""

    kind = "chunk"
    sha256: Digest


class Offer(Header):
    """A reply, whose tensors follow in pieces from a byte on."""

    kind = "offer"
    id: Id
    round: Count
    what: Name
    numbers: Numbers
    tensors: Specs
    bytes: Count
    sha256: Digest
    start: Count


class Piece(Header):
    """Some bytes of a reply."""

    kind = "piece"
    id: Id
    offset: Count


class Failed(Header):
    """A client could not work a request out."""

    kind = "failed"
    id: Id
    why: Annotated[str, Field(max_length=2000)]


class Verdict(Header):
    """What has become of a request: "open": its reply is awaited, from byte `start` on; "accepted"; or "dropped"."""

    kind = "verdict"
    id: Id
    state: Annotated[str, Field(pattern="^(open|accepted|dropped)$")]
    why: str = ""
    start: Count = 0


class End(Header):
    """The run is over."""

    kind = "end"
    measures: dict[str, float | None]


FROM_CLIENTS = (Hello, Ready, Offer, Piece, Failed)
FROM_SERVERS = (Welcome, Refusal, Ask, Chunk, Verdict, End)
H = TypeVar("H", bound=Header)


def frame(header: Header, *content: bytes | memoryview) -> bytes:
    """Return a message as it is sent; its bytes may come in pieces."""
    text = header.kind.encode().ljust(8) + header.model_dump_json().encode()
    return b"".join((_LENGTH.pack(len(text)), text, *content))


def unframe(data: bytes, known: Sequence[type[Header]]) -> tuple[Header, memoryview]:
    """Return a message's header and the bytes after it.

    Raises:
        Garbled: if it is none of the known ones.
    """
    view = memoryview(data)
    length = _LENGTH.unpack_from(view)[0] if len(view) >= _LENGTH.size + 8 else 0
    stop = _LENGTH.size + length
    if not 8 <= length <= HEADER_BYTES or stop > len(view):
        raise Garbled(f"{len(view)} bytes that are no message")
    kind = bytes(view[_LENGTH.size : _LENGTH.size + 8]).rstrip().decode("ascii", "replace")
    for each in known:
        if each.kind == kind:
            try:
                return each.model_validate_json(bytes(view[_LENGTH.size + 8 : stop])), view[stop:]
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"][:4])[:80]
                raise Garbled(f"a message `{kind}` whose `{where}` is wrong: {first['msg'][:80]}") from error
    raise Garbled(f"a message of the kind {kind!r}, which may not come now")
