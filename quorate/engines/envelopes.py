"""A message between two real workers as a header, in which small tensors travel, and parts: each large tensor alone.

A large tensor is neither copied into a message nor out of it. The receiver knows the parts of a message before it
comes, or, if it is ragged, when it has the header; room for a part of a ragged message is a power of two of bytes, so
that room for the last one mostly suits the next.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from quorate.errors import QuorateError
from quorate.wire import RAGGED_BYTES, RAGGED_TENSORS, Message, Ragged, described

_NUMBERS = struct.Struct(f"<{2 + RAGGED_TENSORS}q")  # tag, signature, and the rows of each tensor of a ragged message
_HEADER = 256  # bytes
_FITS = _HEADER - _NUMBERS.size  # bytes of tensors in a header
_ALONE = 1 << 15  # bytes from which a tensor is a part of its own
_REMEMBERED = 1024  # forms

Shapes = tuple[tuple[torch.dtype, torch.Size], ...]


class Part(NamedTuple):
    """Tensors of a message that follow its header together.

    Args:
        places: theirs in the message.
        bytes: how many are sent.
        room: how many the receiver makes room for.
    """

    places: tuple[int, ...]
    bytes: int
    room: int


class Form(NamedTuple):
    """How a message travels.

    Args:
        inside: the places of the tensors that its header holds.
        parts: what follows.
    """

    inside: tuple[int, ...]
    parts: tuple[Part, ...]


class Header:
    """The first bytes of a message, in memory that gloo may write to."""

    def __init__(self) -> None:
        self._bytes = bytearray(_HEADER)
        self.tensor = torch.frombuffer(self._bytes, dtype=torch.uint8)
        self.content = memoryview(self._bytes)[_NUMBERS.size :]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Tag and signature, then the numbers of rows."""
        return _NUMBERS.unpack_from(self._bytes)

    def write(self, tag: int, sign: int = 0, rows: Sequence[int] = ()) -> None:
        """Write all but the tensors."""
        _NUMBERS.pack_into(self._bytes, 0, tag, sign, *rows, *[0] * (RAGGED_TENSORS - len(rows)))


def shapes_of(message: Message) -> Shapes:
    """Return dtypes and shapes."""
    return tuple((tensor.dtype, tensor.shape) for tensor in message)


@lru_cache(_REMEMBERED)
def form(shapes: Shapes) -> Form:
    """Return how messages travel whose shapes are agreed on."""
    return form_of(shapes, ragged=False)


def form_of(shapes: Shapes, *, ragged: bool) -> Form:
    """Return how a message travels."""
    counts = [_count(*each) for each in shapes]
    small = tuple(place for place, count in enumerate(counts) if count < _ALONE)
    groups: list[tuple[int, ...]] = [(place,) for place, count in enumerate(counts) if count >= _ALONE]
    if sum(counts[place] for place in small) > _FITS:
        groups, small = [small, *groups], ()
    parts = []
    for places in groups:
        count = sum(counts[place] for place in places)
        parts.append(Part(places, count, 1 << (count - 1).bit_length() if ragged else count))
    return Form(small, tuple(parts))


def _count(dtype: torch.dtype, shape: torch.Size) -> int:
    return dtype.itemsize * shape.numel()


def written(message: Message, tag: int, sign: int) -> tuple[Header, list[tuple[Part, Tensor]]]:
    """Return a message's header and its parts, which may share its memory."""
    header, shapes, ragged = Header(), shapes_of(message), isinstance(message, Ragged)
    header.write(tag, sign, [len(tensor) for tensor in message] if ragged else ())
    inside, parts = form_of(shapes, ragged=True) if ragged else form(shapes)
    offset = 0
    for place in inside:
        content = _bytes(message[place]).numpy().data
        header.content[offset : offset + len(content)] = content
        offset += len(content)
    together = []
    for part in parts:
        pieces = [_bytes(message[place]) for place in part.places]
        together.append((part, pieces[0] if len(pieces) == 1 else torch.cat(pieces)))
    return header, together


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def announced(rows: Sequence[int], like: Message, src: int) -> tuple[Shapes, Form]:
    """Return the shapes of a message, of which a header announces the numbers of rows if it is ragged.

    Raises:
        QuorateError: if no such message can be.
    """
    shapes = shapes_of(like)
    if not isinstance(like, Ragged):
        return shapes, form(shapes)
    rows = rows[: len(like)]
    if not all(0 <= count <= RAGGED_BYTES for count in rows):
        raise QuorateError(f"rank {src} sent {described(like)} with {rows} rows, which is no number of rows")
    if not within(rows, like):
        raise too_long(src, rows, like)
    shapes = tuple((dtype, torch.Size((count, *shape[1:]))) for count, (dtype, shape) in zip(rows, shapes, strict=True))
    if sum(_count(*each) for each in shapes) > RAGGED_BYTES:
        raise QuorateError(f"rank {src} sent {described(like)} with {rows} rows, over {RAGGED_BYTES} bytes")
    return shapes, form_of(shapes, ragged=True)


def outline(like: Message, other: Message | None = None) -> Message:
    """Return tensors without memory that look like a message's; of ragged ones, with the most rows of two."""
    if not isinstance(like, Ragged):
        return tuple(tensor.to("meta") for tensor in like)
    most = [len(tensor) for tensor in like]
    if other is not None:
        most = [max(a, len(b)) if a and len(b) else 0 for a, b in zip(most, other, strict=True)]
    return Ragged(
        torch.empty((rows, *tensor.shape[1:]), dtype=tensor.dtype, device="meta")
        for rows, tensor in zip(most, like, strict=True)
    )


def covers(known: Message, like: Message) -> bool:
    """Return whether all that is like one may come where the other, of the same signature, is expected."""
    if not isinstance(known, Ragged):
        return True
    return all(not len(a) or 0 < len(b) <= len(a) for a, b in zip(known, like, strict=True))


def within(rows: Sequence[int], like: Message) -> bool:
    """Return whether a ragged message has no more rows than are expected, where that is stated."""
    return all(not len(tensor) or count <= len(tensor) for count, tensor in zip(rows, like, strict=False))


def require_expected(src: int, message: Message, like: Message) -> None:
    """Refuse a message that is not of the dtypes and shapes that are expected, or has too many rows.

    Raises:
        QuorateError: naming the sender, and what was expected.
    """
    ragged, got, wanted = isinstance(like, Ragged), shapes_of(message), shapes_of(like)
    if ragged is not isinstance(message, Ragged) or len(got) != len(wanted):
        raise unexpected(src, message, like)
    from_ = 1 if ragged else 0
    for (dtype, shape), (wanted_dtype, wanted_shape) in zip(got, wanted, strict=True):
        if dtype != wanted_dtype or shape[from_:] != wanted_shape[from_:]:
            raise unexpected(src, message, like)
    if ragged and not within([len(tensor) for tensor in message], like):
        raise too_long(src, [len(tensor) for tensor in message], like)


def unexpected(src: int, message: Message | None, like: Message) -> QuorateError:
    """Return the error of another message than what is expected."""
    sent = "something else" if message is None else described(message)
    return QuorateError(f"expected {described(like)} from rank {src}, but was sent {sent}")


def too_long(src: int, rows: Sequence[int], like: Message) -> QuorateError:
    """Return the error of a ragged message that has too many rows."""
    most = [len(tensor) for tensor in like]
    return QuorateError(f"rank {src} sent {described(like)} with {list(rows)} rows, but there are at most {most}")


def read(header: Header, came: Iterable[tuple[Part, Tensor]], inside: tuple[int, ...], shapes: Shapes) -> list[Tensor]:
    """Put a message together; its large tensors share the memory of their parts.

    Args:
        came: parts with the bytes that came, at least as many as were sent.
        inside: the places of the tensors that the header holds.
        shapes: of the message.
    """
    tensors = [torch.Tensor()] * len(shapes)
    _take(tensors, inside, header.content, shapes)
    for part, buffer in came:
        if len(part.places) == 1:
            dtype, shape = shapes[part.places[0]]
            tensors[part.places[0]] = buffer[: part.bytes].view(dtype).view(shape)
        else:
            _take(tensors, part.places, buffer.numpy().data, shapes)
    return tensors


def _take(tensors: list[Tensor], places: tuple[int, ...], content: memoryview, shapes: Shapes) -> None:
    offset = 0
    for place in places:
        dtype, shape = shapes[place]
        count = _count(dtype, shape)
        if count:
            tensors[place] = torch.frombuffer(bytearray(content[offset : offset + count]), dtype=dtype).view(shape)
        else:
            tensors[place] = torch.empty(shape, dtype=dtype)
        offset += count
