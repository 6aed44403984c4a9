from __future__ import annotations

import pytest
import torch

from quorate.engines.batching import Batching, Request
from quorate.errors import DataError, RecipeError
from quorate.gradient import Objective
from quorate.partitions.natural import natural
from quorate.rand import Rand
from quorate.tasks.shakespeare import NextCharacter, shakespeare
from quorate.training import Training
from tests.tasks.learning import measures_after, shuffled

FILE = "shakespeare/tiny_shakespeare.txt"
SMALL = {"length": 10, "embedding": 4, "hidden": 8}


def write(folder, **spoken: str):
    (folder / "shakespeare").mkdir(exist_ok=True)
    (folder / FILE).write_text("\n".join(f"{name}:\n{text}\n" for name, text in spoken.items()))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, A="abcde" * 61, B="no", C="edcba" * 41, D="abcdefghij")


def test_sequences_follow_each_other_and_targets_are_one_on(folder):
    task = shakespeare(data=folder, **SMALL)
    letters = "\nabcdefghijno"
    assert (len(task.train), len(task.test)) == (27 + 18 + 1, 3 + 2)
    assert task.train.key.unique().tolist() == [0, 2, 3]
    assert task.test.key.unique().tolist() == [0, 2]
    assert torch.equal(task.train.x[:27].flatten(), torch.tensor([letters.index(c) for c in "abcde" * 54]))
    assert torch.equal(task.train.y[:27].flatten()[:-1], task.train.x[:27].flatten()[1:])
    assert [letters[i] for i in task.train.y[-1]] == [*"bcdefghij", "\n"]


def test_scores_have_the_shape_that_loss_and_accuracy_want(folder):
    task = shakespeare(data=folder, **SMALL)
    model = task.model()
    output = model(task.test.x)
    assert output.shape == (5, 13, 10)
    assert task.loss(output, task.test.y).dim() == 0
    sure = torch.nn.functional.one_hot(task.test.y, 13).transpose(1, 2).float()
    assert task.metrics["accuracy"](sure, task.test.y) == 1
    assert list(model.buffers()) == []


@pytest.mark.filterwarnings("error")
def test_the_network_works_on_views_of_flat_parameters(folder):
    training = Training(shakespeare(data=folder, **SMALL), natural, 2, Rand(0))
    batch = training.batch(0, 0, 8)
    for flat in (
        training.initial(),
        torch.randn(training.layout.numel, generator=torch.Generator().manual_seed(0)) / 4,
    ):
        value, gradient = training.gradient(flat, batch)
        fresh = Objective(NextCharacter(13, 4, 8), training.task.loss, 0.0)
        with torch.no_grad():
            for name, parameter in fresh.named_parameters():
                parameter.copy_(training.layout.views(flat)[name])
        loss = fresh(training.train.x[batch.indices], training.train.y[batch.indices])
        loss.backward()
        named = dict(fresh.named_parameters())
        slow = torch.cat([named[name].grad.reshape(-1) for name, _, _ in training.layout.places])
        assert value == pytest.approx(float(loss.detach()))
        assert torch.allclose(gradient, slow, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_asked_for_together_are_those_of_one_by_one(shared, folder):
    training = Training(shakespeare(data=folder, **SMALL), natural, 3, Rand(0))
    start = training.initial()
    each = [start if shared else start + rank / 100 for rank in range(3)]
    asked = [Request(training.gradient, (each[rank], training.batch(rank, 0, 4)), False) for rank in range(3)]
    slow, fast = Batching(exact=True).answer(asked), Batching(exact=False).answer(asked)
    assert all(torch.allclose(a[1], b[1], atol=1e-5) for a, b in zip(slow, fast, strict=True))


def test_an_alphabet_that_repeats_is_learned(folder):
    task = shakespeare(data=folder, **SMALL)
    assert measures_after(task, [torch.arange(46)] * 60, lr=0.03)["accuracy"] > 0.8


def test_the_speakers_with_the_most_text_are_kept(folder):
    task = shakespeare(data=folder, speakers=2, **SMALL)
    assert task.train.key.unique().tolist() == task.test.key.unique().tolist() == [0, 1]
    assert (len(task.train), len(task.test)) == (27 + 18, 3 + 2)
    assert len(natural(task.train, 2, Rand(0))[0]) == 27


@pytest.mark.parametrize("speakers", [0, 5])
def test_refuses_more_speakers_than_there_are(speakers, folder):
    with pytest.raises(RecipeError) as error:
        shakespeare(data=folder, speakers=speakers, **SMALL)
    assert error.value.problem == f"speakers is how many of the 4 are kept, at least 1; got {speakers}"
    assert error.value.hint == "set speakers = 4, or leave it out"


@pytest.mark.parametrize("name", ["length", "embedding", "hidden"])
def test_refuses_numbers_out_of_range(name, folder):
    for value in (0, 10**9):
        with pytest.raises(RecipeError) as error:
            shakespeare(data=folder, **{name: value})
        assert error.value.problem == f"{name} is a whole number from 1 to 65536; got {value}"


def test_refuses_a_text_that_is_too_short(tmp_path):
    with pytest.raises(DataError) as error:
        shakespeare(data=write(tmp_path, A="abc" * 20))
    assert str(error.value) == (
        f"`{tmp_path / FILE}` has no speaker with enough text for training and test sequences of 64 characters"
        "\nhint: set a smaller length"
    )


def test_says_which_file_is_missing(tmp_path):
    with pytest.raises(DataError) as error:
        shakespeare(data=tmp_path)
    assert error.value.problem == f"data folder `{tmp_path}` holds no `{FILE}`"


@pytest.mark.data(FILE)
def test_shakespeare_beats_the_most_frequent_character(data_folder):
    task = shakespeare(data=data_folder, hidden=32)
    assert (task.train.x.shape, task.test.x.shape) == ((14_328, 64), (1582, 64))
    assert len(task.train.key.unique()) == 262
    assert task.model().embedding.num_embeddings == 65
    frequent = float(task.test.y.flatten().bincount().max() / task.test.y.numel())
    assert frequent == pytest.approx(0.164, abs=1e-3)
    assert measures_after(task, shuffled(14_328, 64)[:40], every=8, lr=0.01)["accuracy"] > frequent + 0.08
