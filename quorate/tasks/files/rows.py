"""Rows for the linear models: from two LIBSVM files, or generated when the file is called `generated`.

Generated rows are a mixture of Gaussians that overlap, one per group, with E|x|^2 = 1; they are the same in every
run.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from quorate.errors import DataError, RecipeError
from quorate.rand import Rand
from quorate.tasks import Data
from quorate.tasks.files import LIMIT, find
from quorate.tasks.files.libsvm import read_libsvm

GENERATED = "generated"
NOISE = 0.5  # standard deviation of a coordinate around centres of length 1
Precision = Literal["float32", "float64"]


def rows(
    data: Path | None, *, file: str, test_file: str, features: int, samples: int, groups: int, dtype: Precision
) -> tuple[Data, Data]:
    """Return training and test data.

    Args:
        data: the data folder; may be None if the rows are generated.
        file: of the training rows, relative to the folder, or `generated`.
        test_file: of the test rows; not used if they are generated.
        features: columns of x.
        samples: training rows to generate; a quarter as many are generated for the test.
        groups: of generated rows; their number is the label.
        dtype: of x.

    Returns:
        Two data sets with x (n, features) and y (n,), int64.

    Raises:
        RecipeError: if features or samples is too small, or too large for memory.
        DataError: if a file is not as it should be, or has a label that is no whole number.
    """
    if features < 1:
        raise RecipeError(
            f"features is the number of columns, at least 1; got {features}", "set features = 123 for a9a"
        )
    if file == GENERATED:
        if samples < max(4, groups):
            raise RecipeError(
                f"samples is the number of training rows, at least {max(4, groups)}; got {samples}",
                f"set samples = {max(4, groups)}",
            )
        if samples * features * 8 > LIMIT:
            raise RecipeError(
                f"{samples} samples of {features} features take more than {LIMIT} bytes", "set samples = 2000"
            )
        return (
            _generated("train", samples, features, groups, _dtype(dtype)),
            _generated("test", samples // 4, features, groups, _dtype(dtype)),
        )
    train, test = find(data, file), find(data, test_file)
    return _read(train, features, _dtype(dtype)), _read(test, features, _dtype(dtype))


def require_l2(l2: float) -> None:
    """Refuse a weight decay that would push the parameters away from 0.

    Raises:
        RecipeError: if l2 is negative or not finite.
    """
    if not 0 <= l2 < math.inf:
        raise RecipeError(f"l2 is a factor of |parameters|^2 / 2, at least 0; got {l2}", "set l2 = 0.0")


def signs(data: Data, file: str) -> Data:
    """Map the labels 0 and 1, or -1 and +1, to -1 and +1.

    Args:
        data: with whole labels.
        file: where they come from, to be named.

    Raises:
        DataError: if there are other labels.
    """
    found = set(data.y.unique().tolist())
    if not (found <= {-1, 1} or found <= {0, 1}):
        listed = ", ".join(str(label) for label in sorted(found)[:8])
        raise DataError(
            f"`{file}` must have the labels -1 and 1, or 0 and 1, but has {listed}", "take two classes of it"
        )
    return Data(data.x, torch.where(data.y > 0, 1, -1))


def linear(features: int, dtype: Precision) -> nn.Module:
    """Build (n, features) -> (n,), x -> w.x, with w at 0."""
    layer = nn.Linear(features, 1, bias=False, dtype=_dtype(dtype))
    nn.init.zeros_(layer.weight)
    return nn.Sequential(layer, nn.Flatten(0))


def sign_accuracy(output: Tensor, y: Tensor) -> float:
    """Return the share of samples whose output has the sign of the label, in [0, 1]; an output of 0 counts as +1.

    Args:
        output: (n,).
        y: (n,), -1 or +1.
    """
    return float(((output >= 0) == (y > 0)).double().mean())


def _dtype(name: Precision) -> torch.dtype:
    return torch.float32 if name == "float32" else torch.float64


def _generated(purpose: str, n: int, features: int, groups: int, dtype: torch.dtype) -> Data:
    rand = Rand(0).fold("generated", features, groups)
    centres = torch.randn(groups, features, generator=rand.fold("centres").generator(), dtype=torch.float64)
    centres /= centres.norm(dim=1, keepdim=True)
    generator = rand.fold(purpose).generator()
    y = torch.arange(n)[torch.randperm(n, generator=generator)] % groups
    noise = NOISE * torch.randn(n, features, generator=generator, dtype=torch.float64)
    return Data(((centres[y] + noise) / math.sqrt(1 + NOISE**2 * features)).to(dtype), y)


def _read(path: Path, features: int, dtype: torch.dtype) -> Data:
    x, y = read_libsvm(path, features, dtype)
    labels = y.long()
    if not torch.equal(labels.double(), y):
        at = int((labels != y).nonzero()[0])
        raise DataError(f"`{path}`: label {y[at]:g} of sample {at} is no whole number", "use a classification file")
    return Data(x, labels)
