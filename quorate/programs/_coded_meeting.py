"""How the answers of a redundancy code get to everybody: all, or digests first and then one of each majority."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from quorate.codes import Code, Decoded
from quorate.errors import RunError
from quorate.node import Heard, Node
from quorate.votes import DIGEST_BYTES, Vote, digest
from quorate.wire import Message, Ragged

T = TypeVar("T")


@runtime_checkable
class Votes(Protocol):
    """A code whose workers vote in groups, of which digests can be enough."""

    @property
    def by_digest(self) -> bool:
        """Whether they are."""

    def vote(self, digests: Sequence[Tensor | None]) -> Vote:
        """Return who agrees, of digests (32,) of all workers' answers; None of who has said nothing."""

    def mean(self, won: Sequence[Tensor]) -> Tensor:
        """Return the mean (d,) of all batches' gradients, of what has won in each group, in their order."""


async def decoded_from_all(
    node: Node, code: Code, answer: Tensor | None, emits: Tensor, like: Tensor, ignored: Collection[int]
) -> Decoded:
    """Say an answer to everybody, and decode what all have said.

    Args:
        answer: this worker's; None: it says nothing.
        emits: an answer's shape (m,) and dtype.
        like: (d,), of the gradients' dtype.
        ignored: whose answers are not listened to.
    """
    heard = await node.all_gather(*_message(answer, emits))
    return await node.compute(_once, heard, lambda: code.decode(_said(heard, ignored), like), code)


async def decoded_by_vote(
    node: Node, code: Votes, answer: Tensor | None, upload: Tensor | None, emits: Tensor, ignored: Collection[int]
) -> Decoded:
    """Vote by digests; then the first worker of each group's majority sends what has won to everybody.

    If what it sends has not the digest that it has voted for, it is convicted, and the next one of the majority sends.

    Args:
        answer: this worker's; None: it says nothing.
        upload: what it sends when it is asked for its answer, which is the answer if it is honest.
        emits: an answer's shape (m,) and dtype.
        ignored: whose votes are not listened to.

    Raises:
        RunError: naming the group, if one has no majority, or nobody of it sends what has won.
    """
    vote = None if answer is None else await node.compute(digest, answer)
    heard = await node.all_gather(*_message(vote, torch.empty(DIGEST_BYTES, dtype=torch.uint8)))
    votes = _said(heard, ignored)
    sound = [each if each is not None and len(each) == DIGEST_BYTES else None for each in votes]
    wrong = {rank for rank, each in enumerate(votes) if each is not None and sound[rank] is None}
    counted = await node.compute(_once, heard, lambda: code.vote(sound), code)
    groups = len(counted.majorities)
    won: dict[int, Tensor] = {}
    for turn in range(max(map(len, counted.majorities))):
        senders = {
            group: party[turn]
            for group, party in enumerate(counted.majorities)
            if group not in won and turn < len(party)
        }
        sent = await node.all_gather(*_message(upload if node.rank in senders.values() else None, emits))
        opened = partial(_opened, code, won, sent, senders, sound, groups)
        won, mean = await node.compute(_once, sent, opened, code)
        wrong |= {rank for group, rank in senders.items() if group not in won}
        if mean is not None:
            return Decoded(mean, tuple(sorted({*counted.convicted, *wrong})))
    lost = next(group for group in range(groups) if group not in won)
    ranks = ", ".join(map(str, counted.majorities[lost]))
    raise RunError(
        f"all of group {lost} who agree (ranks {ranks}) have sent something else than they have voted for",
        "a larger `s` in [code], in larger groups",
    )


def _opened(
    code: Votes,
    won: Mapping[int, Tensor],
    sent: Sequence[Message],
    senders: Mapping[int, int],
    votes: Sequence[Tensor | None],
    groups: int,
) -> tuple[dict[int, Tensor], Tensor | None]:
    """Return what has won, by group, as far as it has come; and the mean if nothing is missing."""
    found = {group: sent[rank][0] for group, rank in senders.items() if _has(sent[rank][0], votes[rank])}
    whole = {**won, **found}
    return whole, code.mean([whole[group] for group in range(groups)]) if len(whole) == groups else None


def _message(said: Tensor | None, emits: Tensor) -> tuple[Ragged, Ragged]:
    """Return a message of a tensor, or of no rows, and what all such messages look like at most."""
    return Ragged((emits.new_empty(0, device="cpu") if said is None else said,)), Ragged((emits.to("meta"),))


def _said(heard: Sequence[Message], ignored: Collection[int]) -> list[Tensor | None]:
    return [None if rank in ignored or not len(each) else each for rank, (each,) in enumerate(heard)]


def _has(answer: Tensor, voted: Tensor | None) -> bool:
    return voted is not None and torch.equal(digest(answer), voted)


def _once(heard: Sequence[Message], make: Callable[[], T], *by: object) -> T:
    """Make something of what was heard, unless another worker of the simulation, which was handed the same, has."""
    return heard.once(make, *by) if isinstance(heard, Heard) else make()
