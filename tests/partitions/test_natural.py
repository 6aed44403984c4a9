from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RecipeError
from quorate.partitions.natural import natural
from quorate.rand import Rand
from quorate.tasks import Data


def keyed(key) -> Data:
    return Data(torch.zeros(len(key)), torch.zeros(len(key)), torch.tensor(key))


@given(counts=st.lists(st.integers(1, 9), min_size=4, max_size=12), size=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_a_key_stays_whole_and_sizes_balance(counts, size, seed):
    key = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)) * 7 - 20
    key = key[torch.randperm(len(key), generator=torch.Generator().manual_seed(seed))]
    parts = natural(keyed(key.tolist()), size, Rand(seed))
    held = [set(key[part].tolist()) for part in parts]
    assert sum(map(len, held)) == len(counts)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= max(counts)


def test_as_many_workers_as_keys_get_one_each():
    parts = natural(keyed([5, 3, 5, 9, 3]), 3, Rand(0))
    assert sorted(part.tolist() for part in parts) == [[0, 2], [1, 4], [3]]


def test_refuses_data_without_a_key():
    with pytest.raises(RecipeError) as error:
        natural(Data(torch.zeros(4), torch.zeros(4)), 2, Rand(0))
    assert str(error.value) == (
        "`natural` divides by the key of a sample, but this task's data has none"
        '\nhint: set name = "iid" in [partition]'
    )


def test_refuses_fewer_keys_than_workers():
    with pytest.raises(RecipeError) as error:
        natural(keyed([1, 1, 2, 2]), 3, Rand(0))
    assert str(error.value) == "3 workers can't share 2 keys: each needs at least one\nhint: use at most 2 workers"
