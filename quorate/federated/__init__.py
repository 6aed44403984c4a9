"""Federated training in words: what a server asks of clients, what they reply, and what an algorithm says on each side.

A client sleeps for hours between two rounds, so it is no program that waits but a function: `(memory, request) ->
(memory, reply)`. Only the server is a program, over `Server`. What a server has not accepted has not happened: a client
keeps the memory from before until it learns that its reply was accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Protocol

from quorate.errors import RunError
from quorate.trees import Tree
from quorate.wire import Message, size_in_bytes


@dataclass(frozen=True)
class Request:
    """What a server asks of a client.

    Args:
        round: counted from 0; of an asynchronous server, the version of its model.
        tensors: what is broadcast, by name, encoded; the same for all clients of the round.
        numbers: e.g. `factor`, of the learning rate.
        kind: "train", or another question that the client answers (`quorate/federated/client.py`).
    """

    round: int
    tensors: Mapping[str, Message]
    numbers: Mapping[str, float] = field(default_factory=dict)
    kind: str = "train"

    @cached_property
    def bytes(self) -> int:
        """The bytes of what is broadcast, as sent."""
        return sum(size_in_bytes(message) for message in self.tensors.values())


class Reply(Protocol):
    """What a client answers; a real server keeps its tensors on the disk until they are asked for."""

    @property
    def client(self) -> int:
        """Whose it is."""

    @property
    def round(self) -> int:
        """Of the request that it answers."""

    @property
    def kind(self) -> str:
        """Of the request that it answers."""

    @property
    def numbers(self) -> Mapping[str, float]:
        """`samples` that the client has, local `steps` done, their mean `loss`, and what the algorithm adds."""

    def message(self, name: str) -> Message:
        """Return an update as it was encoded, by name."""


@dataclass(frozen=True)
class Answer:
    """A reply whose tensors are in memory."""

    client: int
    round: int
    messages: Mapping[str, Message]
    numbers: Mapping[str, float]
    kind: str = "train"

    def message(self, name: str) -> Message:
        """See `Reply`."""
        return self.messages[name]

    @cached_property
    def bytes(self) -> int:
        """The bytes of the updates, as sent."""
        return sum(size_in_bytes(message) for message in self.messages.values())


@dataclass(frozen=True)
class Gone:
    """A client that was asked will not reply: it has vanished, or what it sent could not be read.

    Args:
        why: in words, for the record.
        hostile: what it sent can't have come from a client that works.
    """

    client: int
    round: int
    why: str
    hostile: bool = False


class NobodyLeft(RunError):
    """All clients are gone, and none came back in time."""


class Server(Protocol):
    """The federation as its server's program sees it; every wait has an end.

    Clients have the numbers 0 .. size - 1. What is asked, accepted and refused survives a crash of the server.
    """

    @property
    def size(self) -> int:
        """The number of clients that there are, present or not."""

    def now(self) -> float:
        """Return seconds since the run began: virtual in the simulator, real elsewhere."""

    def present(self) -> Sequence[int]:
        """Return the clients that could be asked now, ascending: reachable, willing, and not busy with a request."""

    def facts(self, client: int) -> Mapping[str, float]:
        """Return what a client says of itself: `samples`, `memory` (bytes), ...; {} of one never seen."""

    async def arrivals(self, until: float) -> bool:
        """Wait until other clients are present than now; False if `until` (seconds of `now`) passes first."""

    def ask(self, clients: Sequence[int], request: Request) -> None:
        """Begin to ask clients.

        One that has answered this round's request before (see `asked`) is not asked again; one that is busy with an
        earlier request, which was not released, goes on with that. Requests of several calls in one round share their
        tensors, and may differ in their numbers.
        """

    async def reply(self, until: float = inf) -> Reply | Gone | None:
        """Wait for the next reply, to any request; None if `until` passes first, or nobody who was asked is left."""

    def accept(self, reply: Reply) -> None:
        """Keep a reply: from now on it is neither lost nor counted twice, and the client is told."""

    def refuse(self, reply: Reply, why: str, hostile: bool = False) -> None:
        """Drop a reply for a reason; it goes to the record, and the client is told."""

    def release(self, clients: Sequence[int], round: int) -> None:
        """Tell clients that their replies to a round are not wanted any more."""

    def asked(self, round: int) -> Sequence[int]:
        """Return who was asked in a round that has not been committed; not empty only where a run is resumed."""

    def accepted(self) -> Sequence[Reply]:
        """Return replies that were accepted but not used by a commit; not empty only where a run is resumed."""

    def restore(self, state: Tree) -> tuple[int, Tree]:
        """Return (rounds done, state): the given one, or the last commit's when a run is resumed."""

    def commit(
        self,
        round: int,
        loss: float,
        state: Tree,
        used: Sequence[Reply],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Declare a round done, all at once: the state is kept, and accepted replies that went into it are let go.

        Args:
            round: the number of rounds done, from 1.
            loss: mean training loss of the clients.
            state: of the server; `parameters` (d,) are what is evaluated.
            used: replies that went into the state.
            metrics: further numbers to record.
        """

    def saves(self, round: int) -> bool:
        """Return whether the state is kept when so many rounds are done; a real server keeps every one."""
