from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from quorate.errors import RecipeError
from quorate.partitions.iid import iid
from quorate.rand import Rand
from quorate.tasks import Data, Task, accuracy
from quorate.training import Training
from tests.tiny import classes, mlp, randn, training

sizes = {"n": st.integers(4, 40), "batch": st.integers(1, 12), "rank": st.integers(0, 3), "seed": st.integers(0, 99)}


@given(**sizes)
@settings(deadline=None)
def test_every_epoch_holds_each_sample_of_the_shard_once_without_gaps(n, batch, rank, seed):
    made = training(classes(n=n), seed=seed, unequal=True)
    shard = made.shards[rank]
    if batch >= len(shard):
        assert torch.equal(made.batch(rank, 5, batch).indices, shard)
        return
    steps = -(-3 * len(shard) // batch)
    batches = [made.batch(rank, step, batch) for step in range(steps)]
    assert all(each.size == len(each.indices) == batch for each in batches)
    seen = torch.cat([each.indices for each in batches])
    for epoch in range(3):
        once = seen[epoch * len(shard) : (epoch + 1) * len(shard)]
        assert torch.equal(once.sort().values, shard)


@given(**sizes, data=st.data())
@settings(deadline=None)
def test_a_batch_depends_on_seed_rank_and_step_and_on_no_call_before(n, batch, rank, seed, data):
    """What a resumed run asks for first is what an uninterrupted one had asked for in the middle."""
    straight, resumed = (training(classes(n=n), seed=seed) for _ in range(2))
    in_order = [straight.batch(rank, step, batch) for step in range(20)]
    for step in data.draw(st.lists(st.integers(0, 19), min_size=1, max_size=5)):
        again = resumed.batch(rank, step, batch)
        assert torch.equal(again.indices, in_order[step].indices)
        assert again.seed == in_order[step].seed


def test_workers_seeds_and_epochs_have_orders_of_their_own():
    made, other = training(classes(n=80), 2), training(classes(n=80), 2, seed=1)
    first, second = (made.batch(0, step, 39).indices for step in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other.batch(0, 0, 39).indices)
    places = [torch.searchsorted(made.shards[rank], made.batch(rank, 0, 39).indices) for rank in range(2)]
    assert not torch.equal(*places)
    assert made.batch(0, 0, 39).seed != made.batch(1, 0, 39).seed != made.batch(1, 1, 39).seed


def test_full_is_all_of_the_shard_in_the_order_of_the_data():
    made = training(unequal=True)
    for rank, shard in enumerate(made.shards):
        assert torch.equal(made.batch(rank, 3, "full").indices, shard)


@pytest.mark.parametrize("size", [0, -1])
def test_refuses_a_batch_of_nothing(size):
    with pytest.raises(RecipeError) as error:
        training().batch(0, 0, size)
    assert str(error.value) == (
        f'`batch` is the number of samples per worker and step, at least 1, or "full"; got {size}\nhint: batch = 32'
    )


def test_weights_are_shares_of_the_samples_and_none_if_equal():
    assert training(classes(n=40), 4).weights is None
    assert training(classes(n=48), 2, unequal=True).weights == (32 / 48, 16 / 48)


def test_the_initial_parameters_depend_on_the_seed_only():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = training(size=2).initial(), training(size=3).initial(), training(seed=1).initial()
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_measures_on_the_test_data_in_pieces_without_the_penalty():
    n = 4_500
    test = Data(randn(n, 6, seed=3), torch.arange(n) % 3)
    task = Task(mlp, functional.cross_entropy, classes().train, test, {"accuracy": accuracy}, l2=1.0)
    made = Training(task, iid, 2, Rand(0))
    parameters = randn(made.layout.numel, seed=4)
    model = mlp()
    with torch.no_grad():
        for name, view in made.layout.views(parameters).items():
            dict(model.named_parameters())[name.removeprefix("model.")].copy_(view)
        output = model(test.x)
    assert made.evaluate(parameters) == {
        "test_loss": pytest.approx(float(functional.cross_entropy(output, test.y)), rel=1e-6),
        "accuracy": accuracy(output, test.y),
    }


def test_refuses_a_run_of_nobody():
    with pytest.raises(RecipeError) as error:
        training(size=0)
    assert str(error.value) == "a run needs at least one worker, got 0\nhint: use `--simulate 8`"
