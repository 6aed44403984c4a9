"""Pieces for Flower's users: a Strategy from any aggregator, a mod from any codec, and whole apps from a recipe.

strategy(partial(trimmed_mean, share=0.1), codec=codec).start(grid, arrays, num_rounds=10)
ClientApp(mods=[mod(codec)])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from logging import getLogger
from math import inf
from typing import Any

import torch
from torch import Tensor

from quorate.aggregators import Aggregator
from quorate.codecs import Codec
from quorate.errors import QuorateError, RunError

try:
    from flwr.serverapp.strategy import FedAvg, Strategy
except ImportError as error:
    raise RunError(f"Flower is not installed here: {error}", "pip install 'quorate[flower]'") from error

from quorate.flower_apps import client_app as client_app
from quorate.flower_apps import server_app as server_app
from quorate.flower_pieces import Coding, arrays_of, flat, likeness, replaced, with_floats

_log = getLogger("flwr")
Mod = Callable[[Any, Any, Callable[[Any, Any], Any]], Any]


def mod(codec: Codec, seed: int = 0) -> Mod:
    """Return a mod of a ClientApp: replies to `train` carry what a codec says of the update, and nothing else of it.

    What a codec remembers, of error feedback the residual, is in the context's state, which Flower keeps as long as its
    run lasts. Flower tells no client whether its reply was used: of one that is lost, what it said is lost.

    Args:
        codec: the same as the server's.
        seed: the same as the server's.

    Raises:
        RecipeError: if the codec can't stand alone.
    """
    coding = Coding(codec, seed)

    def encoded(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        if message.metadata.message_type.partition(".")[0] != "train":
            return call_next(message, context)
        _, start = arrays_of(message.content)
        reply = call_next(message, context)
        if not reply.has_error():
            coding.encode(start, reply.content, context.state, context.node_id)
        return reply

    return encoded


def strategy(aggregator: Aggregator | None, base: Any = None, codec: Codec | None = None, seed: int = 0) -> Around:
    """Return a Strategy that combines what clients have come to by an aggregator.

    Replies that can't be decoded, are unlike the model, or hold NaN or infinity are left out, with a warning that names
    the node. Arrays of integers, such as counts of batches, are those of the first node's reply.

    Args:
        aggregator: is given updates (n, d) and weights (n,), by the samples that clients tell; None: as `base` does.
        base: a Strategy that says who is asked, and combines metrics; None: Flower's FedAvg.
        codec: of the clients' mod, if they have one.
        seed: of the clients' mod.

    Raises:
        RecipeError: if the codec can't stand alone.
    """
    return Around(aggregator, FedAvg() if base is None else base, None if codec is None else Coding(codec, seed))


class Around(Strategy):  # type: ignore[misc]
    """A Strategy around another one; see `strategy`."""

    def __init__(self, aggregator: Aggregator | None, base: Any, coding: Coding | None) -> None:
        self._aggregator, self._base, self._coding = aggregator, base, coding
        self._start: Any = None

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """Ask whom `base` asks."""
        self._start = arrays
        return list(self._base.configure_train(server_round, arrays, config, grid))

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """Combine replies, in the order of nodes."""
        failed, whole, trained, weights = [], [], [], []
        for reply in sorted(replies, key=lambda each: each.metadata.src_node_id):
            if reply.has_error():
                failed.append(reply)
                continue
            try:
                vector, weight = self._heard(reply)
            except QuorateError as error:
                _log.warning("node %d is left out: it has sent %s", reply.metadata.src_node_id, error.problem)
                continue
            whole.append(reply)
            trained.append(vector)
            weights.append(weight)
        counts = arrays_of(whole[0].content)[1].copy() if whole else None
        arrays, metrics = self._base.aggregate_train(server_round, [*whole, *failed])
        if counts is None or arrays is None:
            return arrays, metrics
        if self._aggregator is None:
            return with_floats(counts, arrays), metrics
        total = sum(weights)
        along = torch.tensor([each / total if total else 1 / len(whole) for each in weights], dtype=torch.float64)
        start = flat(self._start)
        updates = torch.stack([start - vector for vector in trained])
        return replaced(counts, start - self._aggregator(updates, along)), metrics

    def _heard(self, reply: Any) -> tuple[Tensor, float]:
        """Return what a client has come to, (d,), and what it counts; the reply holds it decoded.

        Raises:
            QuorateError: with what is wrong with the reply.
        """
        if self._coding is not None:
            reply.content = self._coding.decode(self._start, reply.content, reply.metadata.src_node_id)
        _, arrays = arrays_of(reply.content)
        if likeness(arrays) != likeness(self._start):
            raise RunError("arrays that are not like the model's")
        vector = flat(arrays)
        if not vector.isfinite().all():
            raise RunError("NaN or infinity")
        key = getattr(self._base, "weighted_by_key", "num-examples")
        told = [metrics[key] for metrics in reply.content.metric_records.values() if key in metrics]
        if len(told) != 1 or not isinstance(told[0], int | float) or not 0 <= told[0] < inf:
            raise RunError(f"no `{key}` among its metrics that is a number, not negative")
        return vector, float(told[0])

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """Ask whom `base` asks."""
        found: Iterable[Any] = self._base.configure_evaluate(server_round, arrays, config, grid)
        return found

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
        """Combine as `base` does."""
        return self._base.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Say what `base` says."""
        self._base.summary()
