"""Codecs of workers that meet all together: what one of them says can't be decoded without what the others say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NoReturn

from torch import Tensor

from quorate.codecs import Plain, Side, State
from quorate.collectives import Collective
from quorate.node import Node
from quorate.rand import At
from quorate.wire import Incompatible, Wire, require


class Together(Plain, ABC):
    """What such codecs share: they stand alone on the wire, and find their own way through a meeting."""

    alone: ClassVar[bool] = True

    def wire(self, before: Wire) -> Wire:
        """Declare that messages are summed on their way."""
        require(
            before == Wire(),
            f"{self} sums messages of its own on their way, but is given what another codec has made",
            "leave out the other [[codec]]",
        )
        return before

    @abstractmethod
    async def meet(
        self, node: Node, update: Tensor, state: State, at: At, share: float, collective: Collective
    ) -> tuple[Tensor, State]:
        """See `quorate.exchange.Meeting`."""

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Refuse to say anything to one peer, or within another codec."""
        self._refuse()

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Refuse, as `encode` does."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise Incompatible(
            f"{self} needs all workers to meet, and to be the only codec: one worker's message can't be decoded alone",
            'leave out the other [[codec]], and take a program whose workers all meet, such as "synchronous_sgd"',
        )
