from __future__ import annotations

import json
import os

import pytest

from quorate import files
from quorate.files import write_atomically, write_json


def test_writes_all_and_leaves_nothing_else(tmp_path):
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "a", b"two")
    write_json(tmp_path / "b", {"x": [1, None]})
    assert (tmp_path / "a").read_bytes() == b"two"
    assert json.loads((tmp_path / "b").read_text()) == {"x": [1, None]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_crash_on_the_way_leaves_the_old_file(where, monkeypatch, tmp_path):
    write_atomically(tmp_path / "a", b"old")

    def crash(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, where, crash)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(tmp_path / "a", b"new and longer")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_what_a_crash_has_left_is_in_nobodys_way(tmp_path):
    (tmp_path / f".a.{os.getpid()}.part").write_bytes(b"left by a killed process that had the same number")
    write_atomically(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"
