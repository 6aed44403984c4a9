from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from quorate import files
from quorate.checkpoint import latest, path_of, read, steps, steps_of, write
from quorate.errors import QuorateError
from quorate.trees import flatten

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
shapes = st.lists(st.integers(0, 3), max_size=3)
tensors = st.builds(
    lambda shape, dtype, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    shapes,
    st.sampled_from(DTYPES),
    st.integers(0, 10**6),
)
names = st.sampled_from(["parameters", "step", "exp_avg", "0/weight", "a b", "ü"])
trees = st.recursive(tensors, lambda nodes: st.dictionaries(names, nodes, min_size=1, max_size=3), max_leaves=6)
branches = st.dictionaries(names, trees, max_size=3)


def equal(one, other) -> bool:
    """Compare two trees by their leaves, names and bits."""
    one, other = flatten(one), flatten(other)
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def put(folder, step, writers=1, value=0.0):
    for writer in range(writers):
        write(folder, step, writer, writers, {"a": torch.tensor([value])}, {writer: {"b": torch.tensor([value])}}, {})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(shared=branches, own=st.lists(branches, min_size=1, max_size=3), step=st.integers(0, 10**8 - 1))
def test_reads_what_was_written(shared, own, step, tmp_path):
    facts = {"wall_seconds": 1.5, "interval": [0.1]}
    for path in tmp_path.iterdir():
        path.unlink()
    write(tmp_path, step, 0, 1, shared, dict(enumerate(own)), facts)
    held = read(tmp_path, step, 1)
    assert (held.step, list(held.facts)) == (step, [facts])
    assert equal(held.shared, shared)
    for rank, tree in enumerate(own):
        assert equal(held.own.get(rank, {}), tree)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(shared=branches, own=st.lists(branches, min_size=2, max_size=3))
def test_writers_write_their_own_ranks_and_the_first_what_is_shared(shared, own, tmp_path):
    for writer, tree in enumerate(own):
        write(tmp_path, 7, writer, len(own), shared, {writer: tree}, {"writer": writer})
    held = read(tmp_path, 7, len(own))
    assert equal(held.shared, shared)
    assert [each["writer"] for each in held.facts] == list(range(len(own)))
    for rank, tree in enumerate(own):
        assert equal(held.own.get(rank, {}), tree)
    alone = read(tmp_path, 7, len(own), only=1)
    assert alone.shared == {}
    assert equal(alone.own.get(1, {}), own[1])
    assert 0 not in alone.own


def test_a_tensor_that_many_ranks_hold_is_written_once(tmp_path):
    same = torch.randn(10_000)
    write(tmp_path, 1, 0, 1, {"parameters": same}, {rank: {"parameters": same} for rank in range(50)}, {})
    assert path_of(tmp_path, 1, 0, 1).stat().st_size < 2 * 40_000
    held = read(tmp_path, 1, 1)
    assert all(torch.equal(held.own[rank]["parameters"], same) for rank in range(50))


def test_parts_of_one_tensor_are_told_apart(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    tree = {
        "whole": whole,
        "row": whole[0],
        "column": whole[:, 0],
        "turned": whole.t(),
        "bits": whole.view(torch.int32),
    }
    write(tmp_path, 1, 0, 1, tree, {}, {})
    assert equal(read(tmp_path, 1, 1).shared, tree)


def test_later_changes_do_not_reach_the_file(tmp_path):
    x = torch.ones(3)
    write(tmp_path, 1, 0, 1, {"x": x}, {}, {})
    x.zero_()
    assert float(read(tmp_path, 1, 1).shared["x"].sum()) == 3


def test_is_complete_when_every_writer_has_written(tmp_path):
    put(tmp_path, 4, writers=3)
    for writer in (0, 2):
        write(tmp_path, 8, writer, 3, {}, {}, {})
    assert steps(tmp_path, 3) == [4]
    assert steps_of(tmp_path, 2, 3) == [4, 8]
    assert steps_of(tmp_path, 1, 3) == [4]
    assert latest(tmp_path, 3).step == 4
    assert latest(tmp_path, 2) is None
    assert latest(tmp_path / "none", 3) is None


@pytest.mark.parametrize("writers", [1, 3])
def test_keeps_two_complete_ones(writers, tmp_path):
    for step in range(1, 7):
        put(tmp_path, step, writers)
        assert steps(tmp_path, writers) == list(range(max(1, step - 1), step + 1))
    for writer in range(writers):
        assert steps_of(tmp_path, writer, writers)[-2:] == [5, 6]
        assert len(steps_of(tmp_path, writer, writers)) <= 3


def test_keeps_two_complete_ones_while_a_writer_lags_behind(tmp_path):
    for step in (1, 2, 3):
        put(tmp_path, step, 2)
    for step in (4, 5, 6):
        write(tmp_path, step, 0, 2, {}, {}, {})
    assert steps(tmp_path, 2) == [2, 3]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_ones(where, monkeypatch, tmp_path):
    put(tmp_path, 1, value=1.0)
    put(tmp_path, 2, value=2.0)
    monkeypatch.setattr(files.os, where, lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        put(tmp_path, 3, value=3.0)
    monkeypatch.undo()
    assert steps(tmp_path, 1) == [1, 2]
    assert float(latest(tmp_path, 1).shared["a"]) == 2.0


def test_other_files_are_no_checkpoints(tmp_path):
    put(tmp_path, 1)
    for name in ("step-1.0-of-1.safetensors", "step-00000002.0-of-1.safetensors.part", "step-x", ".step-00000003.part"):
        (tmp_path / name).write_bytes(b"")
    assert steps(tmp_path, 1) == [1]


def damaged(path, content) -> str:
    """Read a checkpoint of the given bytes, which must be refused; return the message."""
    path.write_bytes(content)
    with pytest.raises(QuorateError) as error:
        latest(path.parent, 1)
    assert str(error.value).startswith(f"checkpoint {path} is cut short or damaged (")
    assert error.value.hint == "remove this file to go back to the checkpoint before it, then `quorate resume` again"
    return error.value.problem


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(share=st.floats(0, 0.999))
def test_a_file_cut_short_is_refused(share, tmp_path):
    put(tmp_path, 1)
    path = path_of(tmp_path, 1, 0, 1)
    whole = path.read_bytes()
    damaged(path, whole[: int(share * len(whole))])


GOOD = {"step": 1, "writer": 0, "writers": 1, "same": {}, "facts": {}}


def metadata(**changes):
    return {"quorate": json.dumps(GOOD | changes)}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, None),
        ({}, {"quorate": ""}),
        ({}, {"quorate": "5"}),
        ({}, {"quorate": "[]"}),
        ({}, {"quorate": "{}"}),
        ({}, {"quorate": "[" * 100_000}),
        ({}, metadata(step=2)),
        ({}, metadata(writers=9)),
        ({}, metadata(same=5)),
        ({}, metadata(same=[1, 2])),
        ({}, metadata(same={"shared/a": "shared/none"})),
        ({}, metadata(same={"shared/a": ["x"]})),
        ({}, metadata(facts=5)),
        (["own/1"], metadata()),
        (["own/one/a"], metadata()),
        (["own//a"], metadata()),
        (["shared/a", "shared/a.b"], metadata()),
        (["own/0/a", "own/0/a.b.c"], metadata()),
    ],
)
def test_hostile_content_is_refused(tensors, told, tmp_path):
    damaged(path_of(tmp_path, 1, 0, 1), save({name: torch.zeros(2) for name in tensors}, told))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (76).to_bytes(8, "little")
        + b'{"shared/a":{"dtype":"F32","shape":[4000000000],"data_offsets":[0,16000000000]}}',
    ],
)
def test_bytes_that_are_no_checkpoint_are_refused(content, tmp_path):
    damaged(path_of(tmp_path, 1, 0, 1), content)


def test_a_missing_file_is_refused(tmp_path):
    put(tmp_path, 1, 2)
    path_of(tmp_path, 1, 1, 2).unlink()
    with pytest.raises(QuorateError, match=r"1-of-2\.safetensors is cut short or damaged"):
        read(tmp_path, 1, 2)
