"""What a run writes while it goes on: metrics, evaluations and checkpoints, from the steps that ranks commit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from torch import Tensor

from quorate import checkpoint, named_state
from quorate.checkpoint import Checkpoint
from quorate.errors import QuorateError
from quorate.files import write_atomically
from quorate.flat import Layout
from quorate.histogram import Histograms
from quorate.metrics_file import Metrics, read_lines
from quorate.settings import RecordSettings
from quorate.sparse.training import SparseTraining
from quorate.suspicion import Suspects
from quorate.trace import Trace
from quorate.training import Training
from quorate.trees import Tree

Progress = Callable[[int, dict[str, float]], None]


@dataclass
class _Step:
    """What the ranks have told of a step that not all of them have done yet."""

    losses: dict[int, float] = field(default_factory=dict)
    now: float = 0.0
    bytes: int = 0
    parameters: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    shared: Tree = field(default_factory=dict)
    own: dict[int, Tree] = field(default_factory=dict)


class RunRecorder:
    """Records the ranks that one process runs: all of a simulation, or one real worker.

    Evaluations are of the first rank's parameters. A real worker other than rank 0 writes its losses and bytes to a
    file of its own; `merge` joins them when the run has ended.

    Args:
        folder: the run's.
        ranks: that commit here.
        size: of the run.
        trace: which counts the bytes.
        resumed: a checkpoint to go on from.
        progress: told of the steps done, and of the last evaluation.
        more: what else is measured of parameters (d,) whenever they are evaluated in the middle of the run.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Sequence[int],
        size: int,
        settings: RecordSettings,
        training: Training | SparseTraining,
        trace: Trace,
        resumed: Checkpoint | None = None,
        progress: Progress | None = None,
        more: Callable[[Tensor], Mapping[str, float]] | None = None,
    ) -> None:
        self._more = more
        self._folder, self._ranks, self._settings = folder, ranks, settings
        self._training, self._trace, self._resumed, self._progress = training, trace, resumed, progress
        self._writer, self._writers = (0, 1) if len(ranks) == size else (ranks[0], size)
        self._began = time.perf_counter()
        self._wall_before, after = 0.0, 0
        self._interval: list[float] = []
        if resumed is not None:
            facts, after = resumed.facts[-1], resumed.step
            try:
                self._wall_before, self._interval = float(facts["wall_seconds"]), list(facts["interval"])
                trace.load(facts["trace"])
            except (LookupError, TypeError, ValueError) as error:
                raise QuorateError(f"the checkpoint of step {after} is not of a run: it lacks {error}") from error
        events = folder / "tensorboard" if self._writer == 0 else None
        self._metrics = Metrics(metrics_path(folder, self._writer), events, after)
        seen = Metrics(folder / "histogram.jsonl", None, after) if settings.histogram and self._writer == 0 else None
        self._histograms = Histograms(seen, settings.histogram)
        self.watch = self._histograms.watch
        """Is shown what is about to be said."""
        self._suspects = Suspects(folder, self._writer, settings.metrics, after)
        self.judge = self._suspects.judge
        """Is told how far workers' updates are from what they were combined to."""
        self._steps: dict[int, _Step] = {}
        self._present, self._left = len(ranks), set[int]()
        self._evaluated: dict[str, float] = {}
        self._last_metrics: dict[str, float] = {}
        self.steps = after
        """Steps that all of these ranks have done."""

    @property
    def wall_seconds(self) -> float:
        """Real seconds of training, those before a resumption included."""
        return self._wall_before + time.perf_counter() - self._began

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the state."""
        return {"trace": self._trace.state(), "wall_seconds": self.wall_seconds, "interval": self._interval}

    def restore(self, rank: int, shared: Tree, own: Tree) -> tuple[int, Tree, Tree]:
        """Return a rank's state: the given one, or the checkpoint's.

        Raises:
            QuorateError: if the checkpoint does not fit the recipe's model or codecs.
        """
        if self._resumed is None:
            return 0, shared, own
        saved, mine, layout = self._resumed, self._resumed.own.get(rank, {}), self._training.layout
        mine = named_state.joined(mine, layout) if isinstance(layout, Layout) else named_state.copied(mine)
        for given, held in ((shared, saved.shared), (own, mine)):
            differs = named_state.misfit(given, held)
            if differs is not None:
                problem, hint = differs
                raise QuorateError(f"the checkpoint of step {saved.step} does not fit the recipe: {problem}", hint)
        return saved.step, saved.shared, mine

    def saves(self, step: int) -> bool:
        """Return whether a checkpoint is taken at a step."""
        return _due(self._settings.checkpoint, step)

    def evaluates(self, step: int) -> bool:
        """Return whether the first rank's parameters are evaluated at a step."""
        return _due(self._settings.evaluate, step)

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
        """Take note of a rank's step; when all ranks have done it, write what is due.

        What is written is how things stood when the first rank did it: workers need not wait for one another.
        """
        each = self._steps.setdefault(step, _Step())
        each.losses[rank] = loss
        if rank == self._ranks[0]:
            each.now, each.bytes, each.metrics = now, self._trace.bytes, metrics or {}
            each.parameters = _parameters(shared, own)
            each.shared = shared
            self._histograms.flush()
        if self.saves(step):
            each.own[rank] = own if len(self._ranks) == 1 else named_state.copied(own)
        if len(each.losses) == self._present + sum(rank in each.losses for rank in self._left):
            self._done(step, self._steps.pop(step))

    def leave(self, rank: int, now: float) -> None:
        """Take note that a rank has left; steps that only it had not done are done."""
        self._left.add(rank)
        self._present -= 1
        for step in sorted(self._steps):
            if not set(self._ranks) - self._left - self._steps[step].losses.keys():
                self._done(step, self._steps.pop(step))

    def _done(self, step: int, each: _Step) -> None:
        self.steps = step
        losses = [loss for loss in each.losses.values() if not isnan(loss)]
        if losses:
            self._interval.append(sum(losses) / len(losses))
        evaluated: dict[str, float] = {}
        if self._writer == 0 and _due(self._settings.evaluate, step):
            if each.parameters is None:
                raise QuorateError(f"rank {self._ranks[0]} has committed no parameters to evaluate in step {step}")
            evaluated = self._training.evaluate(each.parameters)
            self._evaluated = evaluated
            if self._more is not None:
                evaluated = evaluated | dict(self._more(each.parameters))
        self._last_metrics = {**self._last_metrics, **each.metrics}
        if evaluated or _due(self._settings.metrics, step):
            self._line(step, each.now, each.bytes, {**self._last_metrics, **evaluated})
        if _due(self._settings.checkpoint, step):
            layout, own = self._training.layout, each.own
            if isinstance(layout, Layout):
                own = {rank: named_state.split(tree, layout) for rank, tree in own.items()}
            folder = self._folder / "checkpoints"
            checkpoint.write(folder, step, self._writer, self._writers, each.shared, own, self.facts())
        if self._progress is not None:
            self._progress(step, self._evaluated)

    def _line(self, step: int, now: float, count: int, measured: Mapping[str, float]) -> None:
        loss = sum(self._interval) / len(self._interval) if self._interval else None
        self._interval = []
        line = {"step": step, "clock_seconds": now, "wall_seconds": self.wall_seconds, "bytes": count}
        self._metrics.write(line | {"train_loss": loss, **measured})
        self._last_metrics = {}

    def finish(self, parameters: Any) -> dict[str, float]:
        """Write the last line, with the measures of what the program returned."""
        evaluated = self._training.evaluate(parameters) if self._writer == 0 else {}
        self._line(self.steps, self._trace.seconds, self._trace.bytes, evaluated)
        return evaluated

    def add(self, measured: Mapping[str, float]) -> None:
        """Add to the last line what has been measured since."""
        self._metrics.write({"step": self.steps, **measured})

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._histograms.close()
        self._suspects.close()


def _parameters(shared: Tree, own: Tree) -> Tensor | None:
    found = shared.get("parameters", own.get("parameters"))
    return found if isinstance(found, Tensor) else None


def _due(interval: int, step: int) -> bool:
    return bool(interval) and step % interval == 0


def metrics_path(folder: Path, writer: int) -> Path:
    """Return where a writer's lines are."""
    return folder / ("metrics.jsonl" if writer == 0 else f"metrics-{writer:05d}.jsonl")


def merge(folder: Path, size: int) -> None:
    """Join the lines of all real workers into `metrics.jsonl`: mean losses and summed bytes, where all are there."""
    own = [read_lines(metrics_path(folder, rank)) for rank in range(1, size)]
    lines = read_lines(metrics_path(folder, 0))
    for line in lines:
        if "ranks" in line or (not any(own) and size > 1):  # joined already, before a crash
            continue
        until = [[each for each in theirs if each["step"] <= line["step"]] for theirs in own]
        last = [line, *[theirs[-1] for theirs in until if theirs]]
        present = [each for each in last if each["step"] == line["step"]]  # the others have left
        losses = [each["train_loss"] for each in present if each["train_loss"] is not None]
        line["ranks"] = len(present)
        line["bytes"] = sum(each["bytes"] for each in last)
        line["train_loss"] = sum(losses) / len(losses) if losses else None
    write_atomically(metrics_path(folder, 0), "".join(json.dumps(line) + "\n" for line in lines).encode())
    for rank in range(1, size):
        metrics_path(folder, rank).unlink(missing_ok=True)
