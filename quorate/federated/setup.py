"""The clients of a recipe."""

from __future__ import annotations

from functools import partial
from typing import Any

from quorate.exchange import Exchange
from quorate.federated.client import Client
from quorate.federated.local import LocalSettings
from quorate.learning_rates.constant import constant
from quorate.parts import settings
from quorate.training import Training


def client_of(program: Any, training: Training, uplink: Exchange, size: int) -> Client:
    """Return what all clients of a federated program have in common.

    Args:
        program: with its settings filled in.
        training: made ready for `size` clients, or for one that has only its own data.
        uplink: the recipe's exchange.
        size: how many clients there are.

    Raises:
        RecipeError: if the algorithm can't train the model.
    """
    assert isinstance(program, partial)
    given = {name: each.default for name, each in settings(program.func).items()} | program.keywords
    local = LocalSettings(given["optimizer"], given["epochs"], given["batch"])
    given["algorithm"].check(local, training.layout)
    return Client(
        training,
        given["algorithm"],
        local,
        uplink,
        Exchange(given["downlink"]),
        size,
        given.get("learning_rate", constant),
        given.get("held_out", 0.0),
    )
