"""Gradients exchanged in flat buckets while backward still runs, on real processes.

A bucket's exchange starts when its last gradient is there, in one fixed order on all ranks, and all are awaited at the
end of backward, each by one wait in turn: the loop around it stays as it is.

Source: Li et al., "PyTorch Distributed: experiences on accelerating data parallel training", VLDB 2020, section 3.2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quorate.aggregators import name_of
from quorate.codecs import State
from quorate.collectives.auto import overlapping
from quorate.engines import bucket_state
from quorate.engines.processes import ProcessNode
from quorate.engines.waiting import Started, together
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.flat import Layout
from quorate.rand import At, Rand
from quorate.trees import map_tree

_FIRST, _OTHERS = 1 << 20, 25 << 20  # bytes of the bucket that is ready first, and of the others: as torch's DDP has it


class Bucket:
    """Some parameters' gradients in one flat tensor (d,), each parameter's a view of it."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], exchange: Exchange, share: float) -> None:
        self.parameters = [parameter for _, parameter in named]
        first = self.parameters[0]
        self.layout = laid_out([(name, parameter.shape) for name, parameter in named], first.dtype)
        self.flat = torch.zeros(self.layout.numel, dtype=first.dtype, device=first.device)
        self.views = list(self.layout.views(self.flat).values())
        self._share = share
        self.exchange = exchange.laid_out(self.layout)
        self.state: State = self.exchange.init(self.flat)
        self.missing = set(range(len(named)))
        self.under_way: Started[tuple[Tensor, State]] | None = None
        self.ready = 0.0

    @property
    def share(self) -> float:
        """What gradients are multiplied by on their way into the bucket."""
        return self._share if self.exchange.sums_in_flight else 1.0

    def use(self, exchange: Exchange) -> None:
        """Go on with another exchange; what is left unsaid is kept if it can remember it under the same name."""
        before, kept = self.share, bucket_state.split(self.state, self.layout)
        self.exchange = exchange.laid_out(self.layout)
        fresh = bucket_state.join(self.exchange.init(self.flat), self.layout, kept)
        change = self.share / before
        self.state = map_tree(lambda each: each.mul_(change) if each.shape == self.flat.shape else each, fresh)


@dataclass(frozen=True)
class Seconds:
    """What the last backward pass took.

    Args:
        ready: from its first gradient to the last one of each bucket.
        backward: from its first gradient to its last.
        waited: from then until all buckets were exchanged.
    """

    ready: tuple[float, ...]
    backward: float
    waited: float


class Overlap:
    """Averages a model's gradients over all workers within every `loss.backward()`.

    All workers start from rank 0's parameters and buffers. Gradients of parameters that a backward pass does not reach
    count as zero.

    Args:
        model: its parameters' `.grad` are the averages when backward returns.
        node: this process's.
        exchange: codec and aggregator; each bucket is an update of its own. Or one for each bucket.
        weights: one number per worker, the same on all, which sum to 1; None: all equal.
        rand: the stream of codecs that draw random numbers.
        bucket_bytes: sizes of the first bucket and the others, at least.

    Raises:
        QuorateError: if the model has no trainable parameter, there are not as many exchanges as buckets, or several
            meetings of an exchange can't be under way at once; from `loss.backward()`, a RunError that names step, rank
            and parameter if a gradient is not finite but a codec has to say it.
    """

    def __init__(
        self,
        model: nn.Module,
        node: ProcessNode,
        exchange: Exchange | Sequence[Exchange] | None = None,
        *,
        weights: Sequence[float] | None = None,
        rand: Rand | None = None,
        bucket_bytes: tuple[int, int] = (_FIRST, _OTHERS),
    ) -> None:
        self.node, self.weights, self.rand = node, weights, rand or Rand(0)
        self.step = 0
        self.seconds = Seconds((), 0.0, 0.0)
        share = 1 / node.size if weights is None else weights[node.rank]
        trainable = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        if not trainable:
            raise QuorateError("the model has no trainable parameter to exchange gradients of")
        groups = _grouped(trainable[::-1], bucket_bytes)
        exchanges = [exchange or Exchange()] * len(groups) if not isinstance(exchange, Sequence) else exchange
        if len(exchanges) != len(groups):
            raise QuorateError(
                f"{len(exchanges)} exchanges were given for {len(groups)} buckets", "one for each bucket"
            )
        exchanges = [able_to_overlap(each) for each in exchanges]
        broadcast(model)
        self.buckets = [Bucket(group, each, share) for group, each in zip(groups, exchanges, strict=True)]
        self._started, self._queued, self._paused = 0, False, False
        self._began = 0.0
        self._handles = []
        for bucket in self.buckets:
            for position, parameter in enumerate(bucket.parameters):
                ready = self._hook(bucket, position)
                self._handles.append(parameter.register_post_accumulate_grad_hook(ready))

    def use(self, index: int, exchange: Exchange) -> None:
        """Exchange a bucket otherwise from the next backward pass on; all ranks do the same between the same steps.

        What the codec before has left unsaid is kept if the new one remembers it too.

        Raises:
            QuorateError: if several meetings of the exchange can't be under way at once, or this is no such time.
        """
        if self._queued:
            raise QuorateError("an exchange can't be replaced while backward runs", "call it after `loss.backward()`")
        self.buckets[index].use(able_to_overlap(exchange))

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of this rank's number of steps and of what its codecs remember, by parameter names."""
        held = {"step": torch.tensor(self.step)}
        for bucket in self.buckets:
            held |= bucket_state.split(bucket.state, bucket.layout)
        return held

    def load_state_dict(self, held: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned for the same rank; the buckets may be others.

        Raises:
            QuorateError: if what the codecs remember of a parameter is missing, or of another shape.
        """
        fresh = [bucket.exchange.init(bucket.flat) for bucket in self.buckets]
        for bucket, state in zip(self.buckets, fresh, strict=True):
            bucket_state.join(state, bucket.layout, held, complete=True)
        for bucket, state in zip(self.buckets, fresh, strict=True):
            bucket.state = state
        self.step = int(held["step"])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let gradients of the backward passes within add up without being exchanged (gradient accumulation)."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def close(self) -> None:
        """Leave the model alone."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, bucket: Bucket, position: int) -> Callable[[Tensor], None]:
        view = bucket.views[position]

        def ready(parameter: Tensor) -> None:
            if self._paused:
                return
            if not self._queued:
                self._queued, self._began = True, time.perf_counter()
                torch.autograd.Variable._execution_engine.queue_callback(self._finish)
            gradient = parameter.grad
            assert gradient is not None
            # One pass over memory: the copy into the bucket is where the weight is multiplied in.
            if bucket.share != 1:
                torch.mul(gradient, bucket.share, out=view)
            elif gradient is not view:
                view.copy_(gradient)
            if gradient is not view:
                parameter.grad = view
            bucket.missing.discard(position)
            if not bucket.missing:
                bucket.ready = time.perf_counter() - self._began
                self._start()

        return ready

    def _start(self) -> None:
        """Start the exchanges of all buckets that are complete, up to the first that is not."""
        while self._started < len(self.buckets) and not self.buckets[self._started].missing:
            bucket = self.buckets[self._started]
            at = At(self.step, self.node.rank, self.node.size, self.rand.fold("bucket", self._started))
            weighted = bucket.exchange.sums_in_flight
            self._started += 1
            bucket.under_way = Started(
                bucket.exchange(self.node, bucket.flat, bucket.state, at, self.weights, weighted=weighted)
            )

    def _finish(self) -> None:
        backward = time.perf_counter() - self._began
        for bucket in self.buckets:
            for position in bucket.missing:
                bucket.views[position].zero_()
                bucket.parameters[position].grad = bucket.views[position]
                bucket.ready = backward
            bucket.missing = set()
        self._start()
        under_way = [bucket.under_way for bucket in self.buckets if bucket.under_way is not None]
        for bucket, (combined, state) in zip(self.buckets, together(under_way), strict=True):
            if combined.data_ptr() != bucket.flat.data_ptr():
                bucket.flat.copy_(combined)
            bucket.state, bucket.under_way = state, None
            bucket.missing = set(range(len(bucket.parameters)))
        waited = time.perf_counter() - self._began - backward
        self.seconds = Seconds(tuple(bucket.ready for bucket in self.buckets), backward, waited)
        self._started, self._queued = 0, False
        self.step += 1
        self.node.at_step(self.step)


def able_to_overlap(exchange: Exchange) -> Exchange:
    """Return an exchange of which several meetings may be under way at once.

    Raises:
        QuorateError: if its collective's messages would be mixed up with those of another bucket.
    """
    collective = overlapping(exchange.collective)
    if collective is None:
        raise QuorateError(
            f"several buckets are exchanged at once, but `{name_of(exchange.collective)}` can't keep sums apart",
            "take the collective `backend`, `direct` or `auto`",
        )
    return exchange if collective is exchange.collective else replace(exchange, collective=collective)


def laid_out(named: Sequence[tuple[str, torch.Size]], dtype: torch.dtype) -> Layout:
    """Return the layout of parameters, by name and shape, one after another."""
    places, offset = [], 0
    for name, shape in named:
        places.append((name, shape, offset))
        offset += shape.numel()
    return Layout(tuple(places), offset, dtype)


def broadcast(model: nn.Module) -> None:
    """Give all workers rank 0's parameters and buffers."""
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor.detach(), 0)


def _grouped(named: list[tuple[str, nn.Parameter]], sizes: tuple[int, int]) -> list[list[tuple[str, nn.Parameter]]]:
    """Fill buckets with parameters of one dtype and device, in the order in which gradients come."""
    groups: list[list[tuple[str, nn.Parameter]]] = []
    filled = 0
    for name, parameter in named:
        limit = sizes[0] if len(groups) <= 1 else sizes[1]
        last = groups[-1][0][1] if groups else None
        same = last is not None and (last.dtype, last.device) == (parameter.dtype, parameter.device)
        if not same or filled >= limit:
            groups.append([])
            filled = 0
        groups[-1].append((name, parameter))
        filled += parameter.numel() * parameter.element_size()
    return groups
