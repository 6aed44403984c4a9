"""Where a program runs: each engine gives it a `Node`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from quorate.errors import QuorateError, RunError
from quorate.trees import Tree


class Recorder(Protocol):
    """What an engine tells of a run, and asks when the run is resumed."""

    def restore(self, rank: int, shared: Tree, own: Tree) -> tuple[int, Tree, Tree]:
        """Return the steps done and the state of a rank: the given one, or a checkpoint's."""

    def saves(self, step: int) -> bool:
        """Return whether a checkpoint is taken at a step."""

    def evaluates(self, step: int) -> bool:
        """Return whether the parameters are evaluated at a step."""

    def commit(
        self,
        rank: int,
        step: int,
        now: float,
        loss: float,
        shared: Tree,
        own: Tree,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Take note that a rank has done a step."""

    def leave(self, rank: int, now: float) -> None:
        """Take note that a rank has left and will do no further step."""


class Forgetful:
    """A recorder that keeps nothing."""

    def restore(self, rank: int, shared: Tree, own: Tree) -> tuple[int, Tree, Tree]:
        """Start from the beginning."""
        return 0, shared, own

    def saves(self, step: int) -> bool:
        """Keep nothing."""
        return False

    def evaluates(self, step: int) -> bool:
        """Keep nothing."""
        return False

    def commit(
        self,
        rank: int,
        step: int,
        now: float,
        loss: float,
        shared: Tree,
        own: Tree,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Forget."""

    def leave(self, rank: int, now: float) -> None:
        """Forget."""


class PeerError(RunError):
    """Another rank is late or gone; not this rank's own fault."""


def after(seconds: float) -> str:
    """Say how long a call had been waiting when it failed; a peer that has gone before is noticed at once."""
    return f"after {seconds:.1f} s" if seconds >= 0.1 else "at once"


def stopped(rank: int, step: int, error: QuorateError) -> RunError:
    """Say at which rank and step a run has stopped. `step` counts from 1."""
    return RunError(f"rank {rank}, step {step}: {error.problem}", error.hint)
