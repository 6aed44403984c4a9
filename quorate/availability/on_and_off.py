"""Each client comes and goes by chance: a Markov process of two states, with exponential times in each."""

from __future__ import annotations

from bisect import bisect_right
from math import inf, nextafter
from random import Random

from quorate.cluster import Seconds
from quorate.errors import RecipeError
from quorate.rand import Rand


class Switching:
    """A client that comes and goes, from time 0 on; it begins in the process's stationary state.

    Args:
        up: mean seconds in which it is there.
        down: mean seconds in which it is not.
    """

    def __init__(self, up: float, down: float, chance: Random) -> None:
        self._up, self._down, self._chance = up, down, chance
        self._first = chance.random() < up / (up + down)
        self._changes = [0.0]

    def present(self, time: float) -> bool:
        """See `Presence`."""
        return self._first == (self._so_far(time) % 2 == 0)

    def next_change(self, time: float) -> float:
        """See `Presence`."""
        return self._changes[self._so_far(time) + 1]

    def _so_far(self, time: float) -> int:
        """Return how many changes there were until a time, of which so many, and one more, have been drawn."""
        while self._changes[-1] <= time:
            there = self._first == (len(self._changes) % 2 == 1)
            seconds = self._chance.expovariate(1 / (self._up if there else self._down))
            self._changes.append(max(self._changes[-1] + seconds, nextafter(self._changes[-1], inf)))
        return max(0, bisect_right(self._changes, time) - 1)


def on_and_off(client: int, rand: Rand, *, up: Seconds = 3_600.0, down: Seconds = 3_600.0) -> Switching:
    """Let each client come and go on its own.

    Args:
        up: mean seconds in which it is there.
        down: mean seconds in which it is not.

    Raises:
        RecipeError: if one of them is 0.
    """
    if up <= 0 or down <= 0:
        raise RecipeError(f"`up` and `down` are mean seconds, above 0; got {up:g} and {down:g}", 'up = "1 h"')
    return Switching(up, down, Random(rand.fold("availability", client).seed))
