"""What a client of a federation across machines brings along: who it is, and how it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from quorate.engines.federation_blobs import Blob, opened
from quorate.engines.federation_frames import Ask, Offer
from quorate.engines.federation_home import Home
from quorate.federated import Answer, Request
from quorate.trees import Tree
from quorate.wire import Message


class Bearer(Protocol):
    """What a client shows to the server, as PEM, and where that is."""

    @property
    def key(self) -> bytes:
        """Its private key."""

    @property
    def cert(self) -> bytes:
        """Its certificate."""

    @property
    def ca(self) -> bytes:
        """Whose certificate it believes."""

    @property
    def number(self) -> int:
        """Its own, from 0."""

    @property
    def addresses(self) -> Sequence[str]:
        """HOST:PORT of the server, tried in order."""


@dataclass(frozen=True)
class Part:
    """What a client brings along.

    Args:
        answer: `(memory, request) -> (memory, answer)`; it runs in a thread.
        limits: tensors like those of a broadcast, by the kind of request; raises QuorateError for an unknown kind.
        configuration: hashes of the recipe's parts, by key.
        facts: about the client: `samples`, ...
    """

    answer: Callable[[Tree, Request], tuple[Tree, Answer]]
    limits: Callable[[str], Mapping[str, Message]]
    configuration: Mapping[str, str]
    facts: Mapping[str, float]


def answered(part: Part, home: Home, ask: Ask, content: Tensor, chunk: int) -> Offer:
    """Work out a request that has come in, and keep the reply; see `worked_out`.

    Args:
        content: (n,) of uint8, the bytes of its tensors.
    """
    request = Request(ask.round, opened(ask.tensors, content), ask.numbers, ask.what)
    return worked_out(part, home, ask.id, request, chunk)


def worked_out(part: Part, home: Home, id: str, request: Request, chunk: int) -> Offer:
    """Work a request out, and keep the reply; it may take long.

    Args:
        id: of the request.
        chunk: bytes in which the reply travels.

    Raises:
        QuorateError: if the task fails.
    """
    after, answer = part.answer(home.memory(), request)
    blob = Blob(answer.messages, chunk)
    offer = Offer(
        id=id,
        round=request.round,
        what=request.kind,
        numbers=dict(answer.numbers),
        tensors=blob.specs,
        bytes=blob.bytes,
        sha256=blob.sha256,
        start=0,
    )
    home.keep(offer, blob, after)
    return offer
