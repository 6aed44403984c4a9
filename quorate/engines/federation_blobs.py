"""Messages of tensors as one run of bytes, and back; each tensor begins at a multiple of 64 bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from quorate.engines.federation_frames import Spec
from quorate.wire import Message, Ragged

_ALIGNED = 64  # bytes
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


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

    def pieces(self, start: int, stop: int) -> list[bytes | memoryview]:
        """Return the bytes from `start` on, before `stop`, in pieces that are not copied."""
        pieces: list[bytes | memoryview] = []
        at = start
        for begin, view in self._parts:
            a, b = max(start, begin), min(stop, begin + len(view))
            if a < b:
                pieces += [bytes(a - at), view[a - begin : b - begin]]
                at = b
        return [piece for piece in (*pieces, bytes(stop - at)) if piece]

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` on, before `stop`."""
        return b"".join(self.pieces(start, stop))

    def chunk_at(self, number: int) -> list[bytes | memoryview]:
        """Return the pieces of a chunk, counted from 0; the last one may be shorter."""
        return self.pieces(number * self.chunk, min(self.bytes, (number + 1) * self.chunk))

    @cached_property
    def chunks(self) -> tuple[str, ...]:
        """The SHA-256 of every chunk."""
        count = -(-self.bytes // self.chunk)
        return tuple(_sha256(self.chunk_at(number)) for number in range(count))

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of all bytes."""
        return _sha256(self.pieces(0, self.bytes))


def _sha256(pieces: Sequence[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
