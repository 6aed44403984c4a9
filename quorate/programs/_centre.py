"""A centre that rank 0 keeps for workers that come to it one at a time, whenever they get there.

What they tell it is encoded; what it answers is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quorate.codecs import State
from quorate.exchange import Exchange
from quorate.node import Departed, Node
from quorate.programs._rest import HOST
from quorate.programs._server import clock_of, with_clock
from quorate.rand import At, Rand

PUSH, PULL, LAST = 1, 2, 3

Meet = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Map the centre and what a worker tells, both (d,), to the answer and the new centre."""


class Centre:
    """What the workers share.

    Args:
        exchange: by which the workers tell something.
        start: steps that all workers have done.
        steps: that each will have done when it comes for the last time.
    """

    def __init__(
        self, node: Node, exchange: Exchange, rand: Rand, value: Tensor, meet: Meet, start: int, steps: int
    ) -> None:
        self._node, self._exchange, self._rand = node, exchange, rand
        self.value, self._meet, self._steps = value, meet, steps
        self._clocks = dict.fromkeys(range(node.size), start)

    async def serve(self) -> None:
        """Meet one worker after the other, until all have come for the last time or left; on rank 0."""
        answers: dict[int, Any] = {}
        like = with_clock(self._exchange.emits(self.value), 0)
        while any(clock < self._steps for clock in self._clocks.values()):
            try:
                src, (*said, added) = await self._node.recv(None, like, PUSH)
                clock = clock_of(added, src)
                if src in answers:
                    await answers.pop(src)
                at = At(clock - 1, src, self._node.size, self._rand)
                told = self._exchange.hear(tuple(said), self.value, at)
                answer, self.value = self._meet(self.value, told)
                answers[src] = self._node.send(src, (answer,), PULL)
                self._clocks[src] = clock
            except Departed as gone:
                self._clocks.pop(gone.rank, None)
        await _delivered(list(answers.values()))

    async def tell_all(self) -> Tensor:
        """Return the last centre on every rank; all that are left call this at their end."""
        if self._node.rank != HOST:
            return (await self._node.recv(HOST, (self.value,), LAST))[1][0]
        await _delivered([self._node.send(rank, (self.value,), LAST) for rank in range(1, self._node.size)])
        return self.value


async def visit(node: Node, exchange: Exchange, told: Tensor, state: State, at: At) -> tuple[Tensor, State]:
    """Tell the centre (d,) something, which is given away; return its answer (d,), and the codec's new state."""
    like = torch.empty_like(told)
    message, state = exchange.say(told, state, at)
    coming = node.recv(HOST, (like,), PULL)
    await node.send(HOST, with_clock(message, at.step + 1), PUSH)
    return (await coming)[1][0], state


async def _delivered(sent: list[Any]) -> None:
    for every in sent:
        try:
            await every
        except Departed:
            continue
