"""Trees and messages of tensors in files that need no second copy in memory.

Trees are safetensors files, written a tensor at a time; messages are mapped into memory when they are read.
"""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quorate.engines.federation_blobs import Blob
from quorate.errors import RunError
from quorate.trees import Tree, leaves, nest

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_tree(path: Path, tree: Tree, durable: bool = True) -> None:
    """Write a tree's tensors as a safetensors file that is whole or absent.

    Args:
        durable: it is on the disk, and not only with the operating system, when this returns.
    """
    header: dict[str, object] = {}
    offset, tensors = 0, []
    for name, tensor in leaves(tree):
        held = tensor.detach().cpu().contiguous()
        count = held.numel() * held.element_size()
        header[name] = {
            "dtype": _NAMES[held.dtype],
            "shape": list(held.shape),
            "data_offsets": [offset, offset + count],
        }
        offset += count
        tensors.append(held)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for held in tensors:
            if held.numel():
                file.write(held.reshape(-1).view(torch.uint8).numpy().data)
        if durable:
            file.flush()
            os.fdatasync(file.fileno())
    os.replace(temporary, path)
    if durable:
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Wait until what a file holds is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_tree(path: Path) -> Tree:
    """Read what `save_tree` has written.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return nest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise RunError(f"`{path}` is missing or damaged: {error}") from error


def save_blob(path: Path, blob: Blob) -> None:
    """Write messages as one run of bytes."""
    with path.open("wb") as file:
        for piece in blob.pieces(0, blob.bytes):
            file.write(piece)


def viewed(path: Path) -> memoryview:
    """Return a file's bytes, read when they are looked at.

    Raises:
        OSError: if it is missing.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def mapped(path: Path, count: int) -> Tensor:
    """Return a file's bytes, (n,) of uint8: read when they are looked at, and private if they are written to."""
    if not count:
        return torch.empty(0, dtype=torch.uint8)
    storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=count)
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (count,))  # type: ignore[call-overload, no-any-return]
