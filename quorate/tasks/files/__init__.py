"""Files that were made elsewhere: found by name, and believed only as far as they have been checked.

A reader compares the sizes a header states with the file's own size before it takes memory, unpacks no more than
the header states, and never unpickles. Whatever is wrong becomes a `DataError` that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from quorate.errors import DataError

LIMIT = 2**32  # bytes that the arrays of one file may take in memory
DEFLATE = 1032  # bytes that one byte of gzip or zip can unpack to, at most
DAMAGED = "get the file again: it is damaged, or not what its name says"


def find(data: Path | None, *names: str) -> Path:
    """Return the first of several files that exists in the data folder.

    Args:
        data: the data folder, or None if none was given.
        names: paths relative to the folder, the preferred one first.

    Raises:
        DataError: if there is no folder, or none of the files in it.
    """
    if data is None:
        raise DataError("this task reads files, but no data folder was given", "give --data FOLDER or set QUORATE_DATA")
    if not data.is_dir():
        raise DataError(
            f"data folder `{data}` does not exist", "give a folder that exists with --data FOLDER or QUORATE_DATA"
        )
    for name in names:
        if (data / name).is_file():
            return data / name
    wanted = " or ".join(f"`{name}`" for name in names)
    raise DataError(f"data folder `{data}` holds no {wanted}", "put the file there, or give another --data FOLDER")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read its bytes.

    Raises:
        DataError: if the operating system refuses, now or later inside the `with` block.
    """
    try:
        if not path.is_file():
            raise DataError(f"`{path}` does not exist, or is no file", "give the path of a file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"`{path}` can't be read: {error.strerror or error}", "check the file's permissions") from error


def require_labels(path: Path, y: Tensor, samples: int, classes: int) -> None:
    """Check that a file holds one label in 0 ... classes - 1 per sample.

    Args:
        path: the file, to be named.
        y: (n,), its labels, uint8.

    Raises:
        DataError: if n is not `samples`, or a label is too large.
    """
    if len(y) != samples:
        raise DataError(f"`{path}` holds {len(y)} labels for {samples} images", "take both files from one data set")
    if int(y.max()) >= classes:
        at = int(y.argmax())
        raise DataError(f"`{path}`: label {y[at]} of sample {at} is not in 0 ... {classes - 1}", DAMAGED)
