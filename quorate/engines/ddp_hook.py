"""A codec as a communication hook of torch's DistributedDataParallel: two changed lines of an existing script.

Each bucket's exchange starts in its hook call. The call of the last bucket waits for all, each by one wait in turn, in
one order on all ranks: exchanges that meet several times are never mixed up.
"""

# No `from __future__ import annotations` here: DDP compares a hook's annotations with the classes themselves.

import atexit
import contextlib
import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from quorate import parts
from quorate.codecs import Codec, State
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.collectives.direct import direct
from quorate.engines import bucket_state
from quorate.engines.overlap import able_to_overlap, laid_out
from quorate.engines.processes import ProcessNode
from quorate.engines.waiting import Started, together
from quorate.exchange import Exchange, Meeting
from quorate.flat import Layout
from quorate.rand import At, Rand

_TINY = 1e-3  # share of an update's energy up to which what a codec loses is not worth remembering
_FEW = 8  # workers up to which everybody sends the messages of several meetings to everybody
_HOOKS = itertools.count()  # each has connections of its own


def ddp_hook(
    says: Exchange | Codec | str,
    node: ProcessNode | None = None,
    *,
    weights: Sequence[float] | None = None,
    rand: Rand | None = None,
) -> "DdpHook":
    """Return a codec as a hook: `ddp_model.register_comm_hook(None, ddp_hook("gaussian_k"))`.

    If the model is given in place of None, what codecs remember, and errors, have the names of its parameters.

    Args:
        says: an exchange, a codec, or a codec's name in recipes; one that loses much is then put inside
            `error_feedback`.
        node: this process's; None: one over the default group, which closes its connections when the process ends.
        weights: one number per worker, the same on all, which sum to 1; None: all equal.
        rand: the stream of codecs that draw random numbers.

    Raises:
        QuorateError: if there is no such codec, or several meetings of the exchange can't be under way at once; from
            the backward pass, a RunError that names step, rank and parameter if a gradient is not finite.
    """
    if isinstance(says, str):
        says = _of_name(says)
    size = node.size if node is not None else dist.get_world_size()
    if not isinstance(says, Exchange):
        alone = isinstance(says, Meeting) and size <= _FEW and (node is None or node.talks_alone)
        says = Exchange(says, collective=direct) if alone else Exchange(says)
    return DdpHook(able_to_overlap(says), node, weights, rand or Rand(0))


def _of_name(name: str) -> Codec:
    codec: Codec = parts.build("codec", {"name": name})
    loses = not codec.unbiased and not isinstance(codec, Meeting) and codec.bound(1 << 20) > _TINY
    return ErrorFeedback(codec) if loses else codec


class _Bucket:
    """One of DDP's buckets: what its codec remembers, as long as it holds the same parameters."""

    def __init__(self, names: list[str], bucket: GradBucket, exchange: Exchange, pieces: Mapping[str, Tensor]) -> None:
        flat = bucket.buffer()
        shapes = [parameter.shape for parameter in bucket.parameters()]
        self.names = names
        self.layout: Layout = laid_out(list(zip(names, shapes, strict=True)), flat.dtype)
        self.exchange = exchange.laid_out(self.layout)
        self.state: State = bucket_state.join(self.exchange.init(flat), self.layout, pieces)


class DdpHook:
    """A communication hook, as `ddp_hook` returns it."""

    def __init__(
        self, exchange: Exchange, node: ProcessNode | None, weights: Sequence[float] | None, rand: Rand
    ) -> None:
        self.__name__ = self.__qualname__ = "ddp_hook"  # what DDP calls it in its log
        self.step = 0
        self._exchange, self._node, self._weights, self._rand = exchange, node, weights, rand
        self._made_node = node is None
        self._names: dict[int, tuple[str, Tensor]] = {}
        self._buckets: dict[int, _Bucket] = {}
        self._pieces: dict[str, Tensor] = {}
        self._under_way: list[tuple[_Bucket, torch.futures.Future[Tensor], Started[tuple[Tensor, State]]]] = []

    def __call__(self, state: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Start a bucket's exchange, and, with the last one, bring all to their ends."""
        flat, held = bucket.buffer(), self._held(state, bucket)
        node = self._node_on(flat.device)
        at = At(self.step, node.rank, node.size, self._rand.fold("bucket", bucket.index()))
        started = Started(held.exchange(node, flat, held.state, at, self._weights))
        devices: list[int | str | torch.device] | None = None if flat.device.type == "cpu" else [flat.device]
        future: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
        self._under_way.append((held, future, started))
        if bucket.is_last():
            under_way, self._under_way = self._under_way, []
            self.step, self._pieces = self.step + 1, {}
            ends = together([started for _, _, started in under_way])
            for (each, waiting, _), (combined, after) in zip(under_way, ends, strict=True):
                each.state = after
                waiting.set_result(combined)
            node.at_step(self.step)
        return future

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of this rank's number of steps and of what its codecs remember, by parameter names."""
        held = {**self._pieces, "step": torch.tensor(self.step)}
        for bucket in self._buckets.values():
            held |= bucket_state.split(bucket.state, bucket.layout)
        return held

    def load_state_dict(self, held: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned for the same rank; what is not known counts as nothing remembered."""
        self.step = int(held["step"])
        self._pieces = {name: tensor for name, tensor in held.items() if name != "step"}
        self._buckets.clear()

    def close(self) -> None:
        """Close the connections that were made for the hook; at the end of the process it is called unasked."""
        if self._node is not None and self._made_node:
            with contextlib.suppress(RuntimeError, dist.DistError):  # the store's host may have gone before
                self._node.close()

    def _held(self, state: object, bucket: GradBucket) -> _Bucket:
        """Return what is remembered of a bucket; DDP cuts its buckets anew after the first step."""
        names = [self._name(state, parameter) for parameter in bucket.parameters()]
        held = self._buckets.get(bucket.index())
        if held is None or held.names != names:
            if held is not None:
                met = [each for each, _, _ in self._under_way]
                for index, each in list(self._buckets.items()):
                    if each not in met:
                        self._pieces |= bucket_state.split(each.state, each.layout)
                        del self._buckets[index]
            held = self._buckets[bucket.index()] = _Bucket(names, bucket, self._exchange, self._pieces)
        return held

    def _name(self, state: object, parameter: Tensor) -> str:
        if not self._names and isinstance(state, nn.Module):
            self._names = {id(each): (name.removeprefix("module."), each) for name, each in state.named_parameters()}
        number = f"parameter {len(self._names)}"
        return self._names.setdefault(id(parameter), (number, parameter))[0]

    def _node_on(self, device: torch.device) -> ProcessNode:
        if self._node is None:
            store = PrefixStore(f"quorate-hook-{next(_HOOKS)}", _get_default_store())
            self._node = ProcessNode(store=store, device=device)
            atexit.register(self.close)
        return self._node
