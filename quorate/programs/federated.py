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
from quorate.federated import Request, Server
from quorate.federated.local import LocalSettings
from quorate.federated.model import Model
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.optimizer import Optimizer
from quorate.outer_optimizers import OuterOptimizer
from quorate.outer_optimizers.sgd import Sgd
from quorate.plan import Plan, planned
from quorate.programs._asking import DAY, Asking, check, require_averaging, weight
from quorate.programs._round import Round, Wanted
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
    cohort: int = 10,
    epochs: int = 1,
    batch: int | Literal["full"] = 10,
    over_selection: float = 0.0,
    deadline: float = DAY,
    late: str = "drop",
    max_staleness: int = 5,
    quorum: int = 1,
    held_out: float = 0.0,
    **_: object,
) -> Plan:
    check(size, algorithm, optimizer, epochs, batch, rounds, held_out)
    if not 1 <= cohort <= size:
        raise RecipeError(f"`cohort` is a number of the {size} clients, at least 1; got {cohort}", f"cohort = {size}")
    if over_selection < 0:
        raise RecipeError(f"`over_selection` is a share, not negative; got {over_selection}", "over_selection = 0.3")
    if not 1 <= quorum <= cohort:
        raise RecipeError(
            f"`quorum` is a number of replies, 1 .. cohort ({cohort}); got {quorum}", f"quorum = {cohort}"
        )
    if deadline <= 0:
        raise RecipeError("`deadline` is the seconds that a round's clients are given, above 0", 'deadline = "60 s"')
    if late == "buffer":
        require_averaging(algorithm, 'late = "buffer" adds those of earlier rounds')
        if max_staleness < 1:
            raise RecipeError(f"`max_staleness` is rounds, at least 1; got {max_staleness}", 'late = "drop"')
    asked = min(size, math.ceil(cohort * (1 + over_selection)))
    enough = f"the first {cohort} replies make a round" if asked > cohort else "all replies make a round"
    within = "" if deadline == DAY else f", or after {deadline:g} s those that are there, at least {quorum}"
    after = "dropped" if late == "drop" else f"added to the next round, up to {max_staleness} rounds late"
    return Plan(
        trainers=size,
        meets=False,
        federated=True,
        says=(("rounds", f"{rounds}: {asked} of {size} clients are asked, {enough}{within}"), ("late replies", after)),
    )


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
    deadline: Seconds = DAY,
    partial: bool = False,
    late: Literal["drop", "buffer"] = "drop",
    staleness_power: float = 0.5,
    max_staleness: int = 5,
    quorum: int = 1,
    require: dict[str, float] | None = None,
    held_out: float = 0.0,
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
        deadline: seconds after which a round goes on without those who are late.
        partial: a client that is known to be too slow is told to do only as many steps as it can do until the deadline;
            `fed_nova` weighs clients that do unlike numbers of steps rightly.
        late: replies of rounds before are dropped, and the clients told so; or kept, and added to the next round.
        staleness_power: a reply that is s rounds late counts (1 + s)^-power times.
        max_staleness: rounds; what is later is dropped.
        quorum: replies without which a round does not end.
        require: what a client must say of itself to be asked, at least, e.g. {samples = 20, memory = 1e9}.
        held_out: share of each client's samples that it does not train on, but is tested on.
        downlink: how the server says what it broadcasts.
        gathering: seconds that a whole cohort is waited for in the first round, and whenever nobody was present at all,
            from when the first client is there.
        patience: seconds that a round waits for anybody to be present, or to reply late, before it gives up.

    Returns:
        The parameters (d,).

    Raises:
        NobodyLeft: if too few clients are present, or reply, for `patience` seconds.
        RunError: if fewer than `quorum` clients meet `require`.
    """
    model = Model(training, exchange, Exchange(downlink), algorithm, outer_optimizer, server.size)
    local = LocalSettings(optimizer, epochs, batch)
    asking = Asking(server, model, selection, training.rand, local, deadline, gathering, patience, partial, require)
    asking.require_possible(quorum)
    wanted = Wanted(cohort, over_selection, quorum, max_staleness if late == "buffer" else 0)
    start, state = server.restore(model.state())
    model.load(state)
    del state  # which would hold the first parameters to the end
    for number in range(start, rounds):
        factor = learning_rate(number, server.size)
        request = Request(number, model.broadcast(number), {} if factor == 1 else {"factor": factor})
        round = Round(server, model, asking, wanted, request)
        if number == start:
            round.resume(list(server.asked(number)), list(server.accepted()))
        await round.run()
        asking.late(sorted(round.waiting))
        if late == "drop":
            server.release(sorted(round.waiting), number)
        replies = sorted(round.replies + round.late, key=lambda reply: (reply.client, reply.round))
        counts, delayed = [weight(number - reply.round, staleness_power) for reply in replies], len(round.late)
        del request, round  # and with them what was broadcast, before the update needs room
        loss, metrics = model.update(replies, counts if delayed else None)
        server.commit(number + 1, loss, model.state(), replies, metrics | {"late": float(delayed)})
        del replies  # before the next ones need room
    return model.parameters
