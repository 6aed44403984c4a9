"""Python objects on their way to another process of this machine; their tensors lie in memory that both see.

A parcel is a pickle, and a file in memory without a name, which ends with the last process that has it. So nothing is
left behind, however a process ends. Only for Linux, and only between processes that trust each other.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import socket
import struct
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from quorate.federated.unfolded import folded

_HEADER = struct.Struct("<QQ")  # bytes of the pickle, bytes of the tensors
_LARGE = 1 << 20  # bytes
_LINE = 64  # bytes that a tensor's place is a multiple of

Place = tuple[int, torch.dtype, tuple[int, ...]]
"""Where a tensor's numbers begin, in bytes, and what it is."""


class _Packer(pickle.Pickler):
    """Pickles an object, and leaves out its tensors; the same tensor is left out once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self.end = 0
        self.places: dict[int, Place] = {}
        self._kept: list[object] = []  # so that no other object is given their ids

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self.places:
            tensor = folded(value).detach().contiguous()
            self.places[id(value)] = self.end, tensor.dtype, tuple(tensor.shape)
            self.tensors.append(tensor)
            self._kept.append(value)
            self.end += -(-tensor.numel() * tensor.element_size() // _LINE) * _LINE
        return self.places[id(value)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, memory: mmap.mmap | None) -> None:
        super().__init__(file)
        self._memory, self._found = memory, dict[object, Tensor]()

    def persistent_load(self, place: Any) -> Tensor:
        if place not in self._found:
            self._found[place] = _mapped(self._memory, place)
        return self._found[place]


class Parcel:
    """A packed object, which can be sent more than once; a context, after which it can't.

    Raises:
        OSError: if there is no memory.
        Exception: what pickling raises, if the object can't be.
    """

    def __init__(self, content: object) -> None:
        file = io.BytesIO()
        self._packer = _Packer(file)
        self._packer.dump(content)
        self._whole, self._shared = file.getvalue(), os.memfd_create("quorate")
        try:
            os.ftruncate(self._shared, self._packer.end)
            start = 0
            for tensor in self._packer.tensors:
                start += -(-_write(self._shared, tensor, start) // _LINE) * _LINE
        except BaseException:
            os.close(self._shared)
            raise

    def send(self, to: socket.socket) -> None:
        """Send it.

        Raises:
            OSError: if the other process has ended.
        """
        socket.send_fds(to, [_HEADER.pack(len(self._whole), self._packer.end)], [self._shared])
        to.sendall(self._whole)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Let tensors of the object, if they are large, lie in the memory that its receivers see, and nowhere else."""
        large = [each for each in tensors if type(each) is Tensor and each.numel() * each.element_size() >= _LARGE]
        memory = mmap.mmap(self._shared, self._packer.end) if large else None
        for tensor in large:
            tensor.set_(_mapped(memory, self._packer.places[id(tensor)]))  # type: ignore[call-overload]

    def __enter__(self) -> Parcel:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._shared)


def _write(file: int, tensor: Tensor, start: int) -> int:
    """Write a tensor's numbers to a place in a file, and return how many bytes they are."""
    raw = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")
    written = 0
    while written < len(raw):
        written += os.pwrite(file, raw[written:], start + written)
    return written


def _mapped(memory: mmap.mmap | None, place: Place) -> Tensor:
    """Return the tensor at a place in memory."""
    start, dtype, shape = place
    count = torch.Size(shape).numel()
    if not count or memory is None:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=start).view(shape)


def send(to: socket.socket, content: object) -> None:
    """Send an object; raises what `Parcel` and its `send` do."""
    with Parcel(content) as parcel:
        parcel.send(to)


def receive(source: socket.socket) -> Any:
    """Wait for an object; its tensors are the receiver's to write to.

    Raises:
        EOFError: if the other process has ended.
        OSError: likewise.
    """
    header, files, _, _ = socket.recv_fds(source, _HEADER.size, 1)
    try:
        header += _exactly(source, _HEADER.size - len(header))
        length, size = _HEADER.unpack(header)
        memory = mmap.mmap(files[0], size) if size else None
    finally:
        for file in files:
            os.close(file)
    return _Unpacker(io.BytesIO(_exactly(source, length)), memory).load()


def _exactly(source: socket.socket, count: int) -> bytes:
    pieces = []
    while count:
        piece = source.recv(min(count, 1 << 20))
        if not piece:
            raise EOFError("the other process has ended")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
