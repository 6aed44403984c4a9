"""Which of the clients that are present are asked in a round.

A selection is a function in a file of its name, `(candidates, count, rand, known, *, ...) -> chosen`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from quorate.rand import Rand


@dataclass(frozen=True)
class Known:
    """What the server knows of its clients, by number; of some it knows nothing.

    Args:
        samples: how many they have.
        losses: the last training losses they told.
        seconds: how long their last replies took, from the moment when they were asked.
        rates: local steps a second that this comes to; of one that was late, what it can hardly have had.
        times: how often they were asked.
        since: when they were asked last, in seconds of the server's clock.
    """

    samples: Mapping[int, float] = field(default_factory=dict)
    losses: Mapping[int, float] = field(default_factory=dict)
    seconds: Mapping[int, float] = field(default_factory=dict)
    rates: Mapping[int, float] = field(default_factory=dict)
    times: Mapping[int, float] = field(default_factory=dict)
    since: Mapping[int, float] = field(default_factory=dict)


class Selection(Protocol):
    """A choice of clients."""

    def __call__(self, candidates: Sequence[int], count: int, rand: Rand, known: Known) -> list[int]:
        """Return `count` different candidates, ascending; all, if there are no more.

        Args:
            candidates: ascending.
            count: at least 1.
            rand: the round's stream; equal arguments give the same choice.
            known: of any clients.
        """
