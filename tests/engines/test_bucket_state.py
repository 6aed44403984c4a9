from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.engines.bucket_state import join, split
from quorate.engines.overlap import laid_out
from quorate.errors import QuorateError
from quorate.trees import flatten
from tests.tiny import randn

SHAPES = [(f"layer{number}.weight", torch.Size((number + 1, 3))) for number in range(6)]


def cut(places):
    """Return the layouts of buckets that end before each of some places."""
    ends = sorted({*places, len(SHAPES)} - {0})
    return [laid_out(SHAPES[start:end], torch.float32) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def fresh(layout):
    return {"codec": {"0": {}}, "factors": torch.zeros(2, 2), "residual": torch.zeros(layout.numel)}


cuts = st.lists(st.integers(0, 5), max_size=3)


@given(before=cuts, after=cuts)
def test_what_is_left_unsaid_goes_with_its_parameter_however_buckets_are_cut(before, after):
    held = {}
    for number, layout in enumerate(cut(before)):
        state = {**fresh(layout), "residual": randn(1, layout.numel, seed=number)[0], "factors": torch.ones(2, 2)}
        held |= split(state, layout)
    assert {name for name in held if name.startswith("residual/")} == {f"residual/{name}" for name, _ in SHAPES}
    for layout in cut(after):
        state = join(fresh(layout), layout, held, complete=True)
        for name, view in layout.views(state["residual"]).items():
            assert torch.equal(view, held[f"residual/{name}"])
        same = [names_of(layout) == names_of(each) for each in cut(before)]
        assert bool(state["factors"].any()) is any(same)


def names_of(layout):
    return [name for name, _, _ in layout.places]


def test_pieces_are_copies():
    (layout,) = cut([])
    state = fresh(layout)
    held = split(state, layout)
    state["residual"] += 1
    assert all(not each.any() for each in held.values())
    again = join(fresh(layout), layout, held)
    flatten(again)["residual"].add_(1)
    assert all(not each.any() for each in held.values())


def test_what_does_not_fit_is_refused_and_what_is_missing_if_all_must_be_there():
    (layout,) = cut([])
    join(fresh(layout), layout, {"residual/elsewhere": torch.ones(3)})
    with pytest.raises(QuorateError, match=r"should have the shape \[1, 3\], but the state has nothing"):
        join(fresh(layout), layout, {}, complete=True)
    with pytest.raises(QuorateError, match=r"but the state has shape \[3, 1\]"):
        join(fresh(layout), layout, {"residual/layer0.weight": torch.ones(3, 1)})
