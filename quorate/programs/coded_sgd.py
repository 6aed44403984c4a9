"""Synchronous SGD under a redundancy code: several workers take the same gradients, so that wrong ones are found.

Every worker can read all data. The batches of a step are drawn by all from one stream; each worker takes the gradients
of those that the code gives it, and says one answer. All decode what all have said, without a server. Where the code
votes, the workers say digests of 32 bytes first, and then what has won is sent once, a piece by each of the majority.

With at most `s` wrong answers, in each group or in all, as the code counts, the parameters are those of a run in which
nobody lies: to the bit under `repetition`. What a worker says, it says to all: an all-gather hands out the same to
everybody, and hostile workers may change their own messages, but not those of others.

A worker that is excluded takes no part any more, and counts among the `s` as one that says nothing; its batches stay
with the others that hold them, so that the parameters stay the same. As many others may lie then as are left of `s`.

Source: Chen, Wang, Charles and Papailiopoulos, "DRACO: Byzantine-resilient distributed training via redundant
gradients", ICML 2018, algorithm 1, there with a server; the digests and the exclusion are ours.
"""

from __future__ import annotations

from math import inf, nan
from typing import Any, Literal

import torch
from torch import Tensor

from quorate.aggregators import name_of
from quorate.aggregators.mean import mean
from quorate.codecs.identity import Identity
from quorate.codes import Code, Decoded
from quorate.collectives.backend import backend
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.learning_rates import LearningRate
from quorate.learning_rates.constant import constant
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.parts import name_of as name_in_recipes
from quorate.plan import Plan, planned
from quorate.programs._coded_lies import Forges, answer_and_upload
from quorate.programs._coded_meeting import Votes, decoded_by_vote, decoded_from_all
from quorate.rand import At
from quorate.suspicion import Judgement
from quorate.training import Training
from quorate.trees import branch, leaf


def _plan(
    size: int, *, code: Code, exchange: Exchange | None = None, digests: bool = True, exclude: bool = False, **_: Any
) -> Plan:
    held = len(code.batches(size, 0))
    if exchange is not None:
        if not isinstance(exchange.codec, Identity):
            raise RecipeError(
                f"a redundancy code compares what workers have computed, which {exchange.codec} would change",
                "leave out [[codec]]",
            )
        if exchange.aggregator is not mean:
            raise RecipeError(
                f"what answers come to is said by the code, and {name_of(exchange.aggregator)} has nothing to combine",
                'leave out [aggregator], or name = "detox" in [code]',
            )
        if exchange.collective is not backend:
            raise RecipeError("answers to a code are not summed on their way", "leave out [collective]")
        if exclude and exchange.hostility is not None and exchange.hostility.redrawn:
            raise RecipeError(
                "others lie in every step, so that all would be excluded before long", "exclude = false in [program]"
            )
    votes = digests and isinstance(code, Votes) and code.by_digest
    return Plan(
        size,
        alone=True,
        says=(
            (
                "code",
                f"{name_in_recipes(code)}: every worker takes {held} gradients a step, each batch is held by {held}",
            ),
            ("answers", "digests, and what has won once, in pieces" if votes else "of all workers, to all"),
            ("data", "every worker reads all of it, whatever the partition"),
        ),
    )


@planned(_plan)
async def coded_sgd(
    node: Node,
    training: Training,
    exchange: Exchange,
    *,
    optimizer: Optimizer,
    code: Code,
    steps: int,
    batch: int | Literal["full"] = 32,
    digests: bool = True,
    exclude: bool = False,
    forges: Forges = "gradients",
    learning_rate: LearningRate = constant,
) -> Tensor:
    """Train for a number of steps.

    Args:
        code: which batches each worker holds, what it answers, and what answers come to.
        steps: how many steps, at least 1.
        batch: samples per batch, of which there are as many as workers; "full": all batches together are all samples.
        digests: where the code votes, have workers vote by digests, and send what has won once; else all send their
            answers.
        exclude: have no worker take part any more that has been convicted once.
        forges: what those say otherwise who carry out an attack: "gradients": each, before it is encoded; "answer":
            what is made of them; "upload": what they send after an honest vote.
        learning_rate: factor of the optimizer's learning rate.

    Returns:
        The parameters (d,), equal on all workers to the bit.

    Raises:
        RunError: if more answers are wrong than the code can withstand, and that can be seen.
    """
    size, hostility, replicas = node.size, exchange.hostility, training.replicas
    update = optimizer.update(training.layout)
    initial = training.initial()
    held = code.batches(size, node.rank)
    emits = code.encode([torch.zeros_like(initial) for _ in held], size, node.rank).to("meta")
    none = torch.zeros(size, dtype=torch.int64)
    start, shared, _ = node.restore({"parameters": initial, "optimizer": {}, "convictions": none}, {})
    parameters, state, convictions = (
        leaf(shared, "parameters"),
        branch(shared, "optimizer"),
        leaf(shared, "convictions"),
    )
    for step in range(start, steps):
        at = At(step, node.rank, size, training.rand)
        out = frozenset(convictions.nonzero().flatten().tolist()) if exclude else frozenset()
        batches = replicas.batches(step, size, batch)
        loss, answer, upload = nan, None, None
        if node.rank not in out:
            coming = [
                node.compute(replicas.take, parameters, batches, number, samples=batches[number].size)
                for number in held
            ]
            taken = [await each for each in coming]
            loss = sum(value * batches[number].size for number, (value, _) in zip(held, taken, strict=True))
            loss /= sum(batches[number].size for number in held)
            if hostility is not None and node.rank in hostility.at(step, size):
                answer, upload = await node.compute(
                    answer_and_upload, hostility, forges, code, replicas, parameters, batches, held, at
                )
            else:
                answer = upload = await node.compute(code.encode, [each for _, each in taken], size, node.rank)
        if digests and isinstance(code, Votes) and code.by_digest:
            decoded = await decoded_by_vote(node, code, answer, upload, emits, len(held), out)
        else:
            decoded = await decoded_from_all(node, code, upload, emits, initial, out)
        if node.rank == 0 and exchange.judged is not None:
            exchange.judged(_judgement(decoded, at, out))
        convictions = convictions.clone()
        convictions[list(decoded.convicted)] += 1
        factor = learning_rate(step, size)
        parameters, state = await node.compute(update, parameters, decoded.mean, state, factor, donate=True)
        told = {"convicted": float(len(decoded.convicted)), "excluded": float(len(out))}
        node.commit(
            step + 1, loss, {"parameters": parameters, "optimizer": state, "convictions": convictions}, {}, told
        )
    return parameters


def _judgement(decoded: Decoded, at: At, out: frozenset[int]) -> Judgement:
    """Return infinite scores of those that have been convicted in a step, and 1 of the others that took part."""
    ranks = tuple(rank for rank in range(at.size) if rank not in out)
    return Judgement(at, ranks, lambda: tuple(inf if rank in decoded.convicted else 1.0 for rank in ranks))
