"""Asynchronous federated averaging with a buffer: a client that has replied is replaced at once; the model is updated
whenever so many replies are there.

No client waits for a slower one; what a slow one has come to counts less, the more the model has moved on meanwhile.

Source: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, "Federated learning with buffered asynchronous
aggregation", AISTATS 2022, algorithm 1, with its staleness scaling 1 / sqrt(1 + s).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from quorate.algorithms import Algorithm
from quorate.cluster import Seconds
from quorate.codecs import Codec
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.federated import Gone, Reply, Request, Server
from quorate.federated.local import LocalSettings
from quorate.federated.model import Model
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.optimizer import Optimizer
from quorate.outer_optimizers import OuterOptimizer
from quorate.plan import Plan, planned
from quorate.programs._asking import DAY, Asking, check, require_averaging, weight
from quorate.programs.federated import AVERAGE, FED_AVG, NOTHING
from quorate.selections import Selection
from quorate.selections.uniform import uniform
from quorate.training import Training
from quorate.trees import leaf

_LOOKS = 1.0  # seconds, at least, between two looks at who is present


def _plan(
    size: int,
    *,
    algorithm: Algorithm,
    optimizer: Optimizer,
    rounds: int,
    concurrency: int = 20,
    buffer: int = 10,
    epochs: int = 1,
    batch: int | Literal["full"] = 10,
    staleness_power: float = 0.5,
    max_staleness: int = 20,
    deadline: float = DAY,
    held_out: float = 0.0,
    **_: object,
) -> Plan:
    check(size, algorithm, optimizer, epochs, batch, rounds, held_out)
    require_averaging(algorithm, "`fed_buff` adds those of any")
    for name, value in (("concurrency", concurrency), ("buffer", buffer)):
        if not 1 <= value <= size:
            raise RecipeError(
                f"`{name}` is a number of the {size} clients, at least 1; got {value}", f"{name} = {min(10, size)}"
            )
    if max_staleness < 0:
        raise RecipeError(
            f"`max_staleness` is updates of the model, at least 0; got {max_staleness}", "max_staleness = 20"
        )
    if staleness_power < 0:
        raise RecipeError(f"`staleness_power` is not negative; got {staleness_power}", "staleness_power = 0.5")
    if deadline <= 0:
        raise RecipeError("`deadline` is the seconds until a buffer that is not full is used", 'deadline = "1 h"')
    return Plan(
        trainers=size,
        meets=False,
        federated=True,
        says=(
            ("updates", f"{rounds}, each of {buffer} replies; {concurrency} of {size} clients are at work at any time"),
            ("stale replies", f"count (1 + s)^-{staleness_power:g}, up to s = {max_staleness} updates"),
        ),
    )


@planned(_plan)
async def fed_buff(
    server: Server,
    training: Training,
    exchange: Exchange,
    *,
    algorithm: Algorithm = FED_AVG,
    optimizer: Optimizer,
    outer_optimizer: OuterOptimizer = AVERAGE,
    selection: Selection = uniform,
    learning_rate: LearningRate = constant,
    rounds: int,
    concurrency: int = 20,
    buffer: int = 10,
    epochs: int = 1,
    batch: int | Literal["full"] = 10,
    staleness_power: float = 0.5,
    max_staleness: int = 20,
    deadline: Seconds = DAY,
    require: dict[str, float] | None = None,
    held_out: float = 0.0,
    downlink: Codec = NOTHING,
    gathering: Seconds = 30.0,
    patience: Seconds = 600.0,
) -> Tensor:
    """Train without rounds.

    A client is given the model as it is when it is asked, and not twice the same one. Replies of a buffer are added up
    in the order of clients. The run can go on after a crash: who was at work is asked again with the model as it is
    then, unless the reply comes.

    Args:
        algorithm: what clients do, and what is made of it; one whose server only averages.
        optimizer: of clients; it begins anew for every reply.
        outer_optimizer: of the server; the default takes the average.
        selection: who is asked next.
        learning_rate: factor of the clients' learning rate, by the number of updates of the model.
        rounds: updates of the model.
        concurrency: clients that are at work at a time.
        buffer: K, replies that make an update.
        epochs: that a client goes through its samples.
        batch: samples of a local step; "full" is all that the client has.
        staleness_power: a reply begun s updates ago counts (1 + s)^-power times, which makes the step shorter.
        max_staleness: s beyond which a reply is refused.
        deadline: seconds after which a buffer is used that holds one reply or more, but not all.
        require: what a client must say of itself to be asked, at least, e.g. {samples = 20, memory = 1e9}.
        held_out: share of each client's samples that it does not train on, but is tested on.
        downlink: how the server says what it broadcasts.
        gathering: seconds that the server waits at first for as many clients as are to be at work.
        patience: seconds that it waits for anybody to be present before it gives up.

    Returns:
        The parameters (d,).

    Raises:
        NobodyLeft: if nobody is at work, and nobody present, for `patience` seconds.
        RunError: if no client meets `require`.
    """
    model = Model(training, exchange, Exchange(downlink), algorithm, outer_optimizer, server.size)
    local = LocalSettings(optimizer, epochs, batch)
    asking = Asking(server, model, selection, training.rand, local, deadline, gathering, patience, require=require)
    asking.require_possible(1)
    start, state = server.restore({**model.state(), "under_way": _table({}, server.size)})
    model.load(state)
    buffered = _Buffer(server, model, asking, concurrency, buffer, max_staleness)
    buffered.working = _from_table(leaf(state, "under_way"))
    for version in range(start, rounds):
        factor = learning_rate(version, server.size)
        request = Request(version, model.broadcast(version), {} if factor == 1 else {"factor": factor})
        if version == start:
            buffered.resume(request)
        replies = await buffered.filled(request)
        staleness = [version - reply.round for reply in replies]
        loss, metrics = model.update(replies, [weight(s, staleness_power) for s in staleness], damped=True)
        metrics["staleness"] = sum(staleness) / len(staleness)
        state = {**model.state(), "under_way": _table(buffered.working, server.size)}
        server.commit(version + 1, loss, state, replies, metrics)
        del replies, state  # before the next ones need room
    return model.parameters


class _Buffer:
    """Keeps clients at work, and collects their replies.

    Args:
        concurrency: clients that are at work at a time.
        size: K, replies that fill it.
        max_staleness: updates of the model since a reply was begun.
    """

    def __init__(
        self, server: Server, model: Model, asking: Asking, concurrency: int, size: int, max_staleness: int
    ) -> None:
        self._server, self._model, self._asking = server, model, asking
        self._concurrency, self._size, self._max_staleness = concurrency, size, max_staleness
        self._replies: list[Reply] = []
        self._given: set[int] = set()
        self.working: dict[int, int] = {}
        """Who is at work, and on which version of the model."""

    def resume(self, request: Request) -> None:
        """Go on after a crash: ask those who were at work, unless they still are."""
        server, version = self._server, request.round
        self._replies = list(server.accepted())
        self.working |= dict.fromkeys(server.asked(version), version)
        for reply in self._replies:
            if self.working.get(reply.client) == reply.round:
                del self.working[reply.client]
        server.ask(sorted(self.working), request)
        self._given = set(server.asked(version))
        self.working |= dict.fromkeys(self._given & self.working.keys(), version)

    async def filled(self, request: Request) -> list[Reply]:
        """Return the replies of one update, in the order of clients.

        Raises:
            NobodyLeft: if there are none to be had.
        """
        server, version = self._server, request.round
        until = server.now() + self._asking.deadline
        ready = server.now() + (self._asking.gathering if version == 0 else 0.0)
        given_up = math.inf
        while len(self._replies) < self._size and not (self._replies and server.now() >= until):
            room = self._ask(request, ready)
            if self.working:
                soon = until if not room else min(until, server.now() + max(_LOOKS, self._asking.gathering))
                await self._next(version, soon)
                given_up = math.inf
            elif self._replies:
                break  # all who are there have replied to this very version
            else:
                given_up = min(given_up, max(ready, server.now()) + self._asking.patience)
                if not await server.arrivals(ready if server.now() < ready else given_up) and server.now() >= given_up:
                    raise self._asking.nobody(version)
        replies, self._replies, self._given = self._replies, [], set()
        return sorted(replies, key=lambda reply: (reply.client, reply.round))

    def _ask(self, request: Request, ready: float) -> int:
        """Put clients to work; before `ready`, only as many as there is room for.

        Returns:
            For how many more there is room.
        """
        room = self._concurrency - len(self.working)
        if room <= 0:
            return 0
        found = self._asking.candidates(self._given | self.working.keys())
        if len(found) < room and self._server.now() < ready:
            return room
        if found:
            chosen = self._asking.choose(found, room, request.round, int(sum(self._model.known.times.values())))
            self.working |= dict.fromkeys(chosen, request.round)
            self._given |= set(chosen)
            self._asking.ask(chosen, request)
        return self._concurrency - len(self.working)

    async def _next(self, version: int, until: float) -> None:
        """Take the next reply, if one comes before `until`."""
        server = self._server
        found = await server.reply(until)
        if found is None:
            if server.now() < until:
                self.working.clear()  # they are gone, and nobody has said so
            return
        if self.working.get(found.client) in (found.round, None):
            self.working.pop(found.client, None)
        if isinstance(found, Gone):
            self._asking.gone(found)
            return
        flaw = self._model.flaw(found)
        if not 0 <= version - found.round <= self._max_staleness:
            server.refuse(found, f"it is of version {found.round}, and the model is at version {version}")
        elif any((reply.client, reply.round) == (found.client, found.round) for reply in self._replies):
            server.refuse(found, "it has been accepted already")
        elif flaw is not None:
            server.refuse(found, flaw, hostile=True)
        else:
            server.accept(found)
            self._asking.answered(found)
            self._replies.append(found)


def _table(working: Mapping[int, int], size: int) -> Tensor:
    """Return (size,), the version that each client works on, or -1."""
    versions = torch.full((size,), -1)
    versions[list(working)] = torch.tensor(list(working.values()), dtype=torch.int64)
    return versions


def _from_table(versions: Tensor) -> dict[int, int]:
    return {client: version for client, version in enumerate(versions.tolist()) if version >= 0}
