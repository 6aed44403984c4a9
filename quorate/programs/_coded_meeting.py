"""How the answers of a redundancy code get to everybody: all, or digests first, and then what has won once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import pairwise
from operator import sub
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from quorate.codes import Code, Decoded
from quorate.node import Heard, Node
from quorate.votes import DIGEST_BYTES, Vote, digest
from quorate.wire import Message, Ragged

T = TypeVar("T")

Piece = tuple[int, int]
"""A group, and the number of a piece of its answer."""


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
    node: Node,
    code: Votes,
    answer: Tensor | None,
    upload: Tensor | None,
    emits: Tensor,
    pieces: int,
    ignored: Collection[int],
) -> Decoded:
    """Vote by digests of an answer's pieces; then each worker of a majority sends some of these to everybody.

    If a piece has not the digest that has been voted for, its sender is convicted, and another one of the majority
    sends it. So all links of a group are used at once, and what has won is sent once. A piece that nobody of a majority
    sends counts as NaN.

    Args:
        answer: this worker's; None: it says nothing.
        upload: what it sends when it is asked for its answer, which is the answer if it is honest.
        emits: an answer's shape (m,) and dtype.
        pieces: into how many an answer is cut, at least 1.
        ignored: whose votes are not listened to.

    Raises:
        RunError: if more answers are wrong than the code can withstand, and that can be seen.
    """
    ends = _ends(len(emits), pieces)
    said = None if answer is None else await node.compute(_digests, answer, ends)
    heard = await node.all_gather(*_message(said, torch.empty(pieces * DIGEST_BYTES, dtype=torch.uint8)))
    votes = _said(heard, ignored)
    sound = [each if each is not None and len(each) == pieces * DIGEST_BYTES else None for each in votes]
    wrong = {rank for rank, each in enumerate(votes) if each is not None and sound[rank] is None}
    counted = await node.compute(
        _once, heard, lambda: code.vote([None if each is None else digest(each) for each in sound]), code
    )
    groups, won = len(counted.majorities), dict[Piece, Tensor]()
    turns = max(map(len, counted.majorities))
    mean: Tensor | None = None
    for turn in range(turns):
        asked = _asked(counted.majorities, pieces, won, turn)
        sent = await node.all_gather(*_message(_cut(upload, asked.get(node.rank, ()), ends), emits))
        opened = partial(_opened, code, won, sent, asked, sound, ends, groups, turn == turns - 1)
        won, mean = await node.compute(_once, sent, opened, code)
        wrong |= {rank for rank, mine in asked.items() if any(piece not in won for piece in mine)}
        if mean is not None:
            break
    assert mean is not None
    return Decoded(mean, tuple(sorted({*counted.convicted, *wrong})))


def _ends(length: int, pieces: int) -> list[int]:
    """Return where the pieces of an answer begin, and the last one ends."""
    return [length * piece // pieces for piece in range(pieces + 1)]


def _digests(answer: Tensor, ends: Sequence[int]) -> Tensor:
    """Return the digests of an answer's pieces, (32 pieces,), uint8; of an answer of any length."""
    return torch.cat([digest(answer[first:last]) for first, last in pairwise([*ends[:-1], len(answer)])])


def _asked(
    majorities: Sequence[Sequence[int]], pieces: int, won: Collection[Piece], turn: int
) -> dict[int, list[Piece]]:
    """Return which missing pieces each worker is to send; at every turn, other ones of a majority."""
    asked: dict[int, list[Piece]] = {}
    for group, party in enumerate(majorities):
        for piece in range(pieces):
            if (group, piece) not in won and turn < len(party):
                asked.setdefault(party[(piece + turn) % len(party)], []).append((group, piece))
    return asked


def _cut(upload: Tensor | None, mine: Sequence[Piece], ends: Sequence[int]) -> Tensor | None:
    if upload is None or not mine:
        return None
    return torch.cat([upload[ends[piece] : ends[piece + 1]] for _, piece in mine])


def _opened(
    code: Votes,
    won: Mapping[Piece, Tensor],
    sent: Sequence[Message],
    asked: Mapping[int, Sequence[Piece]],
    votes: Sequence[Tensor | None],
    ends: Sequence[int],
    groups: int,
    last: bool,
) -> tuple[dict[Piece, Tensor], Tensor | None]:
    """Return what has won, as far as it has come; and the mean if nothing is missing, or if nothing more will come."""
    whole = dict(won)
    for rank, mine in asked.items():
        lengths = [ends[piece + 1] - ends[piece] for _, piece in mine]
        voted = votes[rank]
        if len(sent[rank][0]) != sum(lengths) or voted is None:
            continue
        for (group, piece), part in zip(mine, sent[rank][0].split(lengths), strict=True):
            if torch.equal(digest(part), voted[piece * DIGEST_BYTES : (piece + 1) * DIGEST_BYTES]):
                whole[group, piece] = part
    pieces = len(ends) - 1
    if len(whole) < groups * pieces and not last:
        return whole, None
    emits = sent[0][0]
    lost = [emits.new_full((length,), torch.nan) for length in map(sub, ends[1:], ends[:-1])]
    answers = [
        torch.cat([whole.get((group, piece), lost[piece]) for piece in range(pieces)]) for group in range(groups)
    ]
    return whole, code.mean(answers)


def _message(said: Tensor | None, emits: Tensor) -> tuple[Ragged, Ragged]:
    """Return a message of a tensor, or of no rows, and what all such messages look like at most."""
    return Ragged((emits.new_empty(0, device="cpu") if said is None else said,)), Ragged((emits.to("meta"),))


def _said(heard: Sequence[Message], ignored: Collection[int]) -> list[Tensor | None]:
    return [None if rank in ignored or not len(each) else each for rank, (each,) in enumerate(heard)]


def _once(heard: Sequence[Message], make: Callable[[], T], *by: object) -> T:
    """Make something of what was heard, unless another worker of the simulation, which was handed the same, has."""
    return heard.once(make, *by) if isinstance(heard, Heard) else make()
