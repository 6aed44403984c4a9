from __future__ import annotations

import pytest
import torch

from quorate.errors import DataError, RecipeError
from quorate.tasks import Data
from quorate.tasks.files.rows import rows, sign_accuracy, signs

GENERATED = {
    "file": "generated",
    "test_file": "unused",
    "features": 5,
    "samples": 400,
    "groups": 4,
    "dtype": "float64",
}


def test_generated_rows_need_no_files_and_never_change():
    train, test = rows(None, **GENERATED)
    again, _ = rows(None, **GENERATED)
    assert torch.equal(train.x, again.x)
    assert (len(train), len(test)) == (400, 100)
    assert train.y.bincount().tolist() == [100] * 4
    assert test.y.bincount().tolist() == [25] * 4
    assert float(train.x.square().sum(dim=1).mean()) == pytest.approx(1, abs=0.1)


def test_generated_rows_are_rounded_to_float32():
    single, _ = rows(None, **GENERATED | {"dtype": "float32"})
    double, _ = rows(None, **GENERATED)
    assert torch.equal(single.x, double.x.float())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"features": 0}, "features is the number of columns, at least 1; got 0\nhint: set features = 123 for a9a"),
        ({"samples": 3}, "samples is the number of training rows, at least 4; got 3\nhint: set samples = 4"),
        (
            {"samples": 10**9},
            "1000000000 samples of 5 features take more than 4294967296 bytes\nhint: set samples = 2000",
        ),
    ],
)
def test_refuses_numbers_out_of_range(changed, says):
    with pytest.raises(RecipeError) as error:
        rows(None, **GENERATED | changed)
    assert str(error.value) == says


def test_reads_two_files(tmp_path):
    (tmp_path / "a").write_text("1 1:1\n0 2:1\n3\n")
    (tmp_path / "a.t").write_text("-1 3:1\n")
    train, test = rows(tmp_path, **GENERATED | {"file": "a", "test_file": "a.t", "features": 3})
    assert torch.equal(train.x, torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.float64))
    assert train.y.tolist() == [1, 0, 3]
    assert test.y.tolist() == [-1]


@pytest.mark.parametrize("label", ["0.5", "1e300"])
def test_refuses_labels_that_are_no_whole_numbers(label, tmp_path):
    (tmp_path / "a").write_text(f"1 1:1\n{label} 2:1\n")
    with pytest.raises(DataError) as error:
        rows(tmp_path, **GENERATED | {"file": "a", "test_file": "a"})
    assert str(error.value) == (
        f"`{tmp_path / 'a'}`: label {float(label):g} of sample 1 is no whole number\nhint: use a classification file"
    )


@pytest.mark.parametrize("labels", [[0, 1, 1], [-1, 1, 1]])
def test_two_classes_become_signs(labels):
    assert signs(Data(torch.zeros(3, 2), torch.tensor(labels)), "a").y.tolist() == [-1, 1, 1]


def test_refuses_a_third_class():
    with pytest.raises(DataError) as error:
        signs(Data(torch.zeros(3, 2), torch.tensor([2, 0, 1])), "a")
    assert str(error.value) == (
        "`a` must have the labels -1 and 1, or 0 and 1, but has 0, 1, 2\nhint: take two classes of it"
    )


def test_accuracy_is_the_share_of_right_signs():
    assert sign_accuracy(torch.tensor([0.5, -2.0, 0.0, 1.0]), torch.tensor([1, -1, -1, -1])) == 0.5
