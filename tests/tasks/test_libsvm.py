from __future__ import annotations

import gzip

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.errors import DataError
from quorate.tasks.files import libsvm
from quorate.tasks.files.libsvm import read_libsvm


def test_reads_rows_and_leaves_out_zeros(tmp_path):
    (tmp_path / "a").write_text("-1 1:0.5 3:2 # a comment\n\n+1\n0.25 2:-1e-3\n")
    x, y = read_libsvm(tmp_path / "a", 4, torch.float32)
    assert torch.equal(x, torch.tensor([[0.5, 0, 2, 0], [0, 0, 0, 0], [0, -1e-3, 0, 0]]))
    assert torch.equal(y, torch.tensor([-1, 1, 0.25], dtype=torch.float64))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", " holds no samples"),
        (b"# nothing\n", " holds no samples"),
        (b"+1 1:1\n-1 2:nan\n", ": sample 1 holds a number that is not finite"),
        (b"nan 1:1\n", ": sample 0 holds a number that is not finite"),
        (b"+1 1:1\n+1 1:-inf\n", ": sample 1 holds a number that is not finite"),
        (b"+1 1:1e39\n", ": sample 0 holds a number that is not finite"),
        (b"+1 1:1\n-1 2:1 5:1\n", " has an index 5, but features = 4"),
        (b"+1 0:1\n", " is no LIBSVM file: Invalid index 0 in SVMlight/LibSVM data file."),
        (b"+1 -3:1\n", " is no LIBSVM file: "),
        (b"+1 99999999999999999999:1\n", " is no LIBSVM file: "),
        (b"+1 4294967297:1\n", " is no LIBSVM file: "),
        (
            b"+1 2:1 1:1\n",
            " is no LIBSVM file: Feature indices in SVMlight/LibSVM data file should be sorted and unique.",
        ),
        (b"+1 1:one\n", " is no LIBSVM file: could not convert string to float: b'one'"),
        (b"39, State-gov, 77516\n", " is no LIBSVM file: "),
        (gzip.compress(b"+1 1:1\n", mtime=0), " is no LIBSVM file: "),
    ],
)
def test_refuses_a_file_that_is_not_as_it_should_be(content, says, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_libsvm(tmp_path / "a", 4, torch.float32)
    assert error.value.problem.startswith(f"`{tmp_path / 'a'}`{says}")
    assert error.value.hint


def test_a_packed_file_is_not_unpacked_without_a_bound(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"+1 1:1\n"))
    with pytest.raises(DataError, match="is no LIBSVM file"):
        read_libsvm(tmp_path / "a.gz", 4, torch.float32)


def test_says_how_to_admit_a_larger_index(tmp_path):
    (tmp_path / "a").write_text("+1 124:1\n")
    with pytest.raises(DataError) as error:
        read_libsvm(tmp_path / "a", 123, torch.float64)
    assert error.value.hint == "set features = 124"


def test_refuses_dense_rows_that_take_too_much_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(libsvm, "LIMIT", 1000)
    (tmp_path / "a").write_text("1\n" * 100)
    with pytest.raises(DataError) as error:
        read_libsvm(tmp_path / "a", 4, torch.float64)
    assert error.value.problem == (
        f"`{tmp_path / 'a'}`: 100 samples of 4 features take more than 1000 bytes as dense rows"
    )


@given(content=st.binary(max_size=30) | st.text("+-.:19e# \n\0", max_size=30).map(str.encode))
@settings(deadline=None)
def test_noise_gives_a_data_error_or_finite_rows(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "a"
    path.write_bytes(content)
    try:
        x, y = read_libsvm(path, 4, torch.float64)
        assert x.shape == (len(y), 4)
        assert x.isfinite().all()
        problem = f"none in {path}"
    except DataError as error:
        problem = error.problem
    assert str(path) in problem
