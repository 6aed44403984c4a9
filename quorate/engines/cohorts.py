"""The local work of many clients at once, in the fastest form that their model has; otherwise one by one.

Which form it is depends on the model, the optimizer and the shapes alone, so that equal runs have equal bits. A stack
of linear layers takes clients side by side: without weights of their own for few steps (`cohorts_factors`), else with
the updates fused into the products (`cohorts_windows`). A convolutional net takes one client after another, written out
by hand (`cohorts_chains`). All agree with one by one but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from quorate.engines.cohorts_chains import Chain, chain_of
from quorate.engines.cohorts_factors import Factors, few
from quorate.engines.cohorts_layers import Stack, parts_of, stack_of
from quorate.engines.cohorts_losses import Losses
from quorate.engines.cohorts_steps import Motion, Steps, alike, not_plain
from quorate.engines.cohorts_windows import Windows
from quorate.errors import QuorateError
from quorate.federated.local import LocalWork, Trained, train
from quorate.federated.unfolded import Unfolded, folded
from quorate.gradient import Gradient, require_finite

_ENTRIES = 1 << 21  # of parameters, or of inputs, of the clients side by side: what stays near the caches
_MOST = 100  # clients side by side


@dataclass
class Cohorts:
    """Does local work; `quorate.federated.local.Train`.

    Args:
        gradient: of the task.
        exact: one by one always, to the bits of a real client.
    """

    gradient: Gradient
    exact: bool = False
    reasons: dict[str, None] = field(default_factory=dict)
    """Why work was done one by one after all; for the run's record."""

    def __post_init__(self) -> None:
        self._form: Stack | Chain | None = None
        self._losses: Losses | None = None
        self._known = False

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
            motion = Motion.of(works[:1], self.gradient.objective)
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
            self._form = stack_of(gradient.objective, layout, sample) or chain_of(gradient.objective, layout)
            self._losses = Losses(gradient.objective.loss, gradient.data.y)
            self._known = True
        if gradient.stochastic:
            return "the model draws random numbers"
        return (
            None if self._form is not None else "the model is no plain sequence of layers that are written out by hand"
        )

    def _fast(self, works: Sequence[LocalWork]) -> list[Trained | QuorateError]:
        form = self._form
        if not isinstance(form, Stack):
            return [self._alone(work) for work in works]
        sizes = [work.sizes for work in works]
        results: list[Trained | QuorateError] = [
            Trained(work.start if each else work.start.clone(), 0.0, 0) for work, each in zip(works, sizes, strict=True)
        ]
        order = sorted((place for place, each in enumerate(sizes) if each), key=lambda place: _effort(sizes[place]))
        while order:
            pieces = -(-len(order) // self._at_once(form, sizes[order[0]]))
            count = -(-len(order) // pieces)
            places, order = order[:count], order[count:]
            for place, result in zip(places, self._side_by_side(form, [works[each] for each in places]), strict=True):
                results[place] = result
        return results

    def _at_once(self, form: Stack, sizes: Sequence[int]) -> int:
        """Return how many clients to take side by side; of the first, these are the sizes of the steps."""
        rows, features = len(sizes) * max(sizes), self.gradient.data.x[0].numel()
        entries = rows * features if few(form, rows) else self.gradient.layout.numel
        return max(1, min(_MOST, _ENTRIES // max(entries, 1)))

    def _side_by_side(self, form: Stack, works: Sequence[LocalWork]) -> Iterator[Trained | QuorateError]:
        assert self._losses is not None
        steps, motion = Steps.of(works), Motion.of(works, self.gradient.objective)
        n, count, b = steps.index.shape
        alike = all(work.start is works[0].start for work in works)
        if alike and motion.plain and few(form, count * b):
            factors = Factors(form, steps, motion)
            history = factors.run(self.gradient.data, self._losses)
            parameters: Iterator[Tensor] = (Unfolded.of(factors, client) for client in range(n))
        else:
            windows, d = Windows(form, steps, motion), self.gradient.layout.numel
            history = windows.run(self.gradient.data, self._losses)
            parameters = (windows.parameters(client, d) for client in range(n))
        for own, losses, sizes in zip(parameters, history.tolist(), steps.sizes, strict=True):
            yield _result(own, losses[: len(sizes) - sizes.count(0)])

    def _alone(self, work: LocalWork) -> Trained | QuorateError:
        assert isinstance(self._form, Chain)
        assert self._losses is not None
        motion = Motion.of([work], self.gradient.objective)
        try:
            return _result(*self._form.train(work, motion, self.gradient.data, self._losses))
        except QuorateError as error:
            return error


def _effort(sizes: Sequence[int]) -> tuple[int, int]:
    """Return what sorts those with the most, and the largest, steps to the front."""
    return -len(sizes), -max(sizes)


def _result(parameters: Tensor, losses: Sequence[float]) -> Trained | QuorateError:
    try:
        for loss in losses:
            require_finite(loss)
    except QuorateError as error:
        return error
    return Trained(parameters, sum(losses) / len(losses) if losses else 0.0, len(losses))
