"""LIBSVM's sparse text, `label index:value index:value ...` with indices from 1, one sample per line.

Source: Chang and Lin, "LIBSVM: a library for support vector machines", ACM TIST 2(3), 2011, its README.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from sklearn.datasets import load_svmlight_file
from torch import Tensor

from quorate.errors import DataError
from quorate.tasks.files import DAMAGED, LIMIT, opened


def read_libsvm(path: Path, features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Read samples into dense rows.

    Args:
        path: the file, not packed.
        features: of a sample; an index beyond it is an error.
        dtype: of the rows, a floating one.

    Returns:
        x: (n, features); what the file leaves out is 0.
        y: (n,), float64, the labels as they stand in the file.

    Raises:
        DataError: if the file is missing, empty, can't be parsed, names an index below 1 or beyond `features`, holds
            a number that is not finite in `dtype`, or takes too much memory as dense rows.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > LIMIT:
            raise DataError(f"`{path}` has more than {LIMIT} bytes", "split the file")
        try:
            # The open file, not its path: scikit-learn would unpack .gz and .bz2 files without a bound.
            rows, labels = load_svmlight_file(file, zero_based=False)
        except (ValueError, OverflowError, IndexError) as error:
            raise DataError(f"`{path}` is no LIBSVM file: {error}", DAMAGED) from error
    n, found = rows.shape
    if n == 0:
        raise DataError(f"`{path}` holds no samples", DAMAGED)
    if rows.nnz and int(rows.indices.min()) < 0:
        raise DataError(f"`{path}` is no LIBSVM file: an index is below 1", DAMAGED)
    if rows.nnz and found > features:
        raise DataError(f"`{path}` has an index {found}, but features = {features}", f"set features = {found}")
    if n * features * dtype.itemsize > LIMIT:
        raise DataError(
            f"`{path}`: {n} samples of {features} features take more than {LIMIT} bytes as dense rows",
            "use fewer samples or features",
        )
    rows.resize(n, features)
    x, y = torch.from_numpy(rows.toarray()).to(dtype), torch.from_numpy(labels)
    good = x.isfinite().all(dim=1) & y.isfinite()
    if not good.all():
        raise DataError(f"`{path}`: sample {int((~good).nonzero()[0])} holds a number that is not finite", DAMAGED)
    return x, y
