"""CIFAR-10, or a part of it, from one numpy archive: 32 x 32 pixels in colour, ten classes.

Source of the data: Krizhevsky, "Learning multiple layers of features from tiny images", 2009. An accuracy belongs to
the file it was measured with: the default one holds 12,000 images that went through JPEG, not the published set.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from quorate.tasks import Data, Task, accuracy
from quorate.tasks.files import find, require_labels
from quorate.tasks.files.npz import read_npz

IMAGES = (None, 32, 32, 3)


def cifar10(*, data: Path | None = None, file: str = "cifar10/cifar10_jpeg_12k.npz") -> Task:
    """Classify small photographs with three strided convolutions and a hidden layer of 96 (290,922 parameters).

    Args:
        data: the data folder.
        file: inside it, an archive with `x_train` and `x_test` (n, 32, 32, 3) and `y_train` and `y_test` (n,), uint8.

    Returns:
        A task with x (n, 3, 32, 32), float32, each channel with mean 0 and variance 1 over the training images, and
        y (n,), int64.

    Raises:
        DataError: if the file is missing or not as it should be.
    """
    path = find(data, file)
    arrays = read_npz(path, {"x_train": IMAGES, "y_train": (None,), "x_test": IMAGES, "y_test": (None,)})
    for part in ("train", "test"):
        require_labels(path, arrays[f"y_{part}"], len(arrays[f"x_{part}"]), 10)
    mean, deviation = _channel_moments(arrays["x_train"])

    def prepared(part: str) -> Data:
        x = arrays[f"x_{part}"].permute(0, 3, 1, 2).float().contiguous()
        return Data(x.sub_(mean).div_(deviation), arrays[f"y_{part}"].long())

    return Task(
        model=_build,
        loss=functional.cross_entropy,
        train=prepared("train"),
        test=prepared("test"),
        metrics={"accuracy": accuracy},
    )


def _channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, each (3, 1, 1).

    They come from counts of the 256 values, so they don't depend on how a sum is split among threads.
    """
    value = torch.arange(256, dtype=torch.float64)
    share = torch.stack([torch.bincount(channel, minlength=256) for channel in x.reshape(-1, 3).unbind(1)]).double()
    share /= share.sum(dim=1, keepdim=True)
    mean = (share * value).sum(dim=1, keepdim=True)
    deviation = (share * (value - mean).square()).sum(dim=1, keepdim=True).sqrt().clamp_min(1)
    return mean.float().reshape(3, 1, 1), deviation.float().reshape(3, 1, 1)


def _build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, 96),
        nn.ReLU(),
        nn.Linear(96, 10),
    )
