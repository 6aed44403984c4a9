"""MNIST, or any data set in the same four files, such as Fashion-MNIST: 28 x 28 pixels, ten classes.

Source of the models `2nn` and `cnn`: McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-efficient
learning of deep networks from decentralized data", AISTATS 2017, section 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn
from torch.nn import functional

from quorate.errors import DataError
from quorate.tasks import Data, Task, accuracy
from quorate.tasks.files import find, require_labels
from quorate.tasks.files.idx import read_idx

Model = Literal["mlp", "2nn", "cnn"]


def mnist(*, data: Path | None = None, folder: str = "mnist", model: Model = "2nn") -> Task:
    """Classify handwritten digits.

    Args:
        data: the data folder.
        folder: inside it, with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
            `t10k-labels-idx1-ubyte`, each plain or `.gz`. If there is no folder `mnist`, the files may lie in the
            data folder itself.
        model: `2nn` has two hidden layers of 200 (199,210 parameters), `mlp` of 1024 and 192 (1,002,570), `cnn` two
            convolutions of 5 x 5 and a hidden layer of 512 (1,663,370).

    Returns:
        A task with x (n, 784), for `cnn` (n, 1, 28, 28), float32: the pixels divided by 255, so in [0, 1] and not
        centred. y is (n,), int64.

    Raises:
        DataError: if a file is missing or not as it should be.
    """
    first = "train-images-idx3-ubyte"
    folders = (folder, ".") if folder == "mnist" else (folder,)
    home = find(data, *(f"{place}/{first}{end}" for place in folders for end in ("", ".gz"))).parent
    train, test = _read(home, "train", model), _read(home, "t10k", model)
    return Task(
        model=lambda: _build(model),
        loss=functional.cross_entropy,
        train=train,
        test=test,
        metrics={"accuracy": accuracy},
    )


def _read(home: Path, part: str, model: Model) -> Data:
    images, labels = (
        find(home, f"{part}-{name}", f"{part}-{name}.gz") for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if x.shape[1:] != (28, 28):
        raise DataError(
            f"`{images}` holds images of {x.shape[1]} x {x.shape[2]} pixels, not 28 x 28", "take MNIST's own files"
        )
    require_labels(labels, y, len(x), 10)
    return Data((x.unsqueeze(1) if model == "cnn" else x.flatten(1)).float() / 255, y.long())


def _build(model: Model) -> nn.Module:
    if model == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        )
    first, second = (200, 200) if model == "2nn" else (1024, 192)
    return nn.Sequential(nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 10))
