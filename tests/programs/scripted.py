"""A server whose clients do what a script says, on a virtual clock, and small federations to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import torch

from quorate.engines import Forgetful
from quorate.federated import Answer, Gone, Request
from quorate.optimizer import Optimizer
from quorate.trees import Tree, map_tree
from tests.tiny import training

SIZE = 6
MADE = training(size=SIZE)
SGD = Optimizer("sgd", {"lr": 0.1})


class Does(NamedTuple):
    """What a client does when it is asked: after so many seconds, `what`; None: nothing, for ever."""

    after: float
    what: Answer | Gone | None


def answer(client: int, request: Request, value: float = 1.0, **numbers: float) -> Answer:
    """Return a reply whose update holds one value."""
    told = {"samples": 10.0, "steps": 2.0, "loss": 1.0, **numbers}
    return Answer(client, request.round, {"update": (torch.full((MADE.layout.numel,), value),)}, told)


def well(client: int, request: Request) -> Does:
    """Reply after a second."""
    return Does(1.0, answer(client, request))


class Scripted:
    """A server.

    Args:
        script: what a client does when it is asked.
        comes: seconds from which each client is there; inf for never.
        asked: before a crash, by round; `kept`: replies accepted then.
        told: what clients tell of themselves.
    """

    def __init__(
        self,
        script: Callable[[int, Request], Does] = well,
        comes: Sequence[float] = (0.0,) * SIZE,
        *,
        asked: Mapping[int, Sequence[int]] | None = None,
        kept: Sequence[Answer] = (),
        told: Callable[[int], Mapping[str, float]] = lambda client: {"samples": 10.0},
        recorder: Any = None,
    ) -> None:
        self.size, self.clock, self._script, self._comes, self._told = len(comes), 0.0, script, comes, told
        self._asked, self._kept = asked or {}, list(kept)
        self._recorder = recorder or Forgetful()
        self._busy: dict[int, tuple[float, int, Does]] = {}
        self.requests: list[tuple[int, Request]] = []
        self.taken: list[tuple[int, int]] = []
        self.refused: list[tuple[int, str, bool]] = []
        self.released: list[int] = []
        self.commits: list[tuple[float, list[tuple[int, int]], Tree, Mapping[str, float]]] = []

    def now(self) -> float:
        return self.clock

    def present(self) -> Sequence[int]:
        return [each for each in range(self.size) if self._comes[each] <= self.clock and each not in self._busy]

    def facts(self, client: int) -> Mapping[str, float]:
        return self._told(client)

    async def arrivals(self, until: float) -> bool:
        first = min((time for time in self._comes if time > self.clock), default=inf)
        ends = min((due for due, _, does in self._busy.values() if does.what is not None), default=inf)
        if min(first, ends) > until or min(first, ends) == inf:
            self.clock = max(self.clock, until)
            return False
        self.clock = max(self.clock, min(first, ends))
        return first <= self.clock

    def ask(self, clients: Sequence[int], request: Request) -> None:
        for client in clients:
            if client not in self._busy:
                self.requests.append((client, request))
                does = self._script(client, request)
                self._busy[client] = self.clock + does.after, len(self.requests), does

    async def reply(self, until: float = inf) -> Answer | Gone | None:
        ready = sorted((due, order, client) for client, (due, order, does) in self._busy.items() if does.what)
        if not ready or ready[0][0] > until:
            assert until < inf or not self._busy, "the program would wait for ever"
            if self._busy:
                self.clock = max(self.clock, until)
            return None
        due, _, client = ready[0]
        self.clock = max(self.clock, due)
        return self._busy.pop(client)[2].what

    def accept(self, reply: Answer) -> None:
        self.taken.append((reply.client, reply.round))

    def refuse(self, reply: Answer, why: str, hostile: bool = False) -> None:
        self.refused.append((reply.client, why, hostile))

    def release(self, clients: Sequence[int], round: int) -> None:
        for client in clients:
            if client in self._busy:
                del self._busy[client]
                self.released.append(client)

    def asked(self, round: int) -> Sequence[int]:
        return self._asked.get(round, ())

    def accepted(self) -> Sequence[Answer]:
        return self._kept

    def restore(self, state: Tree) -> tuple[int, Tree]:
        done, found, _ = self._recorder.restore(0, state, {})
        return done, found

    def commit(self, round, loss, state, used, metrics=None) -> None:
        whose = [(reply.client, reply.round) for reply in used]
        self.commits.append((self.clock, whose, map_tree(torch.Tensor.clone, state), dict(metrics or {})))

    def saves(self, round: int) -> bool:
        return True


class Done:
    """A recorder that goes on after some rounds, from a state."""

    def __init__(self, rounds: int, state: Tree) -> None:
        self._rounds, self._state = rounds, state

    def restore(self, rank, shared, own):
        return self._rounds, self._state, own


def run(program: Callable[..., Any], server: Scripted, **settings: Any) -> torch.Tensor:
    """Run a program on a scripted server, and return the parameters."""
    from quorate.exchange import Exchange

    coroutine = program(server, MADE, settings.pop("exchange", Exchange()), optimizer=SGD, **settings)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it awaits what is no call on its server")
