from __future__ import annotations

import gc

import torch

from quorate.engines.reuse import Reuse


def test_memory_is_used_again_when_no_tensor_is_in_it():
    reuse = Reuse()
    first = reuse.take(100)
    place = first.data_ptr()
    view = first[8:16].view(torch.float32)
    array = view.numpy()
    del first, view
    assert reuse.take(100).data_ptr() != place
    array[0] = 3
    del array
    gc.collect()
    assert place in {each.data_ptr() for each in [reuse.take(100), reuse.take(100)]}
    assert reuse.take(50).shape == (50,)


def test_what_is_held_is_never_given_out_again():
    reuse = Reuse()
    held = [reuse.take(64) for _ in range(9)]
    for number, each in enumerate(held):
        each.fill_(number)
    assert [int(each[0]) for each in held] == list(range(9))
    assert len({each.data_ptr() for each in held}) == 9


def test_sizes_that_are_not_asked_for_any_more_are_given_back():
    reuse = Reuse()
    for size in range(1, 300):
        reuse.take(size)
    assert set(reuse._kept) == set(range(300 - 64, 300))
    for _ in range(64):
        reuse.take(7)
    assert set(reuse._kept) == {7}
