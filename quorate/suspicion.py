"""How far each worker's update is from what all have come to: whom to look at.

The score of a worker is the distance of its update from the combination, over the median of all distances: about 1 for
those that are like the others, large for those that are not, infinite for those that hold NaN or infinity. A high score
is no proof, as honest workers with rare data have high ones, too; and who lies just a little has a low one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from quorate.metrics_file import Metrics
from quorate.rand import At


@dataclass(frozen=True)
class Judgement:
    """The scores of those whose updates were combined.

    Args:
        at: when; its rank is who has combined them.
        ranks: whose updates they were.
        found: returns a score for each, at least 0; called only by who wants them, as it passes over all updates.
        alone: by one worker for itself, rather than by all or by a server.
    """

    at: At
    ranks: tuple[int, ...]
    found: Callable[[], tuple[float, ...]]
    alone: bool = False

    @cached_property
    def scores(self) -> tuple[float, ...]:
        """One for each of `ranks`."""
        return self.found()


def scores(updates: Tensor, combined: Tensor) -> tuple[float, ...]:
    """Return the scores of updates (n, d) that were combined to (d,); passes over them once."""
    distances = [float(torch.linalg.vector_norm((each - combined).double())) for each in updates]
    finite = sorted(each for each in distances if math.isfinite(each))
    middle = finite[len(finite) // 2] if finite else 0.0
    return tuple(
        math.inf if not math.isfinite(each) else each / middle if middle > 0 else float(each > 0) for each in distances
    )


class Suspects:
    """Writes scores, every so many steps, into `suspects.jsonl`: the highest that anyone has given each worker.

    Args:
        folder: the run's.
        writer: the rank whose process this is; 0 is of all of a simulation. Others than 0 write into a file of their
            own what nobody else has seen, and only that.
        every: steps between two lines.
        after: the steps done when a resumed run goes on.
    """

    def __init__(self, folder: Path, writer: int, every: int, after: int) -> None:
        self._path = folder / (f"suspects-{writer}.jsonl" if writer else "suspects.jsonl")
        self._writer, self._every, self._after = writer, every, after
        self._file: Metrics | None = None
        self._step, self._scores = 0, dict[int, float]()

    def judge(self, judgement: Judgement) -> None:
        """Take note of scores."""
        step, at = judgement.at.step + 1, judgement.at
        if step % self._every or (self._writer and not judgement.alone and at.rank == self._writer):
            return
        if step != self._step:
            self._write()
            self._step, self._scores = step, {}
        for rank, score in zip(judgement.ranks, judgement.scores, strict=True):
            self._scores[rank] = max(score, self._scores.get(rank, 0.0))

    def _write(self) -> None:
        if not self._scores:
            return
        if self._file is None:
            self._file = Metrics(self._path, None, self._after)
        told = {str(rank): None if math.isinf(score) else round(score, 4) for rank, score in self._scores.items()}
        self._file.write({"step": self._step, "scores": dict(sorted(told.items(), key=lambda each: int(each[0])))})

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._write()
        self._scores = {}
        if self._file is not None:
            self._file.close()
