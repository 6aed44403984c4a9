"""K-means as gradient descent on the centroids; the only ready task that learns without labels, and is not convex.

Source: Wang, Tuor, Salonidis, Leung, Makaya, He and Chan, "When edge meets learning: adaptive control for
resource-constrained distributed machine learning", INFOCOM 2018, table I, there with a factor of 1/2.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from quorate.errors import DataError, RecipeError
from quorate.rand import Rand
from quorate.tasks import Task
from quorate.tasks.files.rows import Precision, require_l2, rows


class Centroids(nn.Module):
    """Squared distances of samples to centroids, (n, features) -> (n, k)."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.centroids = nn.Parameter(start.clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x.unsqueeze(-2) - self.centroids).square().sum(dim=-1)


def k_means(
    *,
    data: Path | None = None,
    file: str = "libsvm/a9a",
    test_file: str = "libsvm/a9a.t",
    features: int = 123,
    l2: float = 0.0,
    clusters: int = 4,
    samples: int = 2000,
    dtype: Precision = "float64",
) -> Task:
    """Minimise the mean over samples of min_k |x - w_k|^2; the w_k start at fixed, distinct training rows.

    Args:
        data: the data folder.
        file: of the training rows in LIBSVM's format, inside the folder; `generated` needs no files.
        test_file: of the test rows.
        features: columns of x.
        l2: weight of |w|^2 / 2; it draws the centroids to the origin.
        clusters: number k of centroids, and of groups in generated rows.
        samples: training rows to generate, if the file is `generated`.
        dtype: of x and w.

    Returns:
        A task with x (n, features), y (n,), int64, which the loss ignores, and outputs (n, k).

    Raises:
        RecipeError: if a number is out of range.
        DataError: if a file is missing or not as it should be, or has fewer distinct rows than clusters.
    """
    require_l2(l2)
    if clusters < 1:
        raise RecipeError(f"clusters is the number of centroids, at least 1; got {clusters}", "set clusters = 4")
    train, test = rows(
        data, file=file, test_file=test_file, features=features, samples=samples, groups=clusters, dtype=dtype
    )
    start = _distinct_rows(train.x, clusters, file)
    return Task(model=lambda: Centroids(start), loss=nearest_loss, train=train, test=test, l2=l2)


def nearest_loss(output: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared distance to the nearest centroid.

    Args:
        output: (n, k), squared distances.
        y: ignored.
    """
    return output.min(dim=1).values.mean()


def _distinct_rows(x: Tensor, k: int, file: str) -> Tensor:
    """Draw k rows of which no two are equal."""
    shuffled = x[torch.randperm(len(x), generator=Rand(0).fold("k_means").generator())]
    unlike = torch.ones(len(x), dtype=torch.bool)
    chosen: list[Tensor] = []
    while len(chosen) < k:
        if not unlike.any():
            raise DataError(f"`{file}` has only {len(chosen)} distinct rows", f"set clusters = {len(chosen)}")
        chosen.append(shuffled[int(unlike.int().argmax())])
        unlike &= (shuffled != chosen[-1]).any(dim=1)
    return torch.stack(chosen)
