"""Laws of every partition; a new file in `quorate/partitions` is tested unasked."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import quorate.partitions
from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.tasks import Data

(FOLDER,) = quorate.partitions.__path__
NAMES = sorted(path.stem for path in Path(FOLDER).glob("*.py") if not path.stem.startswith("_"))


def partition(name):
    return getattr(importlib.import_module(f"quorate.partitions.{name}"), name)


def labelled(n: int, labels: int, keys: int | None, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    key = None if keys is None else torch.randint(keys, (n,), generator=generator)
    return Data(torch.zeros(n, 2), torch.randint(labels, (n,), generator=generator), key)


def assert_divides(parts, n, size):
    assert len(parts) == size
    assert all(part.dtype == torch.int64 and part.dim() == 1 for part in parts)
    assert all(len(part) > 0 for part in parts)
    assert all(bool((part.diff() > 0).all()) for part in parts)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))


def test_the_folder_is_found():
    assert {"iid", "shards", "dirichlet", "by_size", "natural"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@given(
    n=st.integers(1, 60),
    size=st.integers(1, 60),
    labels=st.integers(1, 10),
    keys=st.none() | st.integers(1, 60),
    seed=st.integers(0, 2**62),
)
@settings(deadline=None)
def test_parts_are_sorted_disjoint_complete_and_not_empty_or_refused_with_a_hint(name, n, size, labels, keys, seed):
    data = labelled(n, labels, keys, seed)
    try:
        parts = partition(name)(data, size, Rand(seed))
    except RecipeError as error:
        hint = error.hint
        assert hint
    else:
        assert size <= n
        assert_divides(parts, n, size)


@pytest.mark.parametrize("name", NAMES)
@given(size=st.integers(1, 10), seed=st.integers(0, 2**62))
@settings(deadline=None, max_examples=20)
def test_rich_data_is_divided_and_never_refused(name, size, seed):
    """Classes and keys are all that `Data` can hold besides samples, so nothing is left to ask for."""
    data = labelled(100, 5, 40)
    assert_divides(partition(name)(data, size, Rand(seed)), 100, size)


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_parts_and_global_chance_is_left_alone(name):
    data, before = labelled(100, 5, 40), torch.get_rng_state()
    first, second, other = (partition(name)(data, 7, Rand(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, -1])
def test_nobody_is_refused(name, size):
    with pytest.raises(RecipeError) as error:
        partition(name)(labelled(100, 5, 40), size, Rand(0))
    assert str(error.value) == (f"samples are divided among at least 1 worker; got {size}\nhint: use at least 1 worker")


@pytest.mark.parametrize("name", NAMES)
def test_more_workers_than_samples_are_refused(name):
    with pytest.raises(RecipeError) as error:
        partition(name)(labelled(5, 2, 40), 6, Rand(0))
    assert str(error.value) == (
        "6 workers can't share 5 training samples: each needs at least one\nhint: use at most 5 workers"
    )
