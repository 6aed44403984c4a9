"""Matrix factorisation of MovieLens ratings as one user sees it: movies are everybody's, the user is nobody else's.

The user's vector and bias are parameters of their own, `user` and `user_bias`: with them as `personal_layers` of
`fed_per` or `fed_rep` and a client for each user, what a user likes stays at home, and only movies travel.

Source: Singhal, Sidahmed, Garrett, Wu, Rush and Prakash, "Federated reconstruction: partially local federated
learning", NeurIPS 2021, section 5, its model of MovieLens; Koren, Bell and Volinsky, "Matrix factorization techniques
for recommender systems", IEEE Computer 42(8), 2009, equations 4 and 5.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from quorate.tasks import Data, Task
from quorate.tasks.movielens import START, divided_ratings, root_mean_squared_error


class Taste(nn.Module):
    """Ratings that one user is predicted to give, (n,) -> (n,): the mean, two biases, and p_user . q_movie."""

    def __init__(self, movies: int, dimension: int, mean: float) -> None:
        super().__init__()
        self.user, self.user_bias = nn.Parameter(torch.zeros(dimension)), nn.Parameter(torch.zeros(()))
        self.movie, self.movie_bias = nn.Embedding(movies, dimension), nn.Embedding(movies, 1)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(mean))
        nn.init.normal_(self.movie.weight, std=START)
        nn.init.zeros_(self.movie_bias.weight)

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor = self.movie_bias(x).squeeze(-1)
        fit: Tensor = self.movie(x) @ self.user
        return self.mean + self.user_bias + bias + fit


def movielens_user(
    *,
    data: Path | None = None,
    file: str = "movielens/ratings.csv",
    dimension: int = 8,
    l2: float = 2e-4,
    test_ratings: int = 1,
) -> Task:
    """Predict how many stars this user gives to a movie; the loss is the squared error.

    A user of whom nothing is known, as the server's model is, has the vector 0.

    Args:
        data: the data folder.
        file: inside it, as for `movielens`.
        dimension: of the vectors; the model has (movies + 1) * (dimension + 1) parameters.
        l2: weight of |parameters|^2 / 2.
        test_ratings: of each user, the last so many ratings are the test, but never all.

    Returns:
        A task with x (n,), int64, movies, numbered from 0 in the order of their numbers in the file; y (n,), float32,
        stars in [0.5, 5]; the user is the key, for a client per user. The metric `rmse` is in stars.

    Raises:
        RecipeError: if a number is out of range.
        DataError: if the file is missing or not as it should be, or no user has two ratings.
    """
    ratings = divided_ratings(data, file, dimension, l2, test_ratings)
    return Task(
        model=lambda: Taste(ratings.movies, dimension, ratings.mean),
        loss=functional.mse_loss,
        train=_movies(ratings.train),
        test=_movies(ratings.test),
        metrics={"rmse": root_mean_squared_error},
        l2=l2,
    )


def _movies(data: Data) -> Data:
    return Data(data.x[:, 1].contiguous(), data.y, data.key)
