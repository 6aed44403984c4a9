from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RecipeError
from quorate.tasks import Data
from tests.tiny import classes, training


@given(n=st.integers(1, 7), size=st.integers(1, 6), step=st.integers(0, 30))
def test_batches_of_a_step_are_the_batch_of_one_worker_that_holds_all(n, size, step):
    made, alone = training(size=3), training(size=1)
    batches = made.replicas.batches(step, n, size)
    assert torch.equal(torch.cat([batch.indices for batch in batches]), alone.batch(0, step, n * size).indices)
    assert [batch.size for batch in batches] == [len(batch.indices) for batch in batches]
    assert max(batch.size for batch in batches) - min(batch.size for batch in batches) <= 1
    assert len({batch.stream for batch in batches}) == n


@pytest.mark.parametrize("size", [4, "full"])
@pytest.mark.parametrize("n", [1, 3, 12])
def test_the_mean_of_the_gradients_is_that_of_all_their_samples(n, size):
    task = classes(dtype=torch.float64, model=lambda: torch.nn.Linear(6, 3).double())
    made, alone = training(task), training(task, 1)
    x, replicas = made.initial(), made.replicas
    batches = replicas.batches(0, n, size)
    mean = sum(replicas.take(x, batches, number)[1] for number in range(n)) / n
    expected = alone.gradient(x.clone(), alone.batch(0, 0, size if size == "full" else n * size))[1]
    torch.testing.assert_close(mean, expected)


def test_a_gradient_is_taken_once_in_a_step():
    made = training()
    x, replicas = made.initial(), made.replicas
    first, second = replicas.batches(0, 3, 2), replicas.batches(1, 3, 2)
    once = replicas.take(x, first, 1)
    assert replicas.take(x, replicas.batches(0, 3, 2), 1)[1] is once[1]
    assert replicas.take(x, first, 2)[1] is not once[1]
    assert replicas.take(x.clone(), first, 1)[1] is not once[1]
    other = replicas.take(x, second, 1)[1]
    assert not torch.equal(other, once[1])
    again = replicas.take(x, first, 1)
    assert again[1] is not once[1]
    assert torch.equal(again[1], once[1])
    assert again[0] == once[0]


def test_parameters_that_were_written_to_in_place_between_steps_are_looked_at_again():
    made = training()
    x, replicas = made.initial().clone(), made.replicas
    replicas.take(x, replicas.batches(0, 3, 2), 1)
    x.zero_()
    found = replicas.take(x, replicas.batches(1, 3, 2), 1)[1]
    assert torch.equal(found, training().replicas.take(torch.zeros_like(x), replicas.batches(1, 3, 2), 1)[1])


def test_other_samples_take_a_batch_s_place_for_once():
    made = training()
    x, replicas = made.initial(), made.replicas
    batches = replicas.batches(0, 3, 4)
    held = replicas.samples(batches[0])
    assert torch.equal(held.y, made.train.y[batches[0].indices])
    turned = Data(held.x, (held.y + 1) % 3)
    instead = replicas.take_instead(x, batches, 0, turned)
    honest = replicas.take(x, batches, 0)
    assert not torch.equal(instead[1], honest[1])
    assert torch.equal(replicas.take_instead(x, batches, 0, held)[1], honest[1])
    assert replicas.classes == 3


def test_samples_that_are_a_worker_s_own_are_in_no_batch():
    made = training()
    shard = made.shards[1]
    made.replace_share(1, Data(made.train.x[shard] + 1, made.train.y[shard]))
    whole = torch.cat([batch.indices for batch in made.replicas.batches(0, 3, "full")])
    assert sorted(whole.tolist()) == list(range(40))


def test_more_batches_than_samples_are_refused():
    with pytest.raises(RecipeError, match=r"41 batches can't share 40 training samples\nhint: use at most 40 workers"):
        training().replicas.batches(0, 41, 2)
    with pytest.raises(RecipeError, match="`batch` is the number of samples"):
        training().replicas.batches(0, 2, 0)
