"""One worker of an elastic run: it finds out from the coordinator what is run, and takes part until the end."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quorate import checkpoint, choosing, folder
from quorate.checkpoint import Checkpoint
from quorate.cursor import SharedTraining
from quorate.engines import Forgetful, Recorder
from quorate.engines.contact import connect
from quorate.engines.elastic import Elastic, Settings
from quorate.engines.elastic_node import ElasticNode, Held, Lineage, nothing
from quorate.engines.gathering import gather_trace
from quorate.engines.group import interface_towards
from quorate.engines.membership import Epoch
from quorate.errors import QuorateError, RecipeError, RunError
from quorate.files import write_atomically
from quorate.named_state import joined, split
from quorate.rand import Rand
from quorate.recipe import Recipe, parse
from quorate.recorder import RunRecorder
from quorate.trace import Trace
from quorate.trees import Tree

_STATE_OVER_PARAMETERS = 64  # how many times the size of the parameters another member's state may have
_STUCK, _STATE, _SLOWEST = 5.0, 4, 1e6  # seconds; a usual state over the parameters; bytes per second of a slow link
_SPARE = 16 << 20  # bytes of state beside that
_READY = 60.0  # seconds that the first workers wait for one another


def require_elastic(recipe: Recipe, size: int) -> None:
    """Refuse a recipe that can't be run on workers that come and go.

    Raises:
        RecipeError: saying what to change.
    """
    if recipe.tables["partition"]["name"] != "iid":
        raise RecipeError(
            f"an elastic run divides the samples anew at every step, so it can't keep the partition"
            f" `{recipe.tables['partition']['name']}`",
            'name = "iid" in [partition]',
        )
    if recipe.processes.device != "cpu":
        raise RecipeError("an elastic run goes over gloo, on the CPU", 'device = "cpu" in [processes]')
    name = recipe.tables["program"]["name"]
    if recipe.plan(size).alone:
        raise RecipeError(
            f"program `{name}` talks in connections of two workers, which an elastic run does not rebuild",
            "leave out --elastic",
        )


def training_of(recipe: Recipe, data: Path | None) -> SharedTraining:
    """Load a recipe's task for workers that come and go."""
    return SharedTraining(recipe.task(data), Rand(recipe.seed), recipe.tables["program"].get("batch", 32))


class Member:
    """This process as a worker of an elastic run.

    Args:
        address: the coordinator's.
        batch: its own number of samples per step; 0 for the recipe's.
        data: the folder of data sets, if it is not where the run's first worker has it.

    Raises:
        QuorateError: if nobody answers at the address, or what it tells is no run.
    """

    def __init__(self, address: str, batch: int = 0, data: Path | None = None) -> None:
        store = connect(address)
        try:
            told = json.loads(store.get("run"))
            self.where, facts, text = Path(told["folder"]), json.loads(told["run.json"]), str(told["recipe.toml"])
            self.recipe = parse(text, str(facts["recipe"]), Path(facts["recipe_folder"]))
            data = data or (Path(facts["data"]) if facts["data"] else None)
            first, self._token = bool(told["first"]), facts["token"]
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{address} does not tell which run it is of: {error}") from error
        self._facts, self._text, self._trace = facts, text, Trace(1)
        self.writes = self._same_folder()
        torch.set_num_threads(self.recipe.processes.threads)
        interface = interface_towards(address.rpartition(":")[0])
        if interface is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        self.training = training_of(self.recipe, data)
        size = self.training.layout.numel * self.training.initial().element_size()
        settings = Settings(
            address,
            writes=self.writes,
            batch=batch,
            patience=self.recipe.processes.patience,
            timeout=self.recipe.processes.timeout,
            stuck_after=_STUCK + _STATE * size / _SLOWEST,
            largest=_STATE_OVER_PARAMETERS * size + _SPARE,
            ready=_READY if first else 0.0,
        )
        self._engine = Elastic(settings, self, self._saved() if first else nothing(), self)

    def _same_folder(self) -> bool:
        """Return whether this process sees the run's folder, rather than one of another machine."""
        try:
            return bool(folder.read(self.where).get("token") == self._token)
        except RunError:
            return False

    def _saved(self) -> Held:
        """Return what the run's last checkpoint holds; nothing if there is none here."""
        saved = checkpoint.latest(self.where / "checkpoints", 1) if self.writes else None
        if saved is None:
            return nothing()
        shared = dict(saved.shared)
        position, clock = shared.pop("cursor"), saved.facts[0]["trace"]["arrays"]["ended"]
        assert isinstance(position, Tensor)
        own = joined(saved.own.get(0, {}), self.training.layout)
        return Held(Lineage(0, 0, saved.step), int(position), shared, own, max(clock))

    def run(self) -> None:
        """Take part until the run ends.

        Raises:
            RunError: if this worker can't go on.
        """
        program = self.recipe.program
        exchange = choosing.resolved(self.recipe, self._facts).laid_out(self.training.layout)
        exchange = replace(exchange, watch=lambda *said: self._record.watch(*said) if self._record else None)
        with self._present():
            self._engine.run(lambda node: program(node, self.training, exchange))

    @contextmanager
    def _present(self) -> Iterator[None]:
        """Let who resumes the run know that workers of an earlier attempt still write to its folder."""
        with (self.where / "members").open("w") if self.writes else nullcontext() as file:
            if file is not None:
                fcntl.flock(file, fcntl.LOCK_SH)
            yield

    # What the engine asks about the data.

    @property
    def asked(self) -> int | None:
        """The last step that a batch was asked for."""
        return self.training.asked

    def used(self, step: int) -> int:
        """Return how many samples the first so many steps have used."""
        return self.training.used(step)

    def divide(self, step: int, position: int, own: list[int]) -> None:
        """Divide the data among those members that train."""
        self.training.divide(step, position, own[: self.recipe.plan(len(own)).trainers])

    # What the engine tells.

    @contextmanager
    def epoch(self, epoch: Epoch, held: Held, trace: Trace) -> Iterator[Recorder]:
        """Rank 0 records; the others do not."""
        self._trace, self._record = trace, None
        if epoch.rank != 0:
            yield Forgetful()
            return
        if not self.writes:
            self._make_folder()
        step = held.lineage.step
        resumed = Checkpoint(step, held.shared, {0: held.own}, [self._facts_now()]) if step else None
        where, settings = self.where, self.recipe.record
        with closing(RunRecorder(where, range(1), 1, settings, self.training, trace, resumed)) as self._record:
            yield self._record

    def _make_folder(self) -> None:
        """Go on in a folder of this machine's own, because no worker of the first machine is left."""
        self.where.mkdir(parents=True, exist_ok=True)
        write_atomically(self.where / "recipe.toml", self._text.encode())
        write_atomically(self.where / "run.json", json.dumps(self._facts).encode())

    def _facts_now(self) -> dict[str, Any]:
        return {"trace": self._trace.state(), "wall_seconds": self._trace.seconds, "interval": []}

    def end(self, node: ElasticNode, parameters: Tensor) -> None:
        """Join the traces; rank 0 finishes the run's folder."""
        summary = node.guarded("gathering the traces", lambda: gather_trace(node.trace))
        if self._record is not None:
            record = self._record
            measures = record.finish(parameters)
            result = folder.finish(
                self.where, parameters, self.training.layout, measures, record.steps, summary, record.wall_seconds
            )
            folder.update(self.where, {"result": result | {"samples": node.held.position}})

    def keep(self, held: Held) -> None:
        """Write a checkpoint, because the run stops."""
        step = held.lineage.step
        if self.writes and step:
            shared: Tree = {**held.shared, "cursor": torch.tensor([held.position])}
            own = split(held.own, self.training.layout)
            checkpoint.write(self.where / "checkpoints", step, 0, 1, shared, {0: own}, self._facts_now())

    def told(self, text: str) -> None:
        """Write to standard error."""
        print(text, file=sys.stderr, flush=True)


def failed(member: Member, error: QuorateError) -> None:
    """Write down that the run has stopped, if its coordinator can't do so any more."""
    if member.writes and folder.read(member.where)["status"] == "running":
        folder.failed(member.where, error)
