from __future__ import annotations

import gzip
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.errors import DataError
from quorate.tasks.files.idx import read_idx


def idx(shape, body=None) -> bytes:
    """An IDX file of unsigned bytes 0, 1, 2, ..."""
    header = struct.pack(f">I{len(shape)}I", 0x0800 | len(shape), *shape)
    return header + (bytes(i % 256 for i in range(torch.Size(shape).numel())) if body is None else body)


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), packed=st.booleans())
@settings(deadline=None)
def test_reads_what_was_written(shape, packed, tmp_path_factory):
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(idx(shape)) if packed else idx(shape))
    x = read_idx(path, len(shape))
    assert x.dtype == torch.uint8
    assert x.tolist() == torch.arange(x.numel()).remainder(256).reshape(shape).tolist()


GOOD = idx((2, 3))
PACKED = gzip.compress(GOOD, mtime=0)
HOSTILE = {
    "nothing": ("a", b"", "is no IDX file of 2-dimensional uint8: it begins with nothing, not 00000802"),
    "wrong magic": (
        "a",
        b"\x89PNG" + GOOD,
        "is no IDX file of 2-dimensional uint8: it begins with 89504e47, not 00000802",
    ),
    "wrong dimensions": (
        "a",
        idx((6,)),
        "is no IDX file of 2-dimensional uint8: it begins with 00000801, not 00000802",
    ),
    "int32": (
        "a",
        b"\0\0\x0c\2" + GOOD[4:],
        "is no IDX file of 2-dimensional uint8: it begins with 00000c02, not 00000802",
    ),
    "packed, not named so": (
        "a",
        PACKED,
        "is no IDX file of 2-dimensional uint8: it begins with 1f8b0800, not 00000802",
    ),
    "half a header": ("a", GOOD[:7], "is cut short: its header has 7 bytes instead of 12"),
    "cut short": (
        "a",
        GOOD[:-1],
        "is cut short: the header states the shape (2, 3), 6 bytes, but at most 5 can follow",
    ),
    "too long": ("a", GOOD + b"!", "is too long: the header states the shape (2, 3), 6 bytes, but more follow"),
    "empty": ("a", idx((2, 0)), "the header states the shape (2, 0), 0 bytes; 1 ... 4294967296 are read"),
    "absurd": (
        "a",
        idx((2**32 - 1, 2**32 - 1), b""),
        "the header states the shape (4294967295, 4294967295), 18446744065119617025 bytes; 1 ... 4294967296 are read",
    ),
    "large": (
        "a",
        idx((2**16, 2**15), b""),
        "is cut short: the header states the shape (65536, 32768), 2147483648 bytes, but at most 0 can follow",
    ),
    "large, packed": (
        "a.gz",
        gzip.compress(idx((2**16, 2**15), b""), mtime=0),
        "is cut short: the header states the shape (65536, 32768), 2147483648 bytes, but at most",
    ),
    "cut short, packed well": (
        "a.gz",
        gzip.compress(GOOD[:-1], mtime=0),
        "is cut short: the header states the shape (2, 3), 6 bytes, but 5 follow",
    ),
    "too long, packed": (
        "a.gz",
        gzip.compress(GOOD + bytes(10**6), mtime=0),
        "is too long: the header states the shape (2, 3), 6 bytes, but more follow",
    ),
    "gzip cut short": ("a.gz", PACKED[:-9], "is cut short: its gzip stream has no end"),
    "gzip without its sum": ("a.gz", PACKED[:-8], "is cut short: its gzip stream has no end"),
    "gzip with a wrong sum": ("a.gz", PACKED[:-8] + bytes(8), "is not a good gzip file: CRC check failed"),
    "gzip with a wrong body": ("a.gz", PACKED[:10] + b"\xff" * 20, "is not a good gzip file: Error -3"),
    "not packed": ("a.gz", GOOD, "is not a good gzip file: Not a gzipped file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses_a_file_that_is_not_as_it_should_be(case, tmp_path):
    name, content, says = HOSTILE[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_idx(tmp_path / name, 2)
    assert error.value.problem.startswith(f"`{tmp_path / name}`")
    assert says in error.value.problem
    assert error.value.hint == "get the file again: it is damaged, or not what its name says"


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(DataError) as error:
        read_idx(tmp_path / "a", 2)
    assert error.value.problem == f"`{tmp_path / 'a'}` does not exist, or is no file"


@given(start=st.integers(0, 20), noise=st.binary(max_size=30), packed=st.booleans())
@settings(deadline=None)
def test_noise_gives_a_data_error_or_a_tensor(start, noise, packed, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / ("a.gz" if packed else "a")
    path.write_bytes((PACKED if packed else GOOD)[:start] + noise)
    try:
        assert read_idx(path, 2).dim() == 2
        problem = f"none in {path}"
    except DataError as error:
        problem = error.problem
    assert str(path) in problem
