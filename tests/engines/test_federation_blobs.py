from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.engines.federation_blobs import Blob, misfit, opened, places, specs_of
from quorate.engines.federation_files import load_tree, mapped, save_blob, save_tree
from quorate.errors import RunError
from quorate.trees import flatten
from quorate.wire import Ragged

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
tensors = st.builds(
    lambda dtype, shape: (torch.arange(torch.Size(shape).numel()) % 2).to(dtype).view(shape),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 5), max_size=3).map(tuple),
)
messages = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4), st.lists(tensors, min_size=1, max_size=4).map(tuple)
)


@given(said=messages, chunk=st.integers(1, 300))
def test_chunks_together_are_the_messages_again(said, chunk):
    blob = Blob(said, chunk)
    content = b"".join(piece for number in range(len(blob.chunks)) for piece in blob.chunk_at(number))
    assert len(content) == blob.bytes == places(blob.specs)[1]
    assert hashlib.sha256(content).hexdigest() == blob.sha256
    assert misfit(blob.specs, said) is None
    back = opened(blob.specs, torch.frombuffer(bytearray(content or b"0"), dtype=torch.uint8)[: len(content)])
    assert back.keys() == said.keys()
    for name, message in said.items():
        assert [each.dtype for each in back[name]] == [each.dtype for each in message]
        assert all(torch.equal(a, b) for a, b in zip(back[name], message, strict=True))


def test_a_file_of_a_message_is_mapped_and_writing_to_it_leaves_the_file(tmp_path):
    said = {"u": Ragged((torch.arange(7), torch.randn(7, 2)))}
    blob = Blob(said, 10)
    save_blob(tmp_path / "blob", blob)
    (index, values) = opened(blob.specs, mapped(tmp_path / "blob", blob.bytes))["u"]
    values.zero_()
    index.zero_()
    again = opened(blob.specs, mapped(tmp_path / "blob", blob.bytes))["u"]
    assert isinstance(again, Ragged)
    assert torch.equal(again[0], said["u"][0])
    assert torch.equal(again[1], said["u"][1])


ROWS = Ragged((torch.empty(5, dtype=torch.int64), torch.empty(5, 2)))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"u": Ragged((torch.zeros(5, dtype=torch.int64), torch.zeros(5, 2)))}, None),
        ({"u": Ragged((torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)))}, None),
        ({"u": Ragged((torch.zeros(6, dtype=torch.int64), torch.zeros(6, 2)))}, "int64[6], not int64[5] or shorter"),
        ({"u": Ragged((torch.zeros(5, dtype=torch.int64), torch.zeros(5, 3)))}, "float32[5, 3], not float32[5, 2]"),
        ({"u": (torch.zeros(5, dtype=torch.int64), torch.zeros(5, 2))}, "is of 2 tensors"),
        ({"u": Ragged((torch.zeros(5, dtype=torch.int64),))}, "is of 1 tensors, not 2"),
        ({"v": ROWS}, "it holds v, not u"),
        ({}, "it holds nothing, not u"),
    ],
)
def test_declared_tensors_must_be_what_the_codec_sends(said, says):
    found = misfit(specs_of(said), {"u": ROWS})
    assert found is None if says is None else says in str(found)


def test_a_tree_that_is_saved_is_loaded_again(tmp_path):
    tree = {"a": {"b": torch.randn(3, 4), "c": torch.tensor(3)}, "d": torch.empty(0), "e": torch.ones(5).bfloat16()}
    save_tree(tmp_path / "tree", tree)
    loaded, wanted = flatten(load_tree(tmp_path / "tree")), flatten(tree)
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)
    (tmp_path / "tree").write_bytes((tmp_path / "tree").read_bytes()[:-3])
    with pytest.raises(RunError, match="is missing or damaged"):
        load_tree(tmp_path / "tree")
