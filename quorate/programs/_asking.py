"""Whom a federation's server asks, and what it learns from how clients answer; the same for all its programs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from quorate.algorithms import Algorithm
from quorate.errors import RecipeError, RunError
from quorate.federated import Gone, NobodyLeft, Reply, Request, Server
from quorate.federated.local import LocalSettings
from quorate.federated.model import Model
from quorate.optimizer import Optimizer
from quorate.rand import Rand
from quorate.selections import Selection

DAY = 86_400.0
"""Seconds."""
_SURE = 0.8  # share of the time until the deadline that a client is given work for
_REASONS = 3  # that a message names


@dataclass
class Asking:
    """Chooses clients, asks them, and learns how fast they are.

    Args:
        server: the engine's.
        model: which remembers what has been learned.
        selection: who of those that could be is asked.
        rand: the run's stream.
        settings: of the clients.
        deadline: seconds that a client is given.
        gathering: seconds to wait for enough clients, when there are none.
        partial: whether a client is told to do fewer steps, if it would be late otherwise.
        require: what clients must tell of themselves, at least.
        patience: seconds to wait for anybody.
    """

    server: Server
    model: Model
    selection: Selection
    rand: Rand
    settings: LocalSettings
    deadline: float
    gathering: float
    patience: float
    partial: bool = False
    require: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        self._reasons: list[str] = []

    def require_possible(self, count: int) -> None:
        """Refuse conditions that too few clients meet, if all have told of themselves.

        Args:
            count: how many are needed.

        Raises:
            RunError: with the most that any client has.
        """
        if not self.require:
            return
        told = [self.server.facts(client) for client in range(self.server.size)]
        fitting = sum(self._fits(facts) for facts in told)
        if all(told) and fitting < count:
            most = {name: max(facts.get(name, -math.inf) for facts in told) for name in self.require}
            have = ", ".join(f"{name} = {value:g}" for name, value in most.items() if value > -math.inf)
            few = f"{fitting} of {len(told)} clients meet `require`, but {count} are needed"
            raise RunError(f"{few}; the most that any has: {have or 'nothing of it is told'}", "lower `require`")

    def _fits(self, facts: Mapping[str, float]) -> bool:
        return all(facts.get(name, -math.inf) >= least for name, least in (self.require or {}).items())

    def candidates(self, not_these: Collection[int]) -> list[int]:
        """Return who could be asked now, ascending."""
        found = [client for client in self.server.present() if client not in not_these]
        if self.require:
            found = [client for client in found if self._fits(self.server.facts(client))]
        known = self.model.known.samples
        for client in found:
            if client not in known and "samples" in (facts := self.server.facts(client)):
                self.model.learn("samples", client, facts["samples"])
        return found

    def choose(self, candidates: Sequence[int], count: int, *purpose: int) -> list[int]:
        """Choose so many, or all there are; `purpose` tells the choices of a run apart."""
        return self.selection(candidates, count, self.rand.fold("selection", *purpose), self.model.known)

    def ask(self, clients: Sequence[int], request: Request) -> None:
        """Ask clients, each for as many steps as it can do in time."""
        limits = {client: self._limit(client) for client in clients}
        for client in clients:
            self.model.learn("since", client, self.server.now())
            self.model.learn("times", client, self.model.known.times.get(client, 0) + 1)
        free = [client for client in clients if limits[client] is None]
        if free:
            self.server.ask(free, request)
        for steps in sorted({limit for limit in limits.values() if limit is not None}):
            alike = [client for client in clients if limits[client] == steps]
            self.server.ask(alike, replace(request, numbers={**request.numbers, "steps": float(steps)}))

    def _limit(self, client: int) -> int | None:
        """Return how many steps a client is told to do; None for all."""
        rate = self.model.known.rates.get(client)
        if not self.partial or rate is None:
            return None
        possible = max(1, math.floor(_SURE * self.deadline * rate))
        return possible if possible < self._all_steps(client) else None

    def _all_steps(self, client: int) -> float:
        samples, batch = self.model.known.samples.get(client), self.settings.batch
        if samples is None:
            return math.inf
        return self.settings.epochs * (1 if batch == "full" else math.ceil(samples / batch))

    def answered(self, reply: Reply) -> None:
        """Learn from a reply how fast a client is."""
        asked, steps = self.model.known.since.get(reply.client), reply.numbers["steps"]
        if asked is not None:
            seconds = self.server.now() - asked
            self.model.learn("seconds", reply.client, seconds)
            if seconds > 0 and steps > 0:
                self.model.learn("rates", reply.client, steps / seconds)

    def late(self, clients: Sequence[int]) -> None:
        """Learn from clients that have not replied before the deadline: they take at least twice as long."""
        known, now = self.model.known, self.server.now()
        for client in clients:
            waited = now - known.since.get(client, now)
            if waited >= self.deadline > 0:
                self.model.learn("seconds", client, 2 * waited)
                steps = min(self._limit(client) or math.inf, self._all_steps(client))
                if steps < math.inf:
                    self.model.learn("rates", client, steps / (2 * waited))

    def gone(self, gone: Gone) -> None:
        """Remember why a client will not reply, for the message when nobody is left."""
        self._reasons = [*self._reasons, f"client {gone.client}: {gone.why}"][-_REASONS:]

    def nobody(self, done: int) -> NobodyLeft:
        """Return the error that ends a run.

        Args:
            done: rounds.
        """
        last = f"; the last ones that were lost: {'; '.join(self._reasons)}" if self._reasons else ""
        return NobodyLeft(
            f"round {done + 1}: for {self.patience:g} seconds too few clients could be asked, or replied{last}",
            "start clients, lower `quorum`, or raise `patience`; `quorate resume` goes on from the last checkpoint",
        )


def check(
    size: int,
    algorithm: Algorithm,
    optimizer: Optimizer,
    epochs: int,
    batch: int | Literal["full"],
    rounds: int,
    held_out: float,
) -> None:
    """Refuse settings that no federated program can run with.

    Raises:
        RecipeError: with what could be meant.
    """
    if rounds < 1:
        raise RecipeError(f"`rounds` must be at least 1; got {rounds}", "rounds = 100")
    if not 0 <= held_out < 1:
        raise RecipeError(
            f"`held_out` is the share of a client's samples that it is tested on, in [0, 1); got {held_out}",
            "held_out = 0.2",
        )
    algorithm.check(LocalSettings(optimizer, epochs, batch), None)


def require_averaging(algorithm: Algorithm, why: str) -> None:
    """Refuse an algorithm whose server keeps something that clients must be in step with.

    Args:
        why: what such an algorithm can't be used for.

    Raises:
        RecipeError: naming the algorithm.
    """
    if algorithm.init(torch.zeros(1)):
        raise RecipeError(
            f"{type(algorithm).__name__}'s server keeps a state that replies must be of the same round as, but {why}",
            '[algorithm]\nname = "fed_avg"',
        )


def weight(staleness: int, power: float) -> float:
    """Return what a reply counts that was begun so many updates of the model ago: (1 + s)^-power."""
    return float((1 + staleness) ** -power)
