"""The linear support vector machine of two classes, with the hinge loss or its square.

Source: Wang, Tuor, Salonidis, Leung, Makaya, He and Chan, "When edge meets learning: adaptive control for
resource-constrained distributed machine learning", INFOCOM 2018, table I ("squared-SVM").
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from quorate.tasks import Task
from quorate.tasks.files.rows import Precision, linear, require_l2, rows, sign_accuracy, signs


def svm(
    *,
    data: Path | None = None,
    file: str = "libsvm/a9a",
    test_file: str = "libsvm/a9a.t",
    features: int = 123,
    l2: float = 1e-4,
    squared: bool = True,
    samples: int = 2000,
    dtype: Precision = "float64",
) -> Task:
    """Minimise the mean hinge loss + l2/2 |w|^2; there is no bias, and w starts at 0.

    Args:
        data: the data folder.
        file: of the training rows in LIBSVM's format, inside the folder; `generated` needs no files.
        test_file: of the test rows.
        features: columns of x.
        l2: weight of |w|^2 / 2.
        squared: 1/2 max(0, 1 - y w.x)^2, which is smooth, instead of max(0, 1 - y w.x).
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
        loss=squared_hinge_loss if squared else hinge_loss,
        train=signs(train, file),
        test=signs(test, test_file),
        metrics={"accuracy": sign_accuracy},
        l2=l2,
    )


def hinge_loss(output: Tensor, y: Tensor) -> Tensor:
    """Return the mean of max(0, 1 - y output).

    Args:
        output: (n,).
        y: (n,), -1 or +1.
    """
    return (1 - y * output).clamp_min(0).mean()


def squared_hinge_loss(output: Tensor, y: Tensor) -> Tensor:
    """Return the mean of max(0, 1 - y output)^2 / 2.

    Args:
        output: (n,).
        y: (n,), -1 or +1.
    """
    return (1 - y * output).clamp_min(0).square().mean() / 2
