"""A parameter server's part of a program: one range of the parameters, and when whose update is applied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import torch
from torch import Tensor

from quorate.errors import RunError
from quorate.exchange import Exchange
from quorate.node import Departed, Node
from quorate.programs._workers import Workers
from quorate.rand import At, Rand
from quorate.trees import Tree, map_tree
from quorate.wire import Message

PUSH, PULL, LAST = 1, 2, 3


def with_clock(message: Message, clock: int) -> Message:
    """Return a message, ragged or not, that also says how many updates its sender has pushed."""
    return type(message)((*message, torch.tensor([clock])))


def clock_of(said: Tensor, src: int) -> int:
    """Return what `with_clock` added to a worker's message.

    Raises:
        RunError: if it is not one number.
    """
    if said.numel() != 1:
        raise RunError(f"rank {src} pushed an update with {said.numel()} clocks instead of one: the message is damaged")
    return int(said)


class Shard:
    """One server's range of the parameters.

    Bulk-synchronous, updates of one clock are combined in the order of ranks and make one step; otherwise each makes a
    step of its own, scaled by its worker's weight, so that a round of all workers moves plain SGD as far.

    Args:
        parameters: (d,), of this range.
        state: the optimizer's.
        update: (parameters, gradient, state, step) -> the new parameters and state; the old ones are given away.
        weights: of the workers, by rank; they sum to 1.
        start: all workers' clock; see `Workers`.
        steps: their clock at the end.
        staleness: how far a worker's clock may be ahead of the slowest one's when it is answered.
        backup: how many updates of a clock need not be waited for; only if staleness is 0.
        advanced: called with a clock that all workers have reached, in this order, and the optimizer's state then.
    """

    def __init__(
        self,
        node: Node,
        exchange: Exchange,
        update: Callable[[Tensor, Tensor, Tree, int], Awaitable[tuple[Tensor, Tree]]],
        parameters: Tensor,
        state: Tree,
        *,
        rand: Rand,
        weights: Mapping[int, float],
        start: int,
        steps: int,
        staleness: float,
        backup: int,
        advanced: Callable[[int, Tree], None] | None = None,
    ) -> None:
        self._node, self._exchange, self._update = node, exchange, update
        self.parameters, self.state = parameters, state
        self.rested: Tree = state
        """The optimizer's state when all workers were last at rest."""
        self._rand, self._weights, self._advanced = rand, dict(weights), advanced
        self._steps, self._staleness, self._backup = steps, staleness, backup
        self._workers = Workers(node, weights, start, steps, staleness)

    async def serve(self, until: int) -> None:
        """Take pushes, and answer them, until no worker's clock is below `until`."""
        like = with_clock(self._exchange.emits(self.parameters), until)
        workers = self._workers
        while workers.clocks and workers.slowest < until:
            try:
                src, (*said, clock) = await self._node.recv(None, like, PUSH)
                await self._pushes(src, tuple(said), clock_of(clock, src))
            except Departed as gone:
                workers.forget(gone.rank)
            await self._go_on()
        if until == self._steps or not self._staleness:
            await workers.delivered()

    async def _pushes(self, src: int, said: tuple[Tensor, ...], clock: int) -> None:
        workers = self._workers
        await workers.delivered(src)
        if src not in workers.clocks:
            return
        workers.asks(src, clock)
        if self._staleness == 0 and clock <= workers.reached:
            return  # its round went on without it
        at = At(clock - 1, src, self._node.size, self._rand)
        heard = self._exchange.hear(said, self.parameters, at)
        if self._staleness == 0:
            workers.pushed[src] = heard
            return
        workers.clocks[src] = clock
        combined = self._exchange.combine([heard], [1.0], at, [src])
        share = self._weights[src] / sum(self._weights[rank] for rank in workers.clocks)
        await self._step(combined * share if share != 1 else combined, clock - 1)

    async def _go_on(self) -> None:
        """Step if a round is complete; answer whom the slowest worker does not hold up any more."""
        workers = self._workers
        if self._staleness == 0 and workers.clocks:
            missing = len(workers.clocks) - len(workers.pushed)
            if missing <= (0 if workers.rests(workers.reached + 1) else self._backup) and workers.pushed:
                await self._round()
        for clock in workers.advance():
            if workers.rests(clock):
                self.rested = self.state
            if self._advanced is not None:
                self._advanced(clock, self.state)
        for rank in workers.due():
            workers.answer(rank, (self.parameters, torch.tensor([workers.reached])), PULL)

    async def _round(self) -> None:
        workers = self._workers
        present = sorted(workers.pushed)
        whole = sum(self._weights[rank] for rank in present)
        combined = self._exchange.combine(
            [workers.pushed[rank] for rank in present],
            [self._weights[rank] / whole for rank in present],
            At(workers.reached, 0, self._node.size, self._rand),
            present,
        )
        workers.pushed = {}
        await workers.delivered()
        await self._step(combined, workers.reached)
        workers.clocks = dict.fromkeys(workers.clocks, workers.reached + 1)

    async def _step(self, gradient: Tensor, step: int) -> None:
        parameters, state = self.parameters, self.state
        if self._staleness:  # answers with the last ones may be on their way still
            parameters, state = parameters.clone(), map_tree(Tensor.clone, state)
        self.parameters, self.state = await self._update(parameters, gradient, state, step)
