"""Files of inputs that somebody wants predictions for, and of the predictions; nothing in them is unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from quorate.errors import DataError
from quorate.files import write_atomically


def read(path: Path) -> tuple[Tensor, Tensor | None]:
    """Return inputs (n, ...), and targets (n, ...) if there are any.

    Args:
        path: `.npy`, an array of inputs; or `.npz` or `.safetensors`, with `x` and perhaps `y`.

    Raises:
        DataError: if there is no such file, it is of another kind or damaged, or x and y don't fit together.
    """
    try:
        held = _arrays(path)
    except FileNotFoundError as error:
        raise DataError(f"there is no file `{path}`") from error
    except (OSError, ValueError, TypeError, EOFError, SafetensorError, zipfile.BadZipFile) as error:
        raise DataError(f"`{path}` can't be read: {str(error)[:200]}") from error
    if "x" not in held:
        raise DataError(f"`{path}` holds no `x`", f"it holds {', '.join(sorted(held)[:8]) or 'nothing'}")
    x, y = held["x"], held.get("y")
    if not x.dim() or (y is not None and (not y.dim() or len(y) != len(x))):
        raise DataError(f"`{path}`: x and y must hold one entry per sample")
    return x, y


def _arrays(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load(path.read_bytes())
    if path.suffix not in (".npy", ".npz"):
        raise DataError(f"`{path}` is no file of inputs", "write inputs with numpy.save, as .npy")
    with path.open("rb") as file:
        held = np.load(file, allow_pickle=False)
        arrays = {"x": held} if isinstance(held, np.ndarray) else {name: held[name] for name in held.files}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def write(path: Path, output: Tensor, prediction: Tensor) -> None:
    """Write a model's outputs and predictions to an .npz file.

    Raises:
        DataError: if it can't be written.
    """
    if path.suffix != ".npz":
        raise DataError(
            f"predictions are written to an .npz file, not to `{path}`", f"--out {path.with_suffix('.npz')}"
        )
    buffer = io.BytesIO()
    np.savez(buffer, output=output.numpy(), prediction=prediction.numpy())
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise DataError(f"`{path}` can't be written: {error.strerror}") from error
