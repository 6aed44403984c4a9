"""When simulated clients are there: reachable, and willing to be asked; real ones say so themselves.

An availability is a function in a file of its name, `(client, rand, *, ...) -> Presence`.
"""

from __future__ import annotations

from typing import Protocol

from quorate.rand import Rand


class Presence(Protocol):
    """When one client is there; equal times give equal answers, in whatever order they are asked for."""

    def present(self, time: float) -> bool:
        """Return whether the client is there at so many seconds of the run's clock."""

    def next_change(self, time: float) -> float:
        """Return when the client comes or goes next, in seconds, later than `time`; inf for never."""


class Availability(Protocol):
    """The presence of every client."""

    def __call__(self, client: int, rand: Rand) -> Presence:
        """Return when a client is there; `rand` is the run's stream."""
