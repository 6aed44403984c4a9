"""A client as a pure function: `(memory, request) -> (memory, answer)`, for one, or for a whole cohort at once.

Its memory is a tree of tensors: what its algorithm keeps, and what its codecs have not said yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from quorate.algorithms import Algorithm, Outcome, Work
from quorate.errors import QuorateError, RunError
from quorate.exchange import Exchange
from quorate.federated import Answer, Request
from quorate.federated.local import Local, LocalSettings, LocalWork, Train, Trained, train
from quorate.federated.model import at_of
from quorate.rand import At
from quorate.training import Training
from quorate.trees import Tree, branch


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
    """

    training: Training
    algorithm: Algorithm
    settings: LocalSettings
    uplink: Exchange
    downlink: Exchange
    size: int

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
        given: dict[int, Mapping[str, Tensor]] = {}
        for each in cohort:
            if id(each.request) not in given:
                given[id(each.request)] = self.heard(each.request)
        running = [_Running(self._begun(each, given[id(each.request)])) for each in cohort]
        while waiting := [each for each in running if each.wants is not None]:
            for one, trained in zip(waiting, train([each.wants for each in waiting if each.wants]), strict=True):
                one.go_on(trained)
        return [self._answer(each, one) for each, one in zip(cohort, running, strict=True)]

    def heard(self, request: Request) -> dict[str, Tensor]:
        """Decode what is broadcast.

        Raises:
            RunError: if it is not what the algorithm broadcasts.
        """
        likes = self.likes()
        if request.tensors.keys() != likes.keys():
            raise RunError(
                f"the server broadcasts {', '.join(sorted(request.tensors))}, but the recipe's algorithm"
                f" {', '.join(sorted(likes))}",
                "start server and clients with the same recipe",
            )
        at = At(request.round, 0, self.size, self.training.rand.fold("downlink"))
        return {name: self.downlink.hear(message, likes[name], at) for name, message in sorted(request.tensors.items())}

    def likes(self) -> dict[str, Tensor]:
        """Return tensors of the shapes and dtypes of what is broadcast, by name."""
        initial = self.training.initial()
        return dict(self.algorithm.broadcast(initial, self.algorithm.init(initial)))

    def _begun(self, asked: Asked, given: Mapping[str, Tensor]) -> Work:
        training, request = self.training, asked.request
        local = Local(
            asked.client,
            request.round,
            self.size,
            asked.shard,
            self.settings,
            training.layout,
            training.rand,
            request.numbers,
        )
        return self.algorithm.client(branch(asked.memory, "algorithm"), given, local)

    def _answer(self, asked: Asked, done: _Running) -> tuple[Tree, Answer] | QuorateError:
        outcome, client, request = done.outcome, asked.client, asked.request
        if done.error is not None or outcome is None:
            return done.error or RunError(f"client {client} came to nothing")
        said, states, before = {}, {}, branch(asked.memory, "codec")
        try:
            for name, update in sorted(outcome.updates.items()):
                at = at_of(self.training, self.size, name, client, request.round)
                state = branch(before, name) if name in before else self.uplink.init(update)
                said[name], states[name] = self.uplink.say(update, state, at)
        except QuorateError as error:
            return error
        numbers = {"samples": float(len(asked.shard)), "steps": float(done.steps), "loss": done.loss}
        return (
            {"algorithm": outcome.memory, "codec": states},
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
