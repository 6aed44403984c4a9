"""Simulated workers that come and go: as on real ones, the program begins anew whenever they change.

`detection` seconds after a machine has stopped, or after the next step if one waits to be admitted, an epoch ends: all
coroutines are closed, and everybody who is not at the newest step that somebody has committed copies the state, shared
and own, of one who is. Then the program starts again, with the ranks of those who are there. A simulation runs one
epoch; clock, trace, and what each machine has committed go on from one to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from math import isnan, nan
from typing import Any, Protocol

from torch import Tensor

from quorate.cluster import Cluster
from quorate.engines import Recorder
from quorate.engines.batching import Batching
from quorate.engines.failures import Epoch, Failures, Over, Rests
from quorate.engines.renamed_trace import RenamedTrace
from quorate.engines.simulator import Simulator
from quorate.engines.standing import MINE, Kept, Standing, packed, stamped
from quorate.errors import RunError
from quorate.named_state import copied, of_newcomer
from quorate.node import Node
from quorate.rand import Rand
from quorate.schedule import Schedule
from quorate.trace import Trace
from quorate.trees import Tree, leaves, map_tree


class Recording(Protocol):
    """What is done with what an epoch's members commit."""

    def epoch(self, standing: Standing) -> Recorder:
        """Begin an epoch; the recorder's ranks are those of the machines."""

    def done(self, standing: Standing, stall: float, step: int) -> None:
        """Take note of the first step of an epoch, and how long everybody stood still before it, in seconds."""

    def complete(self, step: int) -> bool:
        """Return whether all members have committed a step."""


class Data(Protocol):
    """The training data, as far as it is divided anew in each epoch."""

    def used(self, step: int) -> int:
        """Return how many samples the first so many steps have used."""

    def divide(self, step: int, position: int, size: int) -> None:
        """Divide the samples from a position on among so many workers."""


class Rehearsal:
    """A simulation in epochs.

    Args:
        schedule: who comes and goes.
        standing: where it begins; None for the start.
        trace: of all machines.
    """

    def __init__(
        self,
        cluster: Cluster,
        schedule: Schedule,
        data: Data,
        recording: Recording,
        trace: Trace,
        *,
        rand: Rand,
        batching: Batching,
        paranoid: bool = False,
        standing: Standing | None = None,
    ) -> None:
        self._cluster, self._schedule, self._data, self._recording = cluster, schedule, data, recording
        self._trace, self._rand, self._batching, self._paranoid = trace, rand, batching, paranoid
        self.standing = standing or Standing(0, tuple(schedule.present(0.0)), 0.0, 0.0)

    def run(self, program: Callable[[Node], Coroutine[Any, Any, Tensor]]) -> Tensor:
        """Run a program to its end; returns what it returns on a rank that is there then.

        Raises:
            RunError: as a simulation does; or if nobody is left who holds the state.
        """
        while True:
            standing = self.standing
            self._data.divide(standing.step, standing.position, len(standing.members))
            keeper = _Keeper(standing, self._recording, self._data, copying=self._paranoid)
            clocks = [keeper.kept[machine].clock if keeper.kept else standing.begin for machine in standing.members]
            trace = RenamedTrace(self._trace, standing.members, clocks)
            simulator = Simulator(
                len(standing.members),
                self._cluster,
                rand=self._rand,
                batching=self._batching,
                recorder=keeper,
                paranoid=self._paranoid,
                trace=trace,
                schedule=self._schedule,
                epoch=Epoch(standing.members, standing.since, standing.begin, standing.step),
            )
            keeper.failures = simulator.failures
            keeper.tell_untold()
            try:
                found = simulator.run(program)
            except Over:
                self._next(simulator, keeper)
            else:
                return next(each for each in found if each is not None)

    def _next(self, simulator: Simulator, keeper: _Keeper) -> None:
        """Decide who goes on, and from which state."""
        before, now = self.standing, simulator.clock
        for rank in range(len(before.members)):
            simulator.trace.cut_short(rank, now)
            lost_then = simulator.failures.lost.get(rank)
            simulator.trace.end(rank, now if lost_then is None else lost_then.stops)
        members = tuple(self._schedule.present(now))
        lost = {before.members[rank] for rank in simulator.failures.lost}
        stayed = [machine for machine in before.members if machine in members and machine not in lost]
        for machine in members:
            if machine not in stayed:
                back = max(each.back for each in self._schedule.absences if each.rank == machine and each.back <= now)
                self._trace.away(machine, self._trace.ended[machine], back)
        if not stayed and keeper.kept:
            raise RunError(
                f"after step {max(each.step for each in keeper.kept.values())}: at {now:g} s, nobody is left who holds"
                " the newest state",
                "let those who join come earlier, or others crash later",
            )
        step = max((keeper.kept[machine].step for machine in stayed if machine in keeper.kept), default=0)
        begin, kept = self._copied(keeper.kept, members, stayed, step, now + self._cluster.regroup)
        told = self._recording.complete(step)
        self.standing = Standing(
            before.number + 1,
            members,
            now,
            begin,
            step,
            self._data.used(step),
            keeper.done_at[stayed[0]] if stayed else nan,
            kept,
            None if told or not step else {rank: kept[rank].loss for rank in members},
        )

    def _copied(
        self, kept: Mapping[int, Kept], members: tuple[int, ...], stayed: list[int], step: int, start: float
    ) -> tuple[float, dict[int, Kept]]:
        """Bring all members to a step, and return when that is done; copies of one source go one after the other."""
        if not step:
            return start, {}
        have = [machine for machine in stayed if machine in kept and kept[machine].step == step]
        free = dict.fromkeys(have, start)
        result = {machine: kept[machine] for machine in have}
        lack = [machine for machine in members if machine not in have]
        for number, machine in enumerate(lack):
            source = have[number % len(have)]
            state = kept[source]
            count = sum(each.nbytes for tree in (state.shared, state.own) for _, each in leaves(tree))
            rate = min(self._cluster.of(source, "uplink"), self._cluster.of(machine, "downlink"))
            latency = self._cluster.of(source, "latency") + self._cluster.of(machine, "latency")
            sent = free[source] + count / rate
            self._trace.sent(source, machine, count, free[source], sent + latency)
            self._trace.busy(source, "sending", free[source], sent)
            free[source] = sent + latency
            result[machine] = Kept(step, 0.0, nan, state.shared, of_newcomer(state.own))
        begin = max(free.values())
        return begin, {
            machine: Kept(step, begin, each.loss, each.shared, each.own) for machine, each in sorted(result.items())
        }


class _Keeper:
    """Keeps what the members of an epoch commit, and tells the run's recorder."""

    failures: Failures

    def __init__(self, standing: Standing, recording: Recording, data: Data, copying: bool) -> None:
        self._standing, self._recording, self._data, self._copying = standing, recording, data, copying
        self._recorder = recording.epoch(standing)
        self.kept = dict(standing.kept)
        self._last = standing.last
        self.done_at = dict.fromkeys(standing.members, standing.last)
        if isnan(standing.last):
            self.done_at |= {machine: each.clock for machine, each in standing.kept.items()}

    def tell_untold(self) -> None:
        """Have all members commit the step again that some had not before, as a step of this epoch."""
        untold = self._standing.untold
        for machine in self._standing.members if untold is not None else ():
            assert untold is not None
            each = self.kept[machine]
            self._told(machine, each.step, each.clock, untold[machine], each.shared, each.own, None)

    def restore(self, rank: int, shared: Tree, own: Tree) -> tuple[int, Tree, Tree]:
        """See `Recorder`.

        Raises:
            Rests: if a run is resumed just before its members change.
        """
        self._rest(self._standing.step)
        return self._recorder.restore(self._standing.members[rank], shared, own)

    def saves(self, step: int) -> bool:
        """See `Recorder`."""
        return self._recorder.saves(step)

    def evaluates(self, step: int) -> bool:
        """See `Recorder`."""
        return self._recorder.evaluates(step)

    def leave(self, rank: int, now: float) -> None:
        """See `Recorder`."""

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
        """See `Recorder`.

        Raises:
            Rests: if the members are to change after this step.
        """
        standing = self._standing
        machine = standing.members[rank]
        own = copied(own)
        if self._copying:
            shared, own = map_tree(Tensor.clone, shared), map_tree(Tensor.clone, own)
        self.kept[machine], self.done_at[machine] = Kept(step, now, loss, shared, own), now
        if machine == standing.members[0] and not isnan(self._last):
            self._recording.done(standing, now - self._last, step)
            self._last = nan
        self._told(machine, step, now, loss, shared, own, metrics)
        self._rest(step)

    def _rest(self, step: int) -> None:
        if self.failures.leaving is not None and step >= self.failures.leaving:
            raise Rests

    def _told(
        self,
        machine: int,
        step: int,
        now: float,
        loss: float,
        shared: Tree,
        own: Tree,
        metrics: Mapping[str, float] | None,
    ) -> None:
        if self.saves(step):
            shared = {**shared, MINE: packed(self._standing, self._last, self._data.used(step))}
            own = {**own, MINE: stamped(now)}
        self._recorder.commit(machine, step, now, loss, shared, own, metrics)
