"""Run by two ranks of torchrun for test_ddp_hook.py: compressed gradients; every assertion stops the rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from quorate import ddp_hook
from quorate.codecs import Codec
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.power_sgd import PowerSgd
from quorate.codecs.top_k import TopK
from quorate.collectives.auto import auto
from quorate.collectives.direct import direct
from quorate.collectives.ring import ring
from quorate.engines.group import group
from quorate.engines.overlap import Overlap
from quorate.engines.processes import ProcessNode
from quorate.errors import QuorateError, RunError
from quorate.exchange import Exchange
from tests.engines.overlap_program import flat, loss, model, train

STEPS = 4
ONE, SEVERAL = (1 << 30, 1 << 30), (400, 4000)  # sizes of buckets
TOP_K = ErrorFeedback(TopK(0.05))
EXCHANGES = (Exchange(TOP_K), Exchange(PowerSgd(2)), Exchange(PowerSgd(), collective=direct))
Named = dict[str, Tensor]


def same_everywhere(tensor: Tensor) -> bool:
    both = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(both, tensor)
    return torch.equal(*both)


def gradients(module: nn.Module) -> Named:
    return {name.removeprefix("module."): each.grad.clone() for name, each in module.named_parameters()}


def local(rank: int, step: int) -> Named:
    """Return what a rank's gradient would be on its own."""
    module = model()
    loss(module, rank, step).backward()
    return gradients(module)


def mean(step: int, weights: tuple[float, float]) -> Named:
    both = [local(rank, step) for rank in range(2)]
    return {name: weights[0] * both[0][name] + weights[1] * both[1][name] for name in both[0]}


def unsaid(codec: Codec, held: Named, rank: int, weights: tuple[float, float]) -> Named:
    """Return the mean of what both ranks remember, by parameter; sums are formed of what has been weighted before."""
    own = {name.removeprefix("residual/"): each for name, each in held.items() if name.startswith("residual/")}
    share = 1.0 if isinstance(codec, PowerSgd) else weights[rank]
    totals = {name: share * each for name, each in sorted(own.items())}
    for each in totals.values():
        dist.all_reduce(each)
    return totals


Way = Callable[[Exchange, tuple[float, float]], Iterator[tuple[nn.Module, nn.Module, Callable[[], Named]]]]


def overlapped(node: ProcessNode, sizes: tuple[int, int]) -> Way:
    @contextmanager
    def way(exchange, weights):
        module = model()
        over = Overlap(module, node, exchange, weights=weights, bucket_bytes=sizes)
        assert len(over.buckets) == (1 if sizes is ONE else 3)
        yield module, module, over.state_dict
        assert over.seconds.waited > 0
        assert len(over.seconds.ready) == len(over.buckets)
        assert 0 <= over.seconds.ready[0] <= over.seconds.ready[-1] <= over.seconds.backward
        over.close()

    return way


def hooked(node: ProcessNode, cap: float) -> Way:
    @contextmanager
    def way(exchange, weights):
        module = model()
        called = nn.parallel.DistributedDataParallel(module, bucket_cap_mb=cap)
        hook = ddp_hook(exchange, node, weights=weights)
        buckets = set()

        def counted(state, bucket):
            buckets.add(bucket.index())
            return hook(state, bucket)

        called.register_comm_hook(called, counted)
        yield called, module, hook.state_dict
        assert len(buckets) == (1 if cap > 1 else 3)

    return way


def nothing_is_lost(node: ProcessNode) -> None:
    """What has been said in all steps, and what is still to be said, make up the gradients; for any buckets."""
    names = set(local(0, 0))
    for way in (overlapped(node, ONE), overlapped(node, SEVERAL), hooked(node, 25), hooked(node, 0.001)):
        for exchange in EXCHANGES:
            for weights in ((0.5, 0.5), (0.25, 0.75)):
                with way(exchange, weights) as (called, module, state_dict):
                    said = dict.fromkeys(names, 0.0)
                    for step in range(STEPS):
                        module.zero_grad()
                        loss(called, node.rank, step).backward()
                        got = gradients(module)
                        assert same_everywhere(torch.cat([each.reshape(-1) for each in got.values()]))
                        said = {name: said[name] + got[name] for name in names}
                        if step == 0:
                            within_the_bound(exchange, got, mean(0, weights))
                    left = unsaid(exchange.codec, state_dict(), node.rank, weights)
                    wanted = [mean(step, weights) for step in range(STEPS)]
                    for name in names:
                        torch.testing.assert_close(
                            said[name] + left[name], sum(each[name] for each in wanted), rtol=1e-4, atol=1e-6
                        )


def within_the_bound(exchange: Exchange, got: Named, wanted: Named) -> None:
    off = sum(float((got[name] - wanted[name]).square().sum()) for name in wanted)
    size = sum(float(each.square().sum()) for each in wanted.values())
    assert 0 < off <= size, f"{exchange}: {off} of {size}"


def the_hook_and_overlap_agree(node: ProcessNode) -> None:
    """One bucket of all parameters: the largest entries are the same ones in any order."""
    with overlapped(node, ONE)(Exchange(TOP_K), (0.5, 0.5)) as (called, module, _):
        expected = train(called, module, node.rank)
    with hooked(node, 25)(Exchange(TOP_K), (0.5, 0.5)) as (called, module, _):
        assert torch.equal(train(called, module, node.rank), expected)


def two_changed_lines(node: ProcessNode) -> None:
    for name in ("power_sgd", "top_k"):
        module = model()
        called = nn.parallel.DistributedDataParallel(module, bucket_cap_mb=0.001)
        called.register_comm_hook(None, ddp_hook(name))
        assert same_everywhere(train(called, module, node.rank))


def another_exchange_goes_on_with_what_is_left(node: ProcessNode) -> None:
    module = model()
    over = Overlap(module, node, [Exchange(TOP_K), Exchange(), Exchange(TOP_K)], bucket_bytes=SEVERAL)
    loss(module, node.rank, 0).backward()
    before = over.state_dict()
    assert {name.split("/")[1] for name in before if "/" in name} == {
        *over.buckets[0].layout.views(over.buckets[0].flat),
        *over.buckets[2].layout.views(over.buckets[2].flat),
    }
    over.use(0, Exchange(PowerSgd()))  # remembers what has been multiplied by the weight
    over.use(2, Exchange(ErrorFeedback(TopK(0.5))))
    after = over.state_dict()
    for index, share in ((0, 0.5), (2, 1.0)):
        for name, _, _ in over.buckets[index].layout.places:
            assert torch.equal(after[f"residual/{name}"], share * before[f"residual/{name}"])
        assert over.buckets[index].state["residual"].abs().sum() > 0
    module.zero_grad()
    loss(module, node.rank, 1).backward()
    assert same_everywhere(torch.cat([each.reshape(-1) for each in gradients(module).values()]))


def a_resumed_run_is_the_uninterrupted_one(node: ProcessNode) -> None:
    for exchange in EXCHANGES:
        ends = []
        for stop in (STEPS, 2):
            module = model()
            over = Overlap(module, node, exchange, bucket_bytes=SEVERAL)
            for step in range(STEPS):
                if step == stop:
                    held, parameters = over.state_dict(), module.state_dict()
                    over.close()
                    module = model()
                    module.load_state_dict(parameters)
                    over = Overlap(module, node, exchange, bucket_bytes=SEVERAL)
                    over.load_state_dict(held)
                    other = Overlap(model(), node, exchange, bucket_bytes=ONE)
                    other.load_state_dict(held)
                    again = {name: each for name, each in other.state_dict().items() if name.startswith("residual")}
                    assert all(torch.equal(each, held[name]) for name, each in again.items())
                optimizer = torch.optim.SGD(module.parameters(), 0.1)
                optimizer.zero_grad()
                loss(module, node.rank, step).backward()
                optimizer.step()
            ends.append(flat(module))
        assert torch.equal(*ends)


def mistakes_are_explained(node: ProcessNode) -> None:
    module = model()
    with pytest.raises(QuorateError, match="`ring` can't keep sums apart"):
        Overlap(module, node, Exchange(collective=ring))
    with pytest.raises(QuorateError, match="2 exchanges were given for 3 buckets"):
        Overlap(module, node, [Exchange(), Exchange()], bucket_bytes=SEVERAL)
    over = Overlap(module, node, Exchange(TOP_K))
    with pytest.raises(QuorateError, match=r"`residual/4\.bias` should have the shape \[4\], but the"):
        over.load_state_dict({"step": torch.tensor(3)})
    over.close()
    with overlapped(node, SEVERAL)(Exchange(collective=auto), (0.5, 0.5)) as (called, module, _):
        assert same_everywhere(train(called, module, node.rank))
    for way in (overlapped(node, SEVERAL), hooked(node, 0.001)):
        with pytest.raises(RunError) as caught, way(Exchange(TOP_K), (0.5, 0.5)) as (called, _, _):
            (torch.nan * loss(called, node.rank, 0)).backward()
        assert f"step 1, rank {node.rank}: entry 0 of `" in str(caught.value)
        assert ".weight` of the update is nan, which error_feedback(" in str(caught.value).replace("bias", "weight")


def main() -> None:
    torch.set_num_threads(1)
    with group(timeout=200) as node:
        nothing_is_lost(node)
        the_hook_and_overlap_agree(node)
        two_changed_lines(node)
        another_exchange_goes_on_with_what_is_left(node)
        a_resumed_run_is_the_uninterrupted_one(node)
        mistakes_are_explained(node)
    print("all is well")


if __name__ == "__main__":
    main()
