"""IDX, the format of the MNIST files: a magic number, the shape, then the bytes; often packed with gzip.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from quorate.errors import DataError
from quorate.tasks.files import DAMAGED, DEFLATE, LIMIT, opened

UINT8 = 0x08  # the third byte of the magic number
CHUNK = 2**20  # bytes


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes; one whose name ends in `.gz` is unpacked on the way.

    Args:
        path: the file.
        dimensions: of the tensor; 3 for images, 1 for labels.

    Returns:
        uint8, of the shape that the header states.

    Raises:
        DataError: if the file is missing, cut short, too long, of another type or shape, or badly packed.
    """
    with opened(path) as file:
        size, packed = os.fstat(file.fileno()).st_size, path.suffix == ".gz"
        try:
            if packed:
                with gzip.GzipFile(fileobj=file) as stream:
                    return _read(path, stream, dimensions, size * DEFLATE)  # type: ignore[arg-type]
            return _read(path, file, dimensions, size)
        except EOFError as error:
            raise DataError(f"`{path}` is cut short: its gzip stream has no end", DAMAGED) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"`{path}` is not a good gzip file: {error}", DAMAGED) from error


def _read(path: Path, stream: BinaryIO, dimensions: int, at_most: int) -> Tensor:
    """Read a stream that can't give more than `at_most` bytes."""
    magic, head = UINT8 << 8 | dimensions, 4 + 4 * dimensions
    header = stream.read(head)
    if header[:4] != magic.to_bytes(4, "big"):
        raise DataError(
            f"`{path}` is no IDX file of {dimensions}-dimensional uint8:"
            f" it begins with {header[:4].hex() or 'nothing'}, not {magic:08x}",
            DAMAGED,
        )
    if len(header) < head:
        raise DataError(f"`{path}` is cut short: its header has {len(header)} bytes instead of {head}", DAMAGED)
    shape = struct.unpack(f">{dimensions}I", header[4:])
    stated = math.prod(shape)
    if not 0 < stated <= LIMIT:
        raise DataError(
            f"`{path}`: the header states the shape {shape}, {stated} bytes; 1 ... {LIMIT} are read", DAMAGED
        )
    if stated > at_most - head:
        raise DataError(
            f"`{path}` is cut short: the header states the shape {shape}, {stated} bytes,"
            f" but at most {at_most - head} can follow",
            DAMAGED,
        )
    body = bytearray()
    while len(body) <= stated and (chunk := stream.read(min(CHUNK, stated + 1 - len(body)))):
        body += chunk
    if len(body) != stated:
        wrong = "is cut short" if len(body) < stated else "is too long"
        follow = len(body) if len(body) < stated else "more"
        raise DataError(
            f"`{path}` {wrong}: the header states the shape {shape}, {stated} bytes, but {follow} follow", DAMAGED
        )
    return torch.frombuffer(body, dtype=torch.uint8).reshape(shape)
