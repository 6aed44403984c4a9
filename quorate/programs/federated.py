"""Rounds of a federation: select clients, broadcast, let them compute, aggregate what comes in time, update.

Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017,
algorithm 1; the outer optimizer: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 1; asking more
clients than are needed: Bonawitz et al., "Towards federated learning at scale", MLSys 2019, section 2.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from quorate.algorithms import Algorithm
from quorate.algorithms.fed_avg import FedAvg
from quorate.cluster import Seconds
from quorate.codecs import Codec
from quorate.codecs.identity import Identity
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.federated import Gone, NobodyLeft, Reply, Request, Server
from quorate.federated.local import LocalSettings
from quorate.federated.model import Model
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.optimizer import Optimizer
from quorate.outer_optimizers import OuterOptimizer
from quorate.outer_optimizers.sgd import Sgd
from quorate.plan import Plan, planned
from quorate.selections import Selection
from quorate.selections.uniform import uniform
from quorate.training import Training

AVERAGE, FED_AVG, NOTHING = Sgd(), FedAvg(), Identity()


def _plan(
    size: int,
    *,
    algorithm: Algorithm,
    optimizer: Optimizer,
    rounds: int,
    cohort: int,
    epochs: int = 1,
    batch: int | Literal["full"] = 10,
    over_selection: float = 0.0,
    quorum: int = 1,
    **_: object,
) -> Plan:
    if rounds < 1:
        raise RecipeError(f"`rounds` must be at least 1; got {rounds}", "rounds = 100")
    if not 1 <= cohort <= size:
        raise RecipeError(f"`cohort` is a number of the {size} clients, at least 1; got {cohort}", f"cohort = {size}")
    if over_selection < 0:
        raise RecipeError(f"`over_selection` is a share, not negative; got {over_selection}", "over_selection = 0.3")
    if not 1 <= quorum <= cohort:
        raise RecipeError(
            f"`quorum` is a number of replies, 1 .. cohort ({cohort}); got {quorum}", f"quorum = {cohort}"
        )
    algorithm.check(LocalSettings(optimizer, epochs, batch), None)
    return Plan(trainers=size, meets=False, federated=True)


@planned(_plan)
async def federated(
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
    cohort: int = 10,
    epochs: int = 1,
    batch: int | Literal["full"] = 10,
    over_selection: float = 0.0,
    deadline: Seconds | None = None,
    quorum: int = 1,
    downlink: Codec = NOTHING,
    gathering: Seconds = 30.0,
    patience: Seconds = 600.0,
) -> Tensor:
    """Train in synchronous rounds.

    A round ends when `cohort` replies are accepted, or when `deadline` has passed, or nobody who was asked is left,
    with at least `quorum` of them; with fewer, others are asked. Replies are added up in the order of clients, so that
    the result does not depend on who was first.

    Args:
        algorithm: what clients do, and what is made of it.
        optimizer: of clients; it begins anew in every round.
        outer_optimizer: of the server; the default takes the average.
        selection: who is asked.
        learning_rate: factor of the clients' learning rate, by round.
        rounds: how often the model is updated.
        cohort: clients whose replies make a round.
        epochs: that a client goes through its samples in a round.
        batch: samples of a local step; "full" is all that the client has.
        over_selection: share of the cohort that is asked in addition.
        deadline: seconds after which a round goes on without those who are late; None: it waits for all that are left.
        quorum: replies without which a round does not end.
        downlink: how the server says what it broadcasts.
        gathering: seconds that the first round, or the first one after a crash, waits for a whole cohort to be present.
        patience: seconds that a round waits for anybody to be present before it gives up.

    Returns:
        The parameters (d,).

    Raises:
        NobodyLeft: if too few clients are present for `patience` seconds.
    """
    model = Model(training, exchange, Exchange(downlink), algorithm, outer_optimizer, server.size)
    start, state = server.restore(model.state())
    model.load(state)
    kept = list(server.accepted())
    for number in range(start, rounds):
        factor = learning_rate(number, server.size)
        request = Request(number, model.broadcast(number), {} if factor == 1 else {"factor": factor})
        replies = [reply for reply in kept if reply.round == number]
        asked = set(server.asked(number))  # not empty if the server has crashed in this round
        waiting = asked - {reply.client for reply in replies}
        while True:
            missing = cohort - len(replies)
            if not waiting and (not asked or len(replies) < quorum):
                patient = server.now() + (gathering if number == start else 0.0)
                candidates = await _candidates(server, asked, missing, patient, server.now() + patience)
                rand = training.rand.fold("selection", number, len(asked))
                waiting = set(selection(candidates, math.ceil(missing * (1 + over_selection)), rand, model.known))
                asked |= waiting
            until = math.inf if deadline is None else server.now() + deadline
            server.ask(sorted(waiting), request)
            replies += await _collected(server, model, number, waiting, missing, until)
            if len(replies) >= quorum:
                break
        server.release(sorted(asked - {reply.client for reply in replies}), number)
        replies.sort(key=lambda reply: reply.client)
        loss, metrics = model.update(replies)
        server.commit(number + 1, loss, model.state(), replies, metrics)
    return model.parameters


async def _candidates(server: Server, not_these: set[int], wanted: int, patient: float, until: float) -> list[int]:
    """Wait for clients that have not been asked yet: for as many as are wanted until `patient`, then for any."""
    while True:
        found = [client for client in server.present() if client not in not_these]
        if len(found) >= wanted or (found and server.now() >= patient):
            return found
        if not await server.arrivals(patient if found else until) and not found:
            raise NobodyLeft(
                f"no client that could be asked was present for {until - patient:g} seconds or more",
                "start clients, or set a larger `patience`; the run goes on from its last round with `quorate resume`",
            )


async def _collected(
    server: Server, model: Model, number: int, waiting: set[int], missing: int, until: float
) -> list[Reply]:
    """Return the replies that could be accepted before `until`; those who have replied, or won't, leave `waiting`."""
    replies: list[Reply] = []
    while waiting and len(replies) < missing:
        reply = await server.reply(until)
        if reply is None:
            break
        if isinstance(reply, Gone):
            if reply.round == number:
                waiting.discard(reply.client)
        elif reply.round != number or reply.client not in waiting:
            server.refuse(reply, f"it came too late, in round {number + 1}")
        else:
            waiting.discard(reply.client)
            flaw = model.flaw(reply)
            if flaw is None:
                server.accept(reply)
                replies.append(reply)
            else:
                server.refuse(reply, flaw, hostile=True)
    waiting.clear()
    return replies
