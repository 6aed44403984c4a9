"""What a federation's server knows, and what it makes of replies; the same for all its programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from quorate.algorithms import Algorithm, Combined
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.federated import Reply
from quorate.federated.unfolded import Gathered
from quorate.outer_optimizers import OuterOptimizer
from quorate.rand import At, Rand
from quorate.selections import Known
from quorate.training import Training
from quorate.trees import Tree, branch, leaf
from quorate.wire import Message, Ragged, described

_TOLD = ("samples", "loss", "steps")  # numbers of every reply
_UPDATE = "update"  # what algorithms call the difference that a client says
_LEARNED = ("samples", "losses", "seconds", "rates", "times", "since")  # what `Known` holds


class Model:
    """The server's half of a federation.

    Args:
        training: the model.
        uplink: how clients say what they have come to, and how it is combined.
        downlink: how the server says what it broadcasts.
        algorithm: what is made of it.
        optimizer: the server's.
        size: how many clients there are.
    """

    def __init__(
        self,
        training: Training,
        uplink: Exchange,
        downlink: Exchange,
        algorithm: Algorithm,
        optimizer: OuterOptimizer,
        size: int,
    ) -> None:
        self._training, self._uplink, self._downlink = training, uplink, downlink
        self._algorithm, self._optimizer, self._size = algorithm, optimizer, size
        self.parameters = training.initial().clone()
        self._kept = algorithm.init(self.parameters)
        self._outer = optimizer.init(self.parameters)
        self._said: dict[str, Tree] = {}
        self._likes = dict(algorithm.says(training.initial(), training.layout))
        self._norms: dict[tuple[int, int], float] = {}
        self._known: dict[str, dict[int, float]] = {name: {} for name in _LEARNED}

    @property
    def known(self) -> Known:
        """What has been learned of the clients."""
        return Known(**self._known)

    def learn(self, what: str, client: int, value: float) -> None:
        """Take note of a client: what a field of `Known` says of it."""
        self._known[what][client] = value

    def state(self) -> Tree:
        """Return all that a server needs to go on."""
        known = {name: torch.full((self._size,), math.nan, dtype=torch.float64) for name in self._known}
        for name, values in self._known.items():
            known[name][list(values)] = torch.tensor(list(values.values()), dtype=torch.float64)
        return {
            "parameters": self.parameters,
            "algorithm": self._kept,
            "outer": self._outer,
            "downlink": dict(self._said),
            "known": known,
        }

    def load(self, state: Tree) -> None:
        """Go on from a state."""
        self.parameters = leaf(state, "parameters").clone()
        self._kept, self._outer = branch(state, "algorithm"), branch(state, "outer")
        said, known = branch(state, "downlink"), branch(state, "known")
        self._said = {name: branch(said, name) for name in said}
        for name in known:
            values = leaf(known, name).tolist()
            self._known[name] = {client: value for client, value in enumerate(values) if not math.isnan(value)}

    def broadcast(self, round: int) -> dict[str, Message]:
        """Encode what clients are sent in a round; what a codec remembers goes on from one broadcast to the next.

        Nothing of it shares memory with the parameters, which `update` writes to.
        """
        said = {}
        for name, tensor in sorted(
            self._algorithm.broadcast(self.parameters, self._kept, self._training.layout).items()
        ):
            at = At(round, 0, self._size, self._training.rand.fold("downlink"))
            state = self._said[name] if name in self._said else self._downlink.init(tensor)
            said[name], self._said[name] = self._downlink.say(tensor.clone(), state, at)
        return said

    def flaw(self, reply: Reply) -> str | None:
        """Return what is wrong with a reply, in words; None if it can be used."""
        for name in (*_TOLD, *self._algorithm.tells()):
            value = reply.numbers.get(name)
            if value is None or not math.isfinite(value) or value < 0:
                return f"its `{name}` is {value}"
        for name, like in self._likes.items():
            try:
                message, most = reply.message(name), self._uplink.emits(like)
                if not _fits(message, most):
                    return f"its `{name}` is {described(message)}, not {described(most)}"
                update = self._uplink.hear(message, like, self._at(name, reply))
            except (QuorateError, LookupError) as error:
                return f"its `{name}` can't be decoded: {error}"
            square = float(torch.dot(update, update))
            if not math.isfinite(square) and not update.isfinite().all():
                return f"its `{name}` holds NaN or infinity"
            if name == _UPDATE:
                self._norms[reply.client, reply.round] = square**0.5
        return None

    def update(
        self, replies: Sequence[Reply], discounts: Sequence[float] | None = None, damped: bool = False
    ) -> tuple[float, dict[str, float]]:
        """Step by what replies come to, added up in the order given.

        Args:
            replies: without a flaw, at least one.
            discounts: factors of their weights, not all 0; None for 1.
            damped: discounts make the step shorter, instead of giving other replies more weight.

        Returns:
            The mean of the clients' training losses, by weight, and numbers to record: how many `clients`; the length
            `step_norm` of the pseudo-gradient, and the mean length `client_norm` of what clients said: the further
            they drift apart, the longer it is than the first.
        """
        numbers = [reply.numbers for reply in replies]
        counts = list(self._algorithm.weights(numbers))
        whole = sum(counts)
        if discounts is not None:
            counts = [count * discount for count, discount in zip(counts, discounts, strict=True)]
        total = sum(counts)
        weights = [count / total if total else 1 / len(counts) for count in counts]
        updates = {name: self._combined(name, like, replies, weights) for name, like in self._likes.items()}
        slope, self._kept = self._algorithm.server(
            self.parameters, self._kept, Combined(updates, weights, numbers, self._size), self._training.layout
        )
        if damped and whole:
            slope = slope * (total / whole)
        self.parameters, self._outer = self._optimizer.step(self.parameters, slope, self._outer)
        for reply in replies:
            self.learn("losses", reply.client, reply.numbers["loss"])
            self.learn("samples", reply.client, reply.numbers["samples"])
        loss = sum(weight * each["loss"] for weight, each in zip(weights, numbers, strict=True))
        metrics = {"clients": float(len(replies)), "step_norm": float(slope.norm())}
        norms = [self._norms.pop((reply.client, reply.round), math.inf) for reply in replies]
        known = [norm for norm in norms if norm < math.inf]  # not of those that were accepted before a crash
        return loss, metrics | ({"client_norm": sum(known) / len(known)} if known else {})

    def _combined(self, name: str, like: Tensor, replies: Sequence[Reply], weights: Sequence[float]) -> Tensor:
        """Aggregate an update; if its total is all that is needed, one reply at a time is in memory."""
        if not self._uplink.sees_each:
            total, gathered = torch.zeros_like(like), Gathered()
            for reply, weight in zip(replies, weights, strict=True):
                head, *side = reply.message(name)
                if not gathered.take(head, weight):
                    self._uplink.codec.add(total, head, tuple(side), weight, self._at(name, reply))
            gathered.add_to(total)
            return total
        heard = [self._uplink.hear(reply.message(name), like, self._at(name, reply)) for reply in replies]
        at = self._at(name, replies[-1])
        return self._uplink.combine(heard, weights, at, [reply.client for reply in replies])

    def _at(self, name: str, reply: Reply) -> At:
        return at_of(self._training, self._size, name, reply.client, reply.round)


def at_of(training: Training, size: int, name: str, client: int, round: int) -> At:
    """Return where a client says an update of a name."""
    return At(round, client, size, _uplink(training.rand, name))


@cache
def _uplink(rand: Rand, name: str) -> Rand:
    return rand.fold("uplink", name)


def _fits(message: Message, most: Message) -> bool:
    """Return whether a message has the dtypes and shapes that are expected, or fewer rows where they may vary."""
    if len(message) != len(most):
        return False
    for tensor, limit in zip(message, most, strict=True):
        if tensor.dtype != limit.dtype or tensor.dim() != limit.dim() or tensor.shape[1:] != limit.shape[1:]:
            return False
        if len(tensor) > len(limit) if isinstance(most, Ragged) and limit.dim() else tensor.shape != limit.shape:
            return False
    return True
