"""A real worker's node for as long as the members stay the same; what it has committed outlives it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from quorate.engines import PeerError, Recorder, after
from quorate.engines.membership import BEAT, Membership
from quorate.engines.padding import gather_ragged
from quorate.engines.processes import ProcessNode
from quorate.engines.waiting import Waiting
from quorate.engines.watch import View, Watch
from quorate.errors import RunError
from quorate.named_state import misfit
from quorate.trace import Trace
from quorate.trees import Tree, map_tree
from quorate.wire import Message, Ragged

T = TypeVar("T")


class Over(PeerError, RuntimeError):
    """The membership has ended, and the work on the step with it; the next one goes on from the last step done."""


class Lineage(NamedTuple):
    """Which of two states is the newer: the one that was committed in the later membership, then at the later step.

    A worker that was cut off may have done as many steps as the others, but not the same ones.
    """

    number: int
    stamp: int
    step: int


@dataclass
class Held:
    """What a worker has committed last, in memory that nobody else writes to.

    Args:
        lineage: of the step.
        position: training samples used until then, by all workers.
        clock: seconds of training until then, of a run that is resumed.
    """

    lineage: Lineage
    position: int
    shared: Tree
    own: Tree
    clock: float = 0.0

    def keep(self, lineage: Lineage, position: int, shared: Tree, own: Tree) -> None:
        """Copy a newer state, into the same memory if it fits."""
        self.shared, self.own = _copied(shared, self.shared), _copied(own, self.own)
        self.lineage, self.position = lineage, position


def nothing() -> Held:
    """Return what a worker holds that has just started."""
    return Held(Lineage(0, 0, 0), 0, {}, {})


class Data(Protocol):
    """The training data, as far as an elastic run counts it."""

    @property
    def asked(self) -> int | None:
        """The last step that a batch was asked for since the members last changed."""

    def used(self, step: int) -> int:
        """Return how many samples the first so many steps have used."""


class ElasticNode(ProcessNode):
    """This process as one member of an epoch, in the default process group.

    Args:
        view: of the epoch; its rank and size are those of the group.
        held: what this worker has committed.
        data: counts samples.
    """

    def __init__(self, membership: Membership, watch: Watch, view: View, held: Held, data: Data, trace: Trace) -> None:
        super().__init__(trace=trace)
        self._membership, self._watch, self._view, self._data = membership, watch, view, data
        self.held = held
        self._step = held.lineage.step
        self._waits_since = 0.0
        self._done: Callable[[int], None] = lambda step: None

    def begin(self, held: Held, recorder: Recorder, done: Callable[[int], None]) -> None:
        """Make ready for the program.

        Args:
            held: what it goes on from.
            recorder: notes its steps.
            done: called after each.
        """
        self.held, self._recorder, self._done = held, recorder, done

    def set_clock(self, seconds: float) -> None:
        """Take over the run's clock, as a newcomer."""
        self._seconds_before += seconds - self.now()

    def state(self) -> tuple[int, float]:
        """Return the steps done, and for how many seconds this worker has waited in a call."""
        since = self._waits_since
        return self._step, time.monotonic() - since if since else 0.0

    def _begin(
        self,
        what: str,
        begin: Callable[[], Any],
        finish: Callable[[Any], T],
        record: Callable[[float], None] | None = None,
    ) -> Waiting[T]:
        def begun() -> _Timed:
            self.look()
            return _Timed(begin(), self)

        return super()._begin(what, begun, lambda timed: finish(timed.work), record)

    def all_gather(self, message: Message, like: Message | None = None) -> Waiting[list[Message]]:
        """See `Node`. All messages go by the epoch's group, which is rebuilt when a member leaves."""
        if isinstance(message, Ragged):
            return gather_ragged(super().all_gather, message, like)
        return super().all_gather(message, like)

    def look(self) -> None:
        """Raise Over if this member has to leave."""
        why = self._view.finished_at(self._step)
        if why is not None:
            raise Over(why)

    def guarded(self, what: str, call: Callable[[], T]) -> T:
        """Make collective calls that are no calls on the node.

        Raises:
            Over: if they fail.
        """
        start, self._waits_since = self.now(), time.monotonic()
        try:
            return call()
        except RuntimeError as error:
            raise self.failure(what, *self.at, start, error) from error
        finally:
            self._waits_since = 0.0

    def failure(self, what: str, step: int, calls: int, start: float, error: Exception) -> PeerError:
        if isinstance(error, Over):
            return error
        text = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        why = f"rank {self.rank} ({self.host}), step {step}: {what} failed {after(self.now() - start)} [{text}]"
        self._watch.end(why)
        return Over(why)

    def restore(self, shared: Tree, own: Tree) -> tuple[int, Tree, Tree]:
        """See `Node`. Returns what this worker, or a member that was further on, has committed last."""
        held = self.held
        self._step = held.lineage.step
        if self._step == 0:
            return 0, map_tree(Tensor.clone, shared), map_tree(Tensor.clone, own)
        for given, kept in ((shared, held.shared), (own, held.own)):
            differs = misfit(given, kept)
            if differs is not None:
                who = f"rank {self.rank} ({self.host})"
                raise RunError(
                    f"{who}: the state of step {self._step} does not fit the recipe: {differs[0]}", differs[1]
                )
        return self._step, map_tree(Tensor.clone, held.shared), map_tree(Tensor.clone, held.own)

    def commit(
        self, step: int, loss: float, shared: Tree, own: Tree, metrics: Mapping[str, float] | None = None
    ) -> None:
        """See `Node`.

        Raises:
            Over: if a worker waits to be admitted, and all members have come to the step at which they leave.
            Unreachable: if the coordinator does not answer.
        """
        self._membership.require()
        if self._data.asked not in (None, step - 1, step):
            raise RunError(
                f"rank {self.rank}, step {step}: the program asks for the batch of step {self._data.asked} then, so its"
                " samples can't be counted",
                "an elastic run needs a program that takes one batch a step",
            )
        epoch = self._view.epoch
        self.held.keep(Lineage(epoch.number, epoch.stamp, step), self._data.used(step), shared, own)
        super().commit(step, loss, {**shared, "cursor": torch.tensor([self.held.position])}, own, metrics)
        self._done(step)
        if self._view.newcomer:
            self._watch.at(step)
            while self._view.leaving is None:
                self.look()
                self._membership.require()
                time.sleep(BEAT / 20)
        self.look()


class _Timed:
    """A call under way that lets the watch know for how long it is waited for."""

    def __init__(self, work: Any, node: ElasticNode) -> None:
        self.work, self._node = work, node

    def wait(self) -> None:
        """Block until the call is through."""
        self._node._waits_since = time.monotonic()
        try:
            self.work.wait()
        finally:
            self._node._waits_since = 0.0


def _copied(tree: Tree, into: Tree) -> dict[str, Tensor | Tree]:
    copy: dict[str, Tensor | Tree] = {}
    for name, value in tree.items():
        before = into.get(name)
        if not isinstance(value, Tensor):
            copy[name] = _copied(value, before if before is not None and not isinstance(before, Tensor) else {})
        elif isinstance(before, Tensor) and before.shape == value.shape and before.dtype == value.dtype:
            copy[name] = before.copy_(value)
        else:
            copy[name] = value.detach().clone()
    return copy
