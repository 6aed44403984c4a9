from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quorate.errors import DataError
from quorate.tasks.files import find, opened, require_labels


def test_finds_the_first_name_that_is_there(tmp_path):
    (tmp_path / "b.gz").write_bytes(b"")
    assert find(tmp_path, "b", "b.gz") == tmp_path / "b.gz"
    (tmp_path / "b").write_bytes(b"")
    assert find(tmp_path, "b", "b.gz") == tmp_path / "b"


def test_says_that_no_data_folder_was_given():
    with pytest.raises(DataError) as error:
        find(None, "a9a")
    assert str(error.value) == (
        "this task reads files, but no data folder was given\nhint: give --data FOLDER or set QUORATE_DATA"
    )


def test_says_that_the_data_folder_does_not_exist(tmp_path):
    with pytest.raises(DataError) as error:
        find(tmp_path / "nowhere", "a9a")
    assert error.value.problem == f"data folder `{tmp_path / 'nowhere'}` does not exist"


def test_says_which_files_are_missing(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError) as error:
        find(tmp_path, "a", "a.gz")
    assert str(error.value) == (
        f"data folder `{tmp_path}` holds no `a` or `a.gz`\nhint: put the file there, or give another --data FOLDER"
    )


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError) as error, opened(tmp_path):
        pass
    assert error.value.problem == f"`{tmp_path}` does not exist, or is no file"


def test_an_error_of_the_operating_system_names_the_file(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(DataError) as error, opened(tmp_path / "a"):
        raise OSError(5, "Input/output error")
    assert error.value.problem == f"`{tmp_path / 'a'}` can't be read: Input/output error"


@pytest.mark.parametrize(
    ("labels", "samples", "says"),
    [
        ([0, 9, 1], 3, None),
        ([0, 9, 10], 3, "`y`: label 10 of sample 2 is not in 0 ... 9"),
        ([0, 9], 3, "`y` holds 2 labels for 3 images"),
    ],
)
def test_labels_are_counted_and_bounded(labels, samples, says):
    y, path = torch.tensor(labels, dtype=torch.uint8), Path("y")
    if says is None:
        require_labels(path, y, samples, 10)
    else:
        with pytest.raises(DataError) as error:
            require_labels(path, y, samples, 10)
        assert error.value.problem == says
