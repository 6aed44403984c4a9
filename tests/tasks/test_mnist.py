from __future__ import annotations

import gzip
import struct

import pytest
import torch

from quorate.errors import DataError
from quorate.tasks.mnist import mnist

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def write(folder, part, n, labels=None, pixels=28) -> None:
    """Write images whose pixels are all 51 times their number, modulo 6."""
    body = b"".join(bytes([51 * (i % 6)]) * pixels**2 for i in range(n))
    folder.mkdir(exist_ok=True)
    (folder / f"{part}-{IMAGES}").write_bytes(struct.pack(">4I", 2051, n, pixels, pixels) + body)
    labels = bytes(i % 10 for i in range(n)) if labels is None else labels
    (folder / f"{part}-{LABELS}.gz").write_bytes(gzip.compress(struct.pack(">2I", 2049, len(labels)) + labels))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "mnist", "train", 12)
    write(tmp_path / "mnist", "t10k", 7)
    return tmp_path


def test_divides_pixels_by_255(folder):
    task = mnist(data=folder)
    assert torch.equal(task.train.x, (torch.arange(12) % 6 / 5).float()[:, None].expand(12, 784))
    assert torch.equal(task.test.y, torch.arange(7))


@pytest.mark.parametrize(("model", "parameters"), [("2nn", 199_210), ("mlp", 1_002_570), ("cnn", 1_663_370)])
def test_models_are_of_the_published_size(model, parameters, folder):
    task = mnist(data=folder, model=model)
    module = task.model()
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert module(task.test.x).shape == (7, 10)


def test_files_may_lie_in_the_data_folder_itself(folder):
    assert len(mnist(data=folder / "mnist").train) == 12


def test_another_folder_is_not_replaced_by_mnist(folder):
    write(folder, "train", 3)
    with pytest.raises(DataError) as error:
        mnist(data=folder, folder="fashion")
    assert error.value.problem == (
        f"data folder `{folder}` holds no `fashion/train-{IMAGES}` or `fashion/train-{IMAGES}.gz`"
    )


def test_a_folder_is_never_completed_from_another(folder):
    (folder / "mnist" / f"t10k-{IMAGES}").rename(folder / f"t10k-{IMAGES}")
    with pytest.raises(DataError) as error:
        mnist(data=folder)
    assert error.value.problem == (f"data folder `{folder / 'mnist'}` holds no `t10k-{IMAGES}` or `t10k-{IMAGES}.gz`")


def test_refuses_images_of_another_size(folder):
    write(folder / "mnist", "t10k", 7, pixels=32)
    with pytest.raises(DataError) as error:
        mnist(data=folder)
    assert str(error.value) == (
        f"`{folder / 'mnist' / f't10k-{IMAGES}'}` holds images of 32 x 32 pixels, not 28 x 28"
        "\nhint: take MNIST's own files"
    )


def test_refuses_labels_that_do_not_match(folder):
    write(folder / "mnist", "train", 12, labels=bytes(11))
    path = folder / "mnist" / f"train-{LABELS}.gz"
    with pytest.raises(DataError) as error:
        mnist(data=folder)
    assert error.value.problem == f"`{path}` holds 11 labels for 12 images"
    write(folder / "mnist", "train", 12, labels=bytes(11) + b"\x0a")
    with pytest.raises(DataError) as error:
        mnist(data=folder)
    assert error.value.problem == f"`{path}`: label 10 of sample 11 is not in 0 ... 9"


@pytest.mark.data("mnist/train-images-idx3-ubyte.gz", "mnist/t10k-images-idx3-ubyte.gz")
def test_reads_the_published_files(data_folder):
    task = mnist(data=data_folder)
    assert task.train.y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert task.test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert task.train.x.shape == (60_000, 784)
    assert float(task.train.x.mean(dtype=torch.float64)) == pytest.approx(0.1307, abs=1e-4)
    assert (task.test.x.min(), task.test.x.max()) == (0, 1)
