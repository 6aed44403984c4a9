"""Messages between a federation's server and its clients: a checked header in JSON, and bytes after it.

Every header is checked for its types and limits, and what it says of tensors against what the recipe's parts send,
before memory is taken. Tensors travel as one run of bytes, each beginning at a multiple of 64.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, ClassVar, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from quorate.errors import RunError
from quorate.wire import Message, Ragged

PROTOCOL = 1
METHOD = "Talk"
SERVICE = "quorate.Federation"
HEADER_BYTES = 1 << 20  # the most that a header has

_LENGTH = struct.Struct("<I")
_ALIGNED = 64  # bytes
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}

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


def frame(header: Header, content: bytes | memoryview = b"") -> bytes:
    """Return a message as it is sent."""
    text = header.kind.encode().ljust(8) + header.model_dump_json().encode()
    return b"".join((_LENGTH.pack(len(text)), text, content))


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


def specs_of(messages: Mapping[str, Message]) -> tuple[Spec, ...]:
    """Describe messages, in the order of their names."""
    return tuple(
        Spec(
            name=name,
            ragged=isinstance(message, Ragged),
            tensors=tuple((str(each.dtype).removeprefix("torch."), tuple(each.shape)) for each in message),
        )
        for name, message in sorted(messages.items())
    )


def misfit(specs: Sequence[Spec], limits: Mapping[str, Message], complete: bool = True) -> str | None:
    """Return what is wrong with declared tensors, in words; None if all are as the recipe's parts send them.

    Args:
        limits: tensors of the shapes and dtypes that may come, by name; if ragged, of the most rows.
        complete: all of them must come.
    """
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names) or not set(names) <= set(limits) or (complete and set(names) != set(limits)):
        return f"it holds {', '.join(sorted(names)) or 'nothing'}, not {', '.join(sorted(limits))}"
    for spec in specs:
        most = limits[spec.name]
        ragged = isinstance(most, Ragged)
        if ragged is not spec.ragged or len(spec.tensors) != len(most):
            return f"its `{spec.name}` is of {len(spec.tensors)} tensors, not {len(most)}"
        for (dtype, shape), like in zip(spec.tensors, most, strict=True):
            wanted = tuple(like.shape)
            fits = (
                shape[1:] == wanted[1:] and len(shape) == len(wanted) and shape[0] <= wanted[0]
                if ragged
                else (shape == wanted)
            )
            if _DTYPES.get(dtype) is not like.dtype or not fits:
                expected = f"{str(like.dtype).removeprefix('torch.')}{list(wanted)}"
                return f"its `{spec.name}` is {dtype}{list(shape)}, not {expected}{' or shorter' if ragged else ''}"
    return None


def places(specs: Sequence[Spec]) -> tuple[list[list[tuple[int, int]]], int]:
    """Return where tensors of known dtypes lie in the run of bytes, (start, bytes) each, and how long that is."""
    offset, found = 0, []
    for spec in specs:
        row = []
        for dtype, shape in spec.tensors:
            offset = -(-offset // _ALIGNED) * _ALIGNED
            count = _DTYPES[dtype].itemsize * torch.Size(shape).numel()
            row.append((offset, count))
            offset += count
        found.append(row)
    return found, offset


def opened(specs: Sequence[Spec], content: Tensor) -> dict[str, Message]:
    """Return the messages whose bytes these are, (n,) of uint8; their tensors are views."""
    rows, _ = places(specs)
    messages: dict[str, Message] = {}
    for spec, row in zip(specs, rows, strict=True):
        tensors = [
            content[start : start + count].view(_DTYPES[dtype]).view(shape)
            if count
            else torch.empty(shape, dtype=_DTYPES[dtype])
            for (dtype, shape), (start, count) in zip(spec.tensors, row, strict=True)
        ]
        messages[spec.name] = Ragged(tensors) if spec.ragged else tuple(tensors)
    return messages


class Blob:
    """Messages as one run of bytes, which is not copied until it is read.

    Args:
        messages: by name; they must not be written to.
        chunk: bytes of a chunk.
    """

    def __init__(self, messages: Mapping[str, Message], chunk: int) -> None:
        self.specs, self.chunk = specs_of(messages), chunk
        rows, self.bytes = places(self.specs)
        self._parts = [
            (start, _bytes_of(tensor))
            for (_, message), row in zip(sorted(messages.items()), rows, strict=True)
            for tensor, (start, count) in zip(message, row, strict=True)
            if count
        ]

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` on, before `stop`."""
        pieces: list[bytes | memoryview] = []
        at = start
        for begin, view in self._parts:
            a, b = max(start, begin), min(stop, begin + len(view))
            if a < b:
                pieces += [bytes(a - at), view[a - begin : b - begin]]
                at = b
        return b"".join((*pieces, bytes(stop - at)))

    def chunk_at(self, number: int) -> bytes:
        """Return a chunk, counted from 0; the last one may be shorter."""
        return self.read(number * self.chunk, min(self.bytes, (number + 1) * self.chunk))

    @cached_property
    def chunks(self) -> tuple[str, ...]:
        """The SHA-256 of every chunk."""
        count = -(-self.bytes // self.chunk)
        return tuple(hashlib.sha256(self.chunk_at(number)).hexdigest() for number in range(count))

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of all bytes."""
        digest = hashlib.sha256()
        for start in range(0, self.bytes, self.chunk):
            digest.update(self.read(start, min(self.bytes, start + self.chunk)))
        return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
