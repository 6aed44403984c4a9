from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.errors import DataError
from quorate.tasks.files.npz import read_npz

KEYS = {"x": (None, 2), "y": (None,)}
ARRAYS = {"x": np.arange(6, dtype=np.uint8).reshape(3, 2), "y": np.arange(3, dtype=np.uint8)}


class Bomb:
    """Fails the test that unpickles it."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(path, method=zipfile.ZIP_DEFLATED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_reads_what_numpy_writes(write, tmp_path):
    write(tmp_path / "a.npz", **ARRAYS, names=np.array(["one", "two"]))
    arrays = read_npz(tmp_path / "a.npz", KEYS)
    assert arrays.keys() == KEYS.keys()
    assert all(torch.equal(arrays[key], torch.from_numpy(ARRAYS[key])) for key in KEYS)


GOOD = npy(ARRAYS["x"])
HOSTILE = {
    "pickled": (npy(np.array([Bomb()], dtype=object)), "`x` holds pickled objects, which are never read"),
    "a bare pickle": (pickle.dumps(Bomb()), "`x` is no plain numpy array"),
    "a structure": (npy(np.zeros(3, dtype=[("a", "u1"), ("b", "u1")])), "`x` is no plain numpy array"),
    "an expression": (GOOD.replace(b"(3, 2)", b"(9**9)"), "`x` is no plain numpy array"),
    "nothing": (b"", "`x` is no plain numpy array"),
    "wrong type": (npy(ARRAYS["x"].astype("<i4")), "`x` has the type <i4, not |u1"),
    "wrong order": (npy(np.asfortranarray(ARRAYS["x"])), "`x` has the type |u1, in Fortran's order, not |u1"),
    "wrong shape": (npy(ARRAYS["x"].T.copy()), "`x` has the shape (2, 3), not (any, 2)"),
    "wrong dimensions": (npy(ARRAYS["x"].flatten()), "`x` has the shape (6,), not (any, 2)"),
    "cut short": (GOOD[:-1], "the header of `x` states the shape (3, 2), 6 bytes, but 5 follow"),
    "too long": (GOOD + b"!", "the header of `x` states the shape (3, 2), 6 bytes, but 7 follow"),
    "empty": (npy(np.zeros((0, 2), dtype=np.uint8)), "`x` has 0 bytes; 1 ... 4294967296 are read"),
    "absurd": (
        GOOD.replace(b"(3, 2), } " + b" " * 12, b"(9999999999999, 2), } "),
        "`x` has 19999999999998 bytes; 1 ... 4294967296 are read",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses_an_array_that_is_not_as_it_should_be(case, tmp_path):
    content, says = HOSTILE[case]
    archive(tmp_path / "a.npz", x=content, y=npy(ARRAYS["y"]))
    with pytest.raises(DataError) as error:
        read_npz(tmp_path / "a.npz", KEYS)
    assert error.value.problem == f"`{tmp_path / 'a.npz'}`: {says}"
    assert error.value.hint


def test_says_which_key_is_missing(tmp_path):
    archive(tmp_path / "a.npz", x=GOOD, z=GOOD)
    with pytest.raises(DataError) as error:
        read_npz(tmp_path / "a.npz", KEYS)
    assert str(error.value) == f"`{tmp_path / 'a.npz'}` holds no `y`\nhint: it holds `x`, `z`; take a file with `y`"


def test_a_member_that_is_no_array_is_no_key(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x", GOOD)
        file.writestr("\x1b[31m.npy", GOOD)
    with pytest.raises(DataError) as error:
        read_npz(tmp_path / "a.npz", KEYS)
    assert str(error.value) == f"`{tmp_path / 'a.npz'}` holds no `x`\nhint: it holds no array; take a file with `x`"


def test_refuses_an_unknown_packing(tmp_path):
    archive(tmp_path / "a.npz", zipfile.ZIP_LZMA, x=GOOD)
    with pytest.raises(DataError) as error:
        read_npz(tmp_path / "a.npz", KEYS)
    assert str(error.value) == (
        f"`{tmp_path / 'a.npz'}`: `x` is packed by an unknown method\nhint: write it with numpy.savez_compressed"
    )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda whole: b"", "File is not a zip file"),
        (lambda whole: whole[:-30], "File is not a zip file"),
        (lambda whole: whole.replace(b"\0\1\2\3\4\5", b"\0\1\2\3\4\6"), "Bad CRC-32 for file 'x.npy'"),
    ],
)
def test_refuses_a_damaged_archive(spoil, says, tmp_path):
    path = tmp_path / "a.npz"
    archive(path, zipfile.ZIP_STORED, x=GOOD, y=npy(ARRAYS["y"]))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError) as error:
        read_npz(path, KEYS)
    assert error.value.problem == f"`{path}` is not a good .npz file: {says}"


def test_takes_no_memory_for_more_than_the_file_can_hold(tmp_path):
    path = tmp_path / "a.npz"
    header = GOOD[:-6].replace(b"(3, 2), } " + b" " * 9, b"(1000000000, 2), } ")
    archive(path, x=header, y=npy(ARRAYS["y"]))
    claimed = (len(header) + 2 * 10**9).to_bytes(4, "little")
    whole = bytearray(path.read_bytes())
    entry = whole.index(b"PK\1\2")
    whole[entry + 24 : entry + 28] = claimed
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"states the shape \(1000000000, 2\), 2000000000 bytes, but \d{5,6} follow"):
        read_npz(path, KEYS)


@given(at=st.integers(0, 600), noise=st.binary(min_size=1, max_size=8))
@settings(deadline=None)
def test_noise_gives_a_data_error_or_tensors(at, noise, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "a.npz"
    archive(path, x=GOOD, y=npy(ARRAYS["y"]))
    whole = bytearray(path.read_bytes())
    whole[at : at + len(noise)] = noise
    path.write_bytes(whole)
    try:
        assert read_npz(path, KEYS).keys() == KEYS.keys()
        problem = f"none in {path}"
    except DataError as error:
        problem = error.problem
    assert str(path) in problem
