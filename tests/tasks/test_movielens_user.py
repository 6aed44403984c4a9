from __future__ import annotations

import pytest
import torch

from quorate.algorithms.fed_per import FedPer
from quorate.errors import DataError, RecipeError
from quorate.partitions.natural import natural
from quorate.rand import Rand
from quorate.tasks.movielens import movielens
from quorate.tasks.movielens_user import Taste, movielens_user
from quorate.training import Training
from tests.tasks.test_movielens import FILE, write


@pytest.fixture
def folder(tmp_path):
    """Seven users with tastes of two kinds, who rate eleven movies of two kinds."""
    return write(
        tmp_path, *((10 + u, 100 + m, 5 if (u + m) % 2 else 1, (3 * m + u) % 11) for u in range(7) for m in range(11))
    )


def test_ratings_are_those_of_the_model_of_all_users(folder):
    whole, own = movielens(data=folder, test_ratings=2), movielens_user(data=folder, test_ratings=2)
    for a, b in ((whole.train, own.train), (whole.test, own.test)):
        assert torch.equal(a.x[:, 1], b.x)
        assert torch.equal(a.y, b.y)
        assert torch.equal(a.key, b.key)


def test_predictions_are_the_formula():
    torch.manual_seed(0)
    model = Taste(4, 5, 3.5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    for m in (3, 0):
        slow = 3.5 + model.user_bias + model.movie_bias.weight[m, 0] + model.user @ model.movie.weight[m]
        assert torch.allclose(model(torch.tensor([m])), slow)


def test_a_user_of_whom_nothing_is_known_gets_the_mean(folder):
    task = movielens_user(data=folder)
    assert torch.allclose(task.model()(task.test.x), task.train.y.mean())


def test_what_travels_says_nothing_of_the_user(folder):
    training = Training(movielens_user(data=folder, dimension=3), natural, 7, Rand(0))
    shared, own = FedPer(("user", "user_bias")).places(training.layout)
    assert sum(place.stop - place.start for place in own) == 3 + 1
    assert sum(place.stop - place.start for place in shared) == 11 * (3 + 1)
    names = {name.removeprefix("model.") for name, _, offset in training.layout.places if offset < 4}
    assert names == {"user", "user_bias"}


def test_one_users_own_parameters_suffice_for_a_taste_when_movies_are_known(folder):
    task = movielens_user(data=folder, dimension=1, test_ratings=2, l2=0.0)
    known = Taste(11, 1, 3.0)
    with torch.no_grad():
        known.movie.weight.copy_(torch.tensor([[2.0], [-2.0]] * 6)[:11])
    mine = (task.train.key == 0).nonzero()[:, 0]
    optimizer = torch.optim.SGD([known.user, known.user_bias], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(known(task.train.x[mine]), task.train.y[mine]).backward()
        optimizer.step()
    test = task.test.key == 0
    with torch.no_grad():
        assert task.metrics["rmse"](known(task.test.x[test]), task.test.y[test]) < 0.1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"dimension": 0}, "dimension is the length of a factor, at least 1; got 0"),
        ({"test_ratings": 0}, "test_ratings is the number of ratings per user to test on, at least 1; got 0"),
        ({"l2": -1.0}, "l2 is a factor of |parameters|^2 / 2, at least 0; got -1.0"),
    ],
)
def test_refuses_numbers_out_of_range(changed, says, folder):
    with pytest.raises(RecipeError) as error:
        movielens_user(data=folder, **changed)
    assert error.value.problem == says


def test_says_which_file_is_missing(tmp_path):
    with pytest.raises(DataError) as error:
        movielens_user(data=tmp_path)
    assert error.value.problem == f"data folder `{tmp_path}` holds no `{FILE}`"
