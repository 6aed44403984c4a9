"""Ways to train one model on several real workers, to be compared: Quorate's, torch's, and without any exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import codings
import torch
import torch.distributed as dist
from overlap import MODELS, SHAPES
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn import functional

from quorate.codecs import Codec
from quorate.collectives.direct import direct
from quorate.engines.overlap import Overlap
from quorate.engines.processes import ProcessNode
from quorate.engines.tuning import Tuning, tune
from quorate.exchange import Exchange
from quorate.flat import Layout
from quorate.loop import Driven
from quorate.periods import Period
from quorate.periods.adaptive import Adaptive
from quorate.periods.every import every
from quorate.programs.local_sgd import local_sgd
from quorate.rand import Rand
from quorate.tasks.cifar10 import cifar10
from quorate.tasks.mnist import mnist

PEERS = ("ddp fp32", "ddp fp16", "ddp power_sgd", "ddp post-local")
BATCH, LR, MOMENTUM, PERIOD = 32, 0.05, 0.9, 8
SHORT = 100_000  # bytes of a message up to which one latency is worth more than a ring's fewer bytes
_ADAPTED = 64  # steps in which the adaptive period stands still


@dataclass
class Contender:
    """A model in training.

    Args:
        module: holds the parameters.
        called: is called on inputs.
        period: steps after which what happens repeats itself.
        local: whether workers' parameters differ between meetings.
        tuning: chooses what is said in its first steps.
    """

    module: nn.Module
    called: nn.Module
    optimizer: Any
    period: int = 1
    local: bool = False
    tuning: Tuning | None = None
    held: list[Any] = field(default_factory=list)

    def step(self, x: Tensor, y: Tensor) -> None:
        """Take one step on a batch."""
        self.optimizer.zero_grad()
        functional.cross_entropy(self.called(x), y).backward()
        self.optimizer.step()
        if self.tuning is not None:
            self.tuning.step()

    def parameters(self) -> Tensor:
        """Return a copy of the parameters (d,); of workers that differ, the mean."""
        flat = torch.cat([each.detach().reshape(-1) for each in self.module.parameters()])
        if self.local:
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
        return flat


def fresh(model: str, momentum: float = MOMENTUM) -> tuple[nn.Module, torch.optim.SGD]:
    """Return a model with the same initial parameters on all workers, and its optimizer."""
    torch.manual_seed(0)
    module = MODELS[model]()
    return module, torch.optim.SGD(module.parameters(), LR, momentum=momentum)


def alone(model: str, node: ProcessNode) -> Contender:
    """Exchange nothing: what computing takes."""
    module, optimizer = fresh(model)
    return Contender(module, module, optimizer)


def ddp(model: str, node: ProcessNode, *, hook: Callable[..., Any] | None = None, state: Any = None) -> Contender:
    """Use torch's DistributedDataParallel; its PowerSGD hook needs all gradients in one bucket."""
    module, optimizer = fresh(model)
    called = nn.parallel.DistributedDataParallel(module, bucket_cap_mb=1000 if hook is powerSGD_hook else None)
    if hook is not None:
        called.register_comm_hook(state() if state else None, hook)
    return Contender(module, called, optimizer)


def post_local(model: str, node: ProcessNode) -> Contender:
    """Use torch's post-local SGD: each worker a node of its own, parameters averaged every eighth step."""
    subgroup, _ = dist.new_subgroups(1)
    made = ddp(model, node, hook=post_localSGD_hook, state=lambda: PostLocalSGDState(None, subgroup, 2))
    made.optimizer = PostLocalSGDOptimizer(made.optimizer, PeriodicModelAverager(period=PERIOD, warmup_steps=2))
    made.period, made.local = PERIOD, True
    return made


def overlap(model: str, node: ProcessNode, codec: Codec) -> Contender:
    """Use `Overlap` with a codec; where it corrects the momentum, the optimizer has none. Short sums go directly."""
    module, optimizer = fresh(model, 0.0 if getattr(codec, "momentum", 0.0) else MOMENTUM)
    exchange = Exchange(codec)
    like = torch.empty(sum(each.numel() for each in module.parameters()), device="meta")
    if exchange.sums_in_flight and exchange.laid_out(Layout.of(module)).bytes_said(like) < SHORT:
        exchange = Exchange(codec, collective=direct)
    made = Overlap(module, node, exchange, rand=Rand(0))
    return Contender(module, module, optimizer, held=[made])


def adaptive(model: str, node: ProcessNode) -> Contender:
    """Use `Overlap`, and let it choose by itself what each bucket says."""
    module, optimizer = fresh(model)
    made = Overlap(module, node, Exchange(), rand=Rand(0))
    return Contender(module, module, optimizer, held=[made], tuning=tune(made))


def periodic(model: str, node: ProcessNode, *, period: Period) -> Contender:
    """Drive the program `local_sgd` by the loop."""
    module, sgd = fresh(model)

    driven = Driven(module, sgd, partial(local_sgd, period=period), node)
    return Contender(module, module, sgd, period=PERIOD, local=True, held=[driven])


def make(name: str, model: str, node: ProcessNode, *, ratio: float, warm_up: int, momentum: float) -> Contender:
    """Make a way to train by its name: one of `WAYS`, or a codec's, which `Overlap` is used with.

    Args:
        ratio: k / d of sparsifiers whose name gives none.
        warm_up: steps in which their ratio falls to it.
        momentum: of their momentum correction; 0: the optimizer's own instead.

    Raises:
        RecipeError: if there is no such codec.
    """
    if name in WAYS:
        return WAYS[name](model, node)
    codec = codings.build("identity" if name == "dense" else name, ratio=ratio, warm_up=warm_up, momentum=momentum)
    return overlap(model, node, codec)


WAYS: dict[str, Callable[[str, ProcessNode], Contender]] = {
    "alone": alone,
    "ddp fp32": ddp,
    "ddp fp16": partial(ddp, hook=fp16_compress_hook),
    "ddp power_sgd": partial(
        ddp,
        hook=powerSGD_hook,
        state=partial(PowerSGDState, None, 1, start_powerSGD_iter=2, min_compression_rate=1),
    ),
    "ddp post-local": post_local,
    "adaptive": adaptive,
    "local_sgd": partial(periodic, period=partial(every, tau=PERIOD)),
    "local_sgd adaptive": partial(periodic, period=Adaptive(sampling=_ADAPTED / (1 << 62))),
}


@dataclass(frozen=True)
class Samples:
    """Training data of one worker, and test data.

    Args:
        x: (n, ...), this worker's.
        y: (n,).
        real: whether the data set was there.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    rank: int
    real: bool

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of a step, the same for all ways."""
        chosen = torch.randint(len(self.x), (BATCH,), generator=Rand(7).fold("batch", self.rank, step).generator())
        return self.x[chosen], self.y[chosen]

    @torch.no_grad()
    def measured(self, model: str, parameters: Tensor, count: int | None = None) -> tuple[float, float]:
        """Return loss and accuracy on the test data, or on the first `count` of them, of parameters (d,)."""
        module = MODELS[model]()
        nn.utils.vector_to_parameters(parameters, module.parameters())
        outputs = torch.cat([module(part) for part in self.test_x[:count].split(1000)])
        labels = self.test_y[:count]
        loss = float(functional.cross_entropy(outputs, labels))
        return loss, float((outputs.argmax(1) == labels).double().mean())


def samples(model: str, data: Path | None, rank: int, size: int) -> Samples:
    """Load MNIST or CIFAR-10; without a data folder, make classes of Gaussian noise around random means."""
    if data is None:
        generator = torch.Generator().manual_seed(11)
        means = torch.randn(10, *SHAPES[model], generator=generator)
        y = torch.randint(10, (6_000,), generator=generator)
        noise = torch.randn(len(y), *SHAPES[model], generator=generator)
        x = 0.12 * means[y] + noise
        train_x, train_y, test_x, test_y = x[1_000:], y[1_000:], x[:1_000], y[:1_000]
    else:
        task = mnist(data=data, model="mlp") if model == "mlp" else cifar10(data=data)
        train_x, train_y, test_x, test_y = task.train.x, task.train.y, task.test.x, task.test.y
    return Samples(train_x[rank::size].clone(), train_y[rank::size].clone(), test_x, test_y, rank, data is not None)
