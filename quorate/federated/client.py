"""A client as a pure function: `(memory, request) -> (memory, answer)`, for one, or for a whole cohort at once.

Its memory is a tree of tensors: what its algorithm keeps, and what its codecs have not said yet. It answers requests of
the kinds "train", a round of the algorithm; "evaluate", how well the model serves it; "alone", how well it would have
been served by training for itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from quorate.algorithms import Algorithm, Outcome, Work
from quorate.codecs.identity import Identity
from quorate.errors import QuorateError, RunError
from quorate.exchange import Exchange
from quorate.federated import Answer, Request
from quorate.federated.alone import alone
from quorate.federated.evaluation import Measuring, split
from quorate.federated.local import Local, LocalSettings, LocalWork, Train, Trained, train
from quorate.federated.model import at_of
from quorate.federated.unfolded import Unfolded, Unmoved, folded
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.rand import At
from quorate.training import Training
from quorate.trees import Tree, branch, map_tree


class Asked(NamedTuple):
    """A client that has been asked.

    Args:
        client: its number.
        memory: its own.
        request: the server's.
        shard: (n,), positions of its samples in the training data.
    """

    client: int
    memory: Tree
    request: Request
    shard: Tensor


@dataclass(frozen=True)
class Client:
    """What all clients have in common: they run the same recipe.

    Args:
        training: the model; of data, a real client has only its own.
        algorithm: what they do in a round.
        settings: how they train.
        uplink: how they say what they have come to.
        downlink: how the server says what it broadcasts.
        size: how many clients there are.
        learning_rate: factor of their learning rate by round, for those who train alone; in a round the server says it.
        held_out: the share of a client's samples that it is tested on, and does not train on.
    """

    training: Training
    algorithm: Algorithm
    settings: LocalSettings
    uplink: Exchange
    downlink: Exchange
    size: int
    learning_rate: LearningRate = constant
    held_out: float = 0.0

    @cached_property
    def measuring(self) -> Measuring:
        """Measures models on the clients' own test data."""
        return Measuring(self.training, self.held_out)

    def __call__(self, asked: Asked) -> tuple[Tree, Answer]:
        """Answer a request, step by step.

        Raises:
            QuorateError: if the task fails, or what would be said is not finite.
        """
        (result,) = self.answers([asked], self.train)
        if isinstance(result, QuorateError):
            raise result
        return result

    def train(self, works: Sequence[LocalWork]) -> list[Trained | QuorateError]:
        """Do local work one by one: what engines that do it together are compared with."""
        training, results = self.training, list[Trained | QuorateError]()
        for work in works:
            try:
                results.append(train(training.gradient, training.layout, work))
            except QuorateError as error:
                results.append(error)
        return results

    def answers(self, cohort: Sequence[Asked], train: Train) -> list[tuple[Tree, Answer] | QuorateError]:
        """Answer the requests of many clients, whose local work is handed to `train` together.

        Returns:
            In order, each client's memory after it and its answer; a QuorateError where it could not be said.
        """
        results: dict[int, tuple[Tree, Answer] | QuorateError] = {}
        asked = [place for place, each in enumerate(cohort) if each.request.kind == "train"]
        results |= zip(asked, self._rounds([cohort[place] for place in asked], train), strict=True)
        for place, each in enumerate(cohort):
            if place not in results:
                results[place] = self._measured(each, train)
        return [results[place] for place in range(len(cohort))]

    def _rounds(self, cohort: Sequence[Asked], train: Train) -> list[tuple[Tree, Answer] | QuorateError]:
        given: dict[tuple[int, int], Mapping[str, Tensor]] = {}
        keys = [(id(each.request.tensors), each.request.round) for each in cohort]
        for key, each in zip(keys, cohort, strict=True):
            if key not in given:
                given[key] = self.heard(each.request)
        running = [_Running(self._begun(each, given[key])) for key, each in zip(keys, cohort, strict=True)]
        while waiting := [each for each in running if each.wants is not None]:
            made = deque(train([each.wants for each in waiting if each.wants]))
            for one in waiting:
                one.go_on(made.popleft())  # and let go of it, before the next one's update needs room
        return [self._answer(each, one) for each, one in zip(cohort, running, strict=True)]

    def heard(self, request: Request) -> dict[str, Tensor]:
        """Decode what is broadcast.

        Raises:
            RunError: if it is not what the algorithm broadcasts.
        """
        likes = self.likes(request.kind)
        if request.tensors.keys() != likes.keys():
            raise RunError(
                f"the server broadcasts {', '.join(sorted(request.tensors))}, but the recipe's algorithm"
                f" {', '.join(sorted(likes))}",
                "start server and clients with the same recipe",
            )
        if request.kind != "train":
            return {name: message[0] for name, message in request.tensors.items()}
        at = At(request.round, 0, self.size, self.training.rand.fold("downlink"))
        return {name: self.downlink.hear(message, likes[name], at) for name, message in sorted(request.tensors.items())}

    def likes(self, kind: str = "train") -> dict[str, Tensor]:
        """Return tensors of the shapes and dtypes of what is broadcast, by name; only training's go through codecs.

        Raises:
            RunError: if there is no such kind of request.
        """
        initial = self.training.initial()
        if kind == "train":
            return dict(self.algorithm.broadcast(initial, self.algorithm.init(initial), self.training.layout))
        if kind not in ("evaluate", "alone"):
            raise RunError(f"the server asks for `{kind[:40]}`, which this client does not know", "update quorate here")
        return {"parameters": initial} if kind == "evaluate" else {}

    def local(self, client: int, round: int, shard: Tensor, numbers: Mapping[str, float]) -> Local:
        """Return a client's side of a round, without the samples that it holds out.

        Args:
            shard: (n,), positions of all its samples.
            numbers: the request's.
        """
        training = self.training
        kept = split(shard, self.held_out, client, training.rand)[0] if self.held_out else shard
        return Local(
            client,
            round,
            self.size,
            kept,
            self.settings,
            training.layout,
            training.initial(),
            training.rand,
            numbers,
        )

    def samples(self, client: int, shard: Tensor) -> int:
        """Return how many samples a client trains on."""
        return (split(shard, self.held_out, client, self.training.rand)[0] if self.held_out else shard).shape[0]

    def personal(self, parameters: Tensor, memory: Tree) -> Tensor:
        """Return the parameters (d,) that a client uses: the server's, or its own.

        Args:
            parameters: (d,), the server's.
            memory: the client's.
        """
        return self.algorithm.personal(parameters, branch(memory, "algorithm"), self.training.layout)

    def cost(self, asked: Asked) -> int:
        """Return how many gradients of single samples a client takes to answer, which is what its computing costs.

        Its work is gone through without being done; measuring costs nothing.
        """
        request, count = asked.request, 0
        if request.kind != "train":
            times = int(request.numbers.get("times", 1)) if request.kind == "alone" else 0
            return times * self.settings.epochs * self.samples(asked.client, asked.shard)
        running = _Running(self._begun(asked, self.likes()))
        while (work := running.wants) is not None:
            count += work.samples
            running.go_on(Trained(Unfolded.of(Unmoved(work.start), 0), 0.0, len(work.sizes)))
        return count

    def _measured(self, asked: Asked, train: Train) -> tuple[Tree, Answer] | QuorateError:
        """Answer with `value` how well a client is served, if it has any data to tell by; its memory stays."""
        request, shard = asked.request, asked.shard
        try:
            given = self.heard(request)
            if request.kind == "evaluate":
                parameters = self.personal(given["parameters"], asked.memory)
            else:
                times, rounds = (int(request.numbers.get(name, 1)) for name in ("times", "rounds"))
                (trained,) = alone(self.local, self.learning_rate, [(asked.client, shard)], times, rounds, train)
                if isinstance(trained, QuorateError):
                    return trained
                parameters = trained
            (value,) = self.measuring.values(parameters, [self.measuring.own(asked.client, shard)])
        except QuorateError as error:
            return error
        numbers = {"samples": float(len(shard)), "steps": 0.0, "loss": 0.0} | (
            {} if value is None else {"value": value}
        )
        return asked.memory, Answer(asked.client, request.round, {}, numbers, request.kind)

    def _begun(self, asked: Asked, given: Mapping[str, Tensor]) -> Work:
        local = self.local(asked.client, asked.request.round, asked.shard, asked.request.numbers)
        return self.algorithm.client(branch(asked.memory, "algorithm"), given, local)

    def _answer(self, asked: Asked, done: _Running) -> tuple[Tree, Answer] | QuorateError:
        outcome, client, request = done.outcome, asked.client, asked.request
        if done.error is not None or outcome is None:
            return done.error or RunError(f"client {client} came to nothing")
        said, states, before = {}, {}, branch(asked.memory, "codec")
        try:
            for name, update in sorted(outcome.updates.items()):
                at = at_of(self.training, self.size, name, client, request.round)
                state = map_tree(Tensor.clone, branch(before, name)) if name in before else self.uplink.init(update)
                given = update if isinstance(self.uplink.codec, Identity) else folded(update)
                said[name], states[name] = self.uplink.say(given, state, at)
        except QuorateError as error:
            return error
        numbers = {"samples": float(self.samples(client, asked.shard)), "steps": float(done.steps), "loss": done.loss}
        return (
            {"algorithm": map_tree(folded, outcome.memory), "codec": states},
            Answer(client, request.round, said, numbers | dict(outcome.numbers)),
        )


class _Running:
    """A client's generator, the work that it waits for, and in the end its outcome or what went wrong."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.wants: LocalWork | None = None
        self.outcome: Outcome | None = None
        self.error: QuorateError | None = None
        self.steps, self._losses = 0, 0.0
        self._advance(None)

    @property
    def loss(self) -> float:
        """The mean over all its local steps."""
        return self._losses / self.steps if self.steps else 0.0

    def go_on(self, trained: Trained | QuorateError) -> None:
        """Give the generator what came of its work."""
        if isinstance(trained, QuorateError):
            self.wants, self.error = None, trained
            self._work.close()
            return
        self.steps += trained.steps
        self._losses += trained.loss * trained.steps
        self._advance(trained)

    def _advance(self, trained: Trained | None) -> None:
        try:
            self.wants = next(self._work) if trained is None else self._work.send(trained)
        except StopIteration as stop:
            self.wants, self.outcome = None, stop.value
        except QuorateError as error:
            self.wants, self.error = None, error
