"""The local work of many clients at once, in the fastest form that their model has; otherwise one by one.

Which form it is depends on the model, the optimizer and the shapes alone, so that equal runs have equal bits. A stack
of linear layers takes clients side by side: without weights of their own for few steps (`cohorts_factors`), else with
the updates fused into the products (`cohorts_windows`). A convolutional net takes one client after another, written out
by hand (`cohorts_chains`). All agree with one by one but for rounding.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from quorate.engines.cohorts_chains import chain_of
from quorate.engines.cohorts_layers import parts_of, stack_of
from quorate.engines.cohorts_losses import Losses
from quorate.engines.cohorts_pieces import Form
from quorate.engines.cohorts_processes import Processes
from quorate.engines.cohorts_steps import Motion, alike, not_plain
from quorate.errors import QuorateError
from quorate.federated.local import LocalWork, Trained, train
from quorate.federated.unfolded import Unfolded, folded
from quorate.gradient import Gradient

_PAYS = 5.0  # CPU seconds of local work after which it is taken to go on so long that a second process pays


@dataclass
class Cohorts:
    """Does local work; `quorate.federated.local.Train`.

    Args:
        gradient: of the task.
        exact: one by one always, to the bits of a real client.
        processes: that share the work, this one included; "auto": a second one if a core is idle, and there is much
            to do. Further ones begin meanwhile, and are given work when they are ready; it has the same bits.
    """

    gradient: Gradient
    exact: bool = False
    processes: int | Literal["auto"] = 1
    reasons: dict[str, None] = field(default_factory=dict)
    """Why work was done one by one after all; for the run's record."""

    def __post_init__(self) -> None:
        self._form: Form | None = None
        self._known = False
        self._crew: Processes | None = None
        self._spent = 0.0

    @torch.no_grad()
    def __call__(self, works: Sequence[LocalWork]) -> list[Trained | QuorateError]:
        """Do the work of many clients.

        Returns:
            In order, what came of each, or how its task failed.
        """
        works = [
            replace(work, start=folded(work.start)) if isinstance(work.start, Unfolded) else work for work in works
        ]
        results: list[Trained | QuorateError | None] = [None] * len(works)
        for places in self._groups(works):
            group = [works[place] for place in places]
            done = self._together(group)
            for place, result in zip(places, done or map(self._one, group), strict=True):
                results[place] = result
        return [result for result in results if result is not None]

    def _groups(self, works: Sequence[LocalWork]) -> list[list[int]]:
        """Divide works, by their places, into those that can be done side by side."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, work in enumerate(works):
            groups.setdefault(alike(work), []).append(place)
        return list(groups.values())

    def _one(self, work: LocalWork) -> Trained | QuorateError:
        try:
            with torch.enable_grad():
                return train(self.gradient, self.gradient.layout, work)
        except QuorateError as error:
            return error

    def _together(self, works: Sequence[LocalWork]) -> list[Trained | QuorateError] | None:
        """Do works that are alike; None if they must be done one by one, for a reason that is taken note of."""
        if self.exact:
            return None
        busy = next((work for work in works if work.sizes), None)
        if busy is None:
            return [Trained(work.start.clone(), 0.0, 0) for work in works]
        reason = not_plain(busy.optimizer) or self._reason(busy)
        if reason is None:
            motion = Motion.of(works[:1], self.gradient.objective.l2)
            if any(motion.divides(part) for part in parts_of(self.gradient.layout).values()):
                reason = "of one of the model's parameters, a part moves and a part does not"
        if reason is None:
            try:
                return self._fast(works)
            except Exception as error:  # whatever it is, the task raises it again one by one if it is the task's own
                reason = f"the model or its loss failed by hand: {(str(error) or type(error).__name__).splitlines()[0]}"
        self.reasons[reason] = None
        return None

    def _reason(self, work: LocalWork) -> str | None:
        """Return why a model can't be written out by hand; None if it can."""
        gradient = self.gradient
        if not self._known:
            try:
                with torch.enable_grad():
                    gradient.probe(work.start, next(work.batches))
            except QuorateError:
                return "the task failed"
            sample, layout = gradient.data.x[0], gradient.layout
            layers = stack_of(gradient.objective, layout, sample) or chain_of(gradient.objective, layout)
            if layers is not None:
                losses = Losses(gradient.objective.loss, gradient.data.y)
                self._form = Form(layers, gradient.objective.l2, layout.numel, gradient.data, losses)
            self._known = True
        if gradient.stochastic:
            return "the model draws random numbers"
        return (
            None if self._form is not None else "the model is no plain sequence of layers that are written out by hand"
        )

    def _fast(self, works: Sequence[LocalWork]) -> list[Trained | QuorateError]:
        form = self._form
        assert form is not None
        sizes = [work.sizes for work in works]
        results: list[Trained | QuorateError] = [
            Trained(work.start if each else work.start.clone(), 0.0, 0) for work, each in zip(works, sizes, strict=True)
        ]
        order = sorted((place for place, each in enumerate(sizes) if each), key=lambda place: _effort(sizes[place]))
        several = self._several(form)
        workers, pieces = several.ready if several else 1, list[list[int]]()
        while order:
            count = -(-len(order) // form.at_once(sizes[order[0]]))
            if not pieces and form.divides(sizes[order[0]]):
                count = max(count, min(workers, len(order)))
            take = -(-len(order) // count)
            pieces.append(order[:take])
            order = order[take:]
        begun = time.process_time()
        given = [[works[place] for place in piece] for piece in pieces]
        made = several.do(given) if several and workers > 1 else map(form.do, given)
        for piece, group, done in zip(pieces, given, made, strict=True):
            for place, result in zip(piece, form.results(group, done), strict=True):
                results[place] = result
        self._spent += time.process_time() - begun
        return results

    def _several(self, form: Form) -> Processes | None:
        """Return the processes that share the work, if they have been begun; begin them if that pays."""
        pays = self._spent >= _PAYS and _idle() if self.processes == "auto" else self.processes > 1
        if self._crew is None and pays:
            self._crew = Processes(form, 2 if self.processes == "auto" else self.processes)
        return self._crew

    @property
    def lost(self) -> list[str]:
        """Which further processes could not be begun, or were lost, and why; for the run's record."""
        return [] if self._crew is None else self._crew.lost

    def wait(self, seconds: float) -> bool:
        """Wait at most so long until further processes that have been begun are ready; return whether they are."""
        return self._crew is not None and self._crew.wait(seconds)

    def close(self) -> None:
        """End further processes; without them, work goes on here."""
        if self._crew is not None:
            self._crew.close()


def _idle() -> bool:
    """Return whether this process may use a core that nobody else is busy on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > 1 and os.getloadavg()[0] <= cores - 0.5


def _effort(sizes: Sequence[int]) -> tuple[int, int]:
    """Return what sorts those with the most, and the largest, steps to the front."""
    return -len(sizes), -max(sizes)
