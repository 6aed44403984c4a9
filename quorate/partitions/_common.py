"""What partitions share: what all of them refuse, and the step from an owner per sample to indices per worker."""

from __future__ import annotations

from torch import Tensor

from quorate.errors import RecipeError
from quorate.partitions import require_samples
from quorate.tasks import Data


def require_workers(data: Data, size: int) -> None:
    """Refuse to divide among nobody, or among more workers than there are samples.

    Raises:
        RecipeError: if there is no worker, or one would be left without a sample.
    """
    if size < 1:
        raise RecipeError(f"samples are divided among at least 1 worker; got {size}", "use at least 1 worker")
    require_samples(data, size)


def class_of(data: Data, name: str) -> Tensor:
    """Return the class of each sample, (n,), int64, numbered from 0 in the order of the labels.

    Args:
        data: what is divided.
        name: of the partition, to be named.

    Raises:
        RecipeError: if the targets are not one integer per sample.
    """
    if data.y.dim() != 1 or data.y.is_floating_point() or data.y.is_complex():
        raise RecipeError(
            f"`{name}` divides by class label, but the targets are {data.y.dtype} of shape {tuple(data.y.shape)}",
            'set name = "iid" in [partition]',
        )
    classes: Tensor = data.y.unique(return_inverse=True)[1]
    return classes


def by_owner(owner: Tensor, size: int) -> list[Tensor]:
    """Return each worker's samples, in order.

    Args:
        owner: (n,), int64, in 0 ... size - 1.
        size: number of workers.
    """
    counts = owner.bincount(minlength=size).tolist()
    return list(owner.argsort(stable=True).split(counts))
