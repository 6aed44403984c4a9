"""Failures as a schedule: a simulated run in which machines crash, are cut off, come and come back.

Whether a program goes on by itself without those who leave, or all begin anew in epochs, is the program's own property,
`Plan.survives`; on real workers it is the same. What happens to the members is told, and written to `events.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from quorate import checkpoint, choosing, folder, graph_check
from quorate.checkpoint import Checkpoint
from quorate.cursor import SharedTraining
from quorate.engines import Recorder
from quorate.engines.batching import Batching
from quorate.engines.epochs import Rehearsal
from quorate.engines.presence import Presences
from quorate.engines.standing import Standing, unpacked
from quorate.errors import QuorateError, RecipeError
from quorate.files import write_atomically
from quorate.metrics_file import read_lines
from quorate.rand import Rand
from quorate.recipe import Recipe
from quorate.recorder import Progress, RunRecorder
from quorate.schedule import Schedule
from quorate.trace import Trace

Told = Callable[[str], None]


def schedule_of(recipe: Recipe, size: int) -> Schedule:
    """Return what happens to a simulation's machines, all mistakes in it refused.

    Raises:
        RecipeError: if the events can't be meant, or the program can't go on through them.
    """
    plan = recipe.plan(size)
    if plan.federated:  # its simulator lets the events happen by itself
        Presences(size, recipe.cluster, Rand(recipe.seed))
        return Schedule(recipe.cluster.model_copy(update={"event": ()}), size)
    schedule = Schedule(recipe.cluster, size)
    if not schedule.changes_members:
        return schedule
    name = recipe.tables["program"]["name"]
    if plan.survives:
        if schedule.joins:
            raise RecipeError(
                f"program `{name}` goes on by itself without workers that leave, but takes in none that join",
                'leave out the events of the kind "join"',
            )
        return schedule
    if plan.alone:
        raise RecipeError(
            f"program `{name}` talks in connections of two workers, which are not rebuilt when a worker leaves",
            'leave out the events of the kinds "crash", "join" and "cut"',
        )
    partition = recipe.tables["partition"]["name"]
    if partition != "iid":
        raise RecipeError(
            f"when workers come and go, the samples are divided anew, so the partition `{partition}` can't be kept",
            'name = "iid" in [partition]',
        )
    for time, workers in schedule.sizes():
        try:
            recipe.plan(workers)
            if "topology" in recipe.tables:
                graph_check.row(recipe.program.keywords["topology"], 0, workers, 0)
        except RecipeError as error:
            raise RecipeError(f"with the {workers} workers from {time:g} s on: {error.problem}", error.hint) from error
    return schedule


def in_epochs(recipe: Recipe, schedule: Schedule) -> bool:
    """Return whether a run begins anew whenever its workers change."""
    return schedule.changes_members and not recipe.plan(schedule.size).survives


class Announced:
    """A run's recorder that also tells, and writes down, who leaves a program that goes on by itself."""

    def __init__(self, record: RunRecorder, where: Path, size: int, told: Told) -> None:
        self._record, self._where, self._present, self._tell = record, where, size, told
        self.restore, self.commit = record.restore, record.commit
        self.saves, self.evaluates = record.saves, record.evaluates
        events = [each for each in read_lines(where / "events.jsonl") if each["step"] <= record.steps]
        _write(where, events)
        self._known = [each["left"] for each in events]

    def leave(self, rank: int, now: float) -> None:
        """See `Recorder`."""
        self._record.leave(rank, now)
        self._present -= 1
        left = [f"rank {rank}"]
        if left not in self._known:
            step = self._record.steps
            _append(self._where, {"step": step, "clock": now, "left": left, "joined": []})
            self._tell(f"step {step}: {left[0]} left; {self._present} workers go on")


class _Epochs:
    """What is done with what the members of each epoch commit.

    Args:
        resumed: the checkpoint that the run goes on from, if any.
    """

    def __init__(
        self,
        recipe: Recipe,
        where: Path,
        training: SharedTraining,
        trace: Trace,
        told: Told,
        progress: Progress | None,
        resumed: Checkpoint | None,
    ) -> None:
        self._recipe, self._where, self._training, self._trace = recipe, where, training, trace
        self._tell, self._progress, self._resumed = told, progress, resumed
        self._members: tuple[int, ...] = ()
        self._changes = ""
        self.record: RunRecorder | None = None
        if resumed is not None:
            self._resume(resumed)

    def _resume(self, saved: Checkpoint) -> None:
        """Take back the events after a checkpoint."""
        number, events = unpacked(saved.step, saved.shared, saved.own).number, read_lines(self._where / "events.jsonl")
        epochs = [each for each in events if "epoch" in each and int(each["epoch"]) <= number]
        stalls = [each for each in events if "stall" in each and each["step"] <= saved.step]
        self._changes = _changes(epochs[-1]) if epochs else ""
        _write(self._where, sorted(epochs + stalls, key=lambda each: int(each.get("epoch", each.get("in", 0)))))

    def epoch(self, standing: Standing) -> Recorder:
        """Begin an epoch."""
        facts = self._resumed.facts[-1] if self._resumed is not None else self.record.facts() if self.record else {}
        resuming, self._resumed = self._resumed is not None, None
        self.close()
        saved = None
        if standing.step:
            first = standing.kept[standing.members[0]]
            saved = Checkpoint(
                standing.step, first.shared, {rank: each.own for rank, each in standing.kept.items()}, [facts]
            )
        members, settings, began = standing.members, self._recipe.record, list(self._trace.began)
        self.record = RunRecorder(
            self._where, members, len(members), settings, self._training, self._trace, saved, self._progress
        )
        if not resuming:
            self._trace.began = began
            self._note(standing)
        self._members = standing.members
        return self.record

    def _note(self, standing: Standing) -> None:
        were = self._members or standing.members
        event = {
            "epoch": str(standing.number),
            "step": standing.step,
            "clock": standing.since,
            "position": standing.position,
            "members": _named(standing.members),
            "batches": [0] * len(standing.members),
            "left": _named(rank for rank in were if rank not in standing.members),
            "joined": _named(rank for rank in standing.members if rank not in were),
            "stayed": _named(rank for rank in standing.members if rank in were),
        }
        self._changes = _changes(event)
        _append(self._where, event)

    def done(self, standing: Standing, stall: float, step: int) -> None:
        """Tell of an epoch's first step."""
        name = f"rank {standing.members[0]}"
        _append(self._where, {"stall": stall, "step": step, "name": name, "in": str(standing.number)})
        self._tell(f"step {step}: {self._changes}; {len(standing.members)} workers go on after {stall:.2f} s")

    def complete(self, step: int) -> bool:
        """Return whether all members have committed a step."""
        return self.record is not None and self.record.steps >= step

    def close(self) -> None:
        """Close the files of the epoch."""
        if self.record is not None:
            self.record.close()


def simulate(
    recipe: Recipe,
    schedule: Schedule,
    where: Path,
    training: SharedTraining,
    batching: Batching,
    told: Told,
    progress: Progress | None,
) -> dict[str, Any]:
    """Simulate a run in epochs, from the last checkpoint if there is one; see `quorate.run.simulate`.

    Returns:
        The run's result; beside what other runs have, `epochs`, the number of memberships, `stalls`, the virtual
        seconds that everybody stood still at each change, and `samples`, the number of those used.
    """
    trace = Trace(schedule.size)
    resumed = checkpoint.latest(where / "checkpoints", 1)
    try:
        standing = unpacked(resumed.step, resumed.shared, resumed.own) if resumed is not None else None
    except KeyError as error:
        raise QuorateError(f"the checkpoint in `{where}` is of no run in epochs: it lacks {error}") from error
    data, program = _Divided(training, recipe), recipe.program
    exchange = choosing.resolved(recipe, folder.read(where)).laid_out(training.layout)
    with closing(_Epochs(recipe, where, training, trace, told, progress, resumed)) as recording:
        exchange = replace(exchange, watch=lambda *said: recording.record.watch(*said) if recording.record else None)
        if resumed is None:
            _write(where, [])
        rehearsal = Rehearsal(
            recipe.cluster,
            schedule,
            data,
            recording,
            trace,
            rand=training.rand,
            batching=batching,
            paranoid=recipe.simulator.paranoid,
            standing=standing,
        )
        parameters = rehearsal.run(lambda node: program(node, training, exchange))
        assert recording.record is not None
        record, measures = recording.record, recording.record.finish(parameters)
    if batching.reasons:
        folder.update(where, {"one_by_one_because": list(batching.reasons)})
    summary, events = trace.summary(), read_lines(where / "events.jsonl")
    result = folder.finish(where, parameters, training.layout, measures, record.steps, summary, record.wall_seconds)
    result |= {
        "epochs": len([each for each in events if "epoch" in each]),
        "stalls": [each["stall"] for each in events if "stall" in each],
        "samples": training.used(record.steps),
    }
    folder.update(where, {"result": result})
    return result


class _Divided:
    """Training data divided among those members that train."""

    def __init__(self, training: SharedTraining, recipe: Recipe) -> None:
        self._training, self._recipe, self.used = training, recipe, training.used

    def divide(self, step: int, position: int, size: int) -> None:
        """Divide the samples from a position on."""
        self._training.divide(step, position, [0] * self._recipe.plan(size).trainers)


def _named(ranks: Any) -> list[str]:
    return [f"rank {rank}" for rank in ranks]


def _changes(event: Mapping[str, Any]) -> str:
    changes = [f"{', '.join(event[what])} {what}" for what in ("left", "joined") if event[what]]
    return " and ".join(changes) or "the same workers met again"


def _append(where: Path, event: Mapping[str, Any]) -> None:
    with (where / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def _write(where: Path, events: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(each) + "\n" for each in events)
    if text or (where / "events.jsonl").exists():
        write_atomically(where / "events.jsonl", text.encode())
