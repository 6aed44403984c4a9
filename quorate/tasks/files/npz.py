"""NPZ, numpy's archive: a zip file with one NPY array per key, of which only plain unsigned bytes are read.

Its headers are matched against the one form that numpy writes, so nothing in the file is evaluated or unpickled.

Source: numpy's reference, `numpy.lib.format`, version 1.0.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from quorate.errors import DataError
from quorate.tasks.files import DAMAGED, DEFLATE, LIMIT, opened

MAGIC = b"\x93NUMPY\x01\x00"
HEADER = re.compile(rb"\{'descr': '([^']+)', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n")
Shape = tuple[int | None, ...]


def read_npz(path: Path, keys: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Read some arrays of unsigned bytes from an archive.

    Args:
        path: the file.
        keys: name -> shape of each wanted array; None stands for any length.

    Returns:
        Name -> uint8 tensor.

    Raises:
        DataError: if the file is missing, no zip file or damaged, if a key is missing, or if an array has another
            type or shape, or does not have as many bytes as its header states.
    """
    with opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return {key: _read(path, archive, key, shape) for key, shape in keys.items()}
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError) as error:
            raise DataError(f"`{path}` is not a good .npz file: {error}", DAMAGED) from error


def _read(path: Path, archive: zipfile.ZipFile, key: str, wanted: Shape) -> Tensor:
    """Read one array out of the open archive."""
    names = archive.namelist()
    if f"{key}.npy" not in names:
        held = [name.removesuffix(".npy") for name in names if name.endswith(".npy") and name.isprintable()]
        listed = ", ".join(f"`{name[:40]}`" for name in held[:8]) or "no array"
        raise DataError(f"`{path}` holds no `{key}`", f"it holds {listed}; take a file with `{key}`")
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"`{path}`: `{key}` is packed by an unknown method", "write it with numpy.savez_compressed")
    with archive.open(info) as member:
        shape = _shape(path, member, key)
        if len(shape) != len(wanted) or any(w not in (None, s) for w, s in zip(wanted, shape, strict=True)):
            asked = ", ".join("any" if w is None else str(w) for w in wanted)
            raise DataError(f"`{path}`: `{key}` has the shape {shape}, not ({asked})", "take a file of that shape")
        stated, follow = math.prod(shape), info.file_size - member.tell()
        if not 0 < stated <= LIMIT:
            raise DataError(f"`{path}`: `{key}` has {stated} bytes; 1 ... {LIMIT} are read", DAMAGED)
        if stated != follow or info.file_size > DEFLATE * info.compress_size:
            can = min(follow, DEFLATE * info.compress_size)
            raise DataError(
                f"`{path}`: the header of `{key}` states the shape {shape}, {stated} bytes, but {can} follow", DAMAGED
            )
        body = bytearray(member.read())
    if len(body) != stated:
        raise DataError(f"`{path}` is cut short: `{key}` has {len(body)} bytes instead of {stated}", DAMAGED)
    return torch.frombuffer(body, dtype=torch.uint8).reshape(shape)


def _shape(path: Path, member: IO[bytes], key: str) -> tuple[int, ...]:
    """Read the header of an array and return the shape that it states."""
    start = member.read(len(MAGIC) + 2)
    length = int.from_bytes(start[len(MAGIC) :], "little")
    header = HEADER.fullmatch(member.read(length))
    if not start.startswith(MAGIC) or header is None:
        raise DataError(f"`{path}`: `{key}` is no plain numpy array", "write it with numpy.savez_compressed")
    kind, transposed, shape = header.groups()
    if kind == b"|O":
        raise DataError(f"`{path}`: `{key}` holds pickled objects, which are never read", "save it as uint8")
    if kind != b"|u1" or transposed == b"True":
        order = ", in Fortran's order" if transposed == b"True" else ""
        raise DataError(
            f"`{path}`: `{key}` has the type {kind.decode('ascii', 'replace')}{order}, not |u1", "save it as uint8"
        )
    return tuple(int(number) for number in shape.replace(b",", b" ").split())
