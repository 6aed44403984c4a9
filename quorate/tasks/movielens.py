"""Matrix factorisation of MovieLens ratings, as a dense model: the recommender whose communication explodes.

A batch touches few rows of the tables, but a gradient has all of them: its size grows with users plus movies, whatever
the batch.

Source: Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", IEEE Computer 42(8), 2009,
equations 4 and 5; the data: Harper and Konstan, "The MovieLens datasets: history and context", ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from quorate.errors import DataError, RecipeError
from quorate.tasks import Data, Task
from quorate.tasks.files import LIMIT, find
from quorate.tasks.files.ratings import read_ratings
from quorate.tasks.files.rows import require_l2

START = 0.1  # standard deviation of the factors


class Factors(nn.Module):
    """Predicted ratings, (n, 2) -> (n,): the mean, a bias per user and per movie, and p_user . q_movie."""

    def __init__(self, users: int, movies: int, dimension: int, mean: float) -> None:
        super().__init__()
        self.user_bias, self.movie_bias = nn.Embedding(users, 1), nn.Embedding(movies, 1)
        self.user, self.movie = nn.Embedding(users, dimension), nn.Embedding(movies, dimension)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(mean))
        for bias in (self.user_bias, self.movie_bias):
            nn.init.zeros_(bias.weight)
        for factors in (self.user, self.movie):
            nn.init.normal_(factors.weight, std=START)

    def forward(self, x: Tensor) -> Tensor:
        user, movie = x[..., 0], x[..., 1]
        biases: Tensor = self.user_bias(user) + self.movie_bias(movie)
        fit: Tensor = (self.user(user) * self.movie(movie)).sum(dim=-1)
        return self.mean + biases.squeeze(-1) + fit


def movielens(
    *,
    data: Path | None = None,
    file: str = "movielens/ratings.csv",
    dimension: int = 8,
    l2: float = 2e-4,
    test_ratings: int = 1,
) -> Task:
    """Predict how many stars a user gives to a movie; the loss is the squared error.

    Args:
        data: the data folder.
        file: inside it, a `ratings.csv` of ml-latest-small or any other MovieLens set in that form.
        dimension: of the vectors p and q; the model has (users + movies) * (dimension + 1) parameters.
        l2: weight of |parameters|^2 / 2; the mean of the training ratings, which is no parameter, stays out of it.
        test_ratings: of each user, the last so many ratings are the test, but never all; of equal times, those later
            in the file.

    Returns:
        A task with x (n, 2), int64, user and movie, both numbered from 0 in the order of their numbers in the file;
        y (n,), float32, stars in [0.5, 5]; the user is the key, for partitions of whole users. The metric `rmse`, in
        stars, is over all test ratings, those of movies without a training rating among them.

    Raises:
        RecipeError: if a number is out of range.
        DataError: if the file is missing or not as it should be, or no user has two ratings.
    """
    ratings = divided_ratings(data, file, dimension, l2, test_ratings)
    return Task(
        model=lambda: Factors(ratings.users, ratings.movies, dimension, ratings.mean),
        loss=functional.mse_loss,
        train=ratings.train,
        test=ratings.test,
        metrics={"rmse": root_mean_squared_error},
        l2=l2,
    )


class Divided(NamedTuple):
    """Ratings to train and to test on.

    Args:
        train: x (n, 2), user and movie, numbered from 0; y (n,), stars; the key is the user.
        test: likewise.
        users: how many there are.
        movies: how many there are.
        mean: of the training ratings, in stars.
    """

    train: Data
    test: Data
    users: int
    movies: int
    mean: float


def divided_ratings(data: Path | None, file: str, dimension: int, l2: float, test_ratings: int) -> Divided:
    """Read ratings, and divide them; see `movielens`.

    Raises:
        RecipeError: if a number is out of range.
        DataError: if the file is missing or not as it should be, or no user has two ratings.
    """
    require_l2(l2)
    if dimension < 1:
        raise RecipeError(f"dimension is the length of a factor, at least 1; got {dimension}", "set dimension = 8")
    if test_ratings < 1:
        raise RecipeError(
            f"test_ratings is the number of ratings per user to test on, at least 1; got {test_ratings}",
            "set test_ratings = 1",
        )
    path = find(data, file)
    ratings = read_ratings(path)
    users, user = ratings.user.unique(return_inverse=True)
    movies, movie = ratings.movie.unique(return_inverse=True)
    parameters = (len(users) + len(movies)) * (dimension + 1)
    if parameters * 4 > LIMIT:
        raise RecipeError(f"{parameters} parameters take more than {LIMIT} bytes", "set dimension = 8")
    test = _last_of_each(user, ratings.time, test_ratings)
    if not test.any():
        raise DataError(f"`{path}` has no user with two ratings, one to train and one to test on", "take more ratings")
    x, y = torch.stack([user, movie], dim=1), ratings.rating.float()
    return Divided(
        train=Data(x[~test], y[~test], key=user[~test]),
        test=Data(x[test], y[test], key=user[test]),
        users=len(users),
        movies=len(movies),
        mean=float(ratings.rating[~test].mean()),
    )


def root_mean_squared_error(output: Tensor, y: Tensor) -> float:
    """Return the root of the mean squared error, in the unit of y, at least 0.

    Args:
        output: (n,).
        y: (n,).
    """
    return float((output - y).double().square().mean().sqrt())


def _last_of_each(user: Tensor, time: Tensor, k: int) -> Tensor:
    """Mark the last k ratings of each user, or all but one if there are no more than k; (n,), bool."""
    order = time.argsort(stable=True)
    order = order[user[order].argsort(stable=True)]
    counts = user.bincount()
    ends = counts.cumsum(0)[user[order]]
    test = torch.empty(len(user), dtype=torch.bool)
    test[order] = ends - torch.arange(len(user)) <= (counts - 1).clamp_max(k)[user[order]]
    return test
