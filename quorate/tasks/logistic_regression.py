"""Logistic regression of two classes: strongly convex for l2 > 0, with a known optimum to measure against."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn import functional

from quorate.tasks import Task
from quorate.tasks.files.rows import Precision, linear, require_l2, rows, sign_accuracy, signs


def logistic_regression(
    *,
    data: Path | None = None,
    file: str = "libsvm/a9a",
    test_file: str = "libsvm/a9a.t",
    features: int = 123,
    l2: float = 1e-4,
    samples: int = 2000,
    dtype: Precision = "float64",
) -> Task:
    """Minimise the mean of log(1 + exp(-y w.x)) + l2/2 |w|^2; there is no bias, and w starts at 0.

    Args:
        data: the data folder.
        file: of the training rows in LIBSVM's format, inside the folder; `generated` needs no files.
        test_file: of the test rows.
        features: columns of x.
        l2: weight of |w|^2 / 2.
        samples: training rows to generate, if the file is `generated`.
        dtype: of x and w.

    Returns:
        A task with x (n, features), y (n,), -1 or +1, and outputs (n,), w.x.

    Raises:
        RecipeError: if a number is out of range.
        DataError: if a file is missing or not as it should be.
    """
    require_l2(l2)
    train, test = rows(data, file=file, test_file=test_file, features=features, samples=samples, groups=2, dtype=dtype)
    return Task(
        model=lambda: linear(features, dtype),
        loss=logistic_loss,
        train=signs(train, file),
        test=signs(test, test_file),
        metrics={"accuracy": sign_accuracy},
        l2=l2,
    )


def logistic_loss(output: Tensor, y: Tensor) -> Tensor:
    """Return the mean of log(1 + exp(-y output)), exact for any size of the output.

    Args:
        output: (n,).
        y: (n,), -1 or +1.
    """
    return -functional.logsigmoid(y * output).mean()
