"""AD-PSGD among the ways that `slow_links.py` compares: no worker's step waits for all, so it runs by itself.

Run it by `slow_links.py --methods "ddp fp32" ad_psgd`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from contenders import BATCH, LR, MOMENTUM, samples
from overlap import MODELS
from torch import Tensor
from torch.nn import functional

from quorate.engines.processes import ProcessNode
from quorate.exchange import Exchange
from quorate.learning_rates.steps import steps as decayed
from quorate.optimizer import Optimizer
from quorate.partitions.iid import iid
from quorate.programs.ad_psgd import ad_psgd
from quorate.rand import Rand
from quorate.tasks import Data, Task
from quorate.topologies.ring import ring
from quorate.training import Training
from quorate.trees import Tree, leaf

NAME = "ad_psgd"


class Watched:
    """A node whose worker's parameters are kept at every few steps."""

    def __init__(self, node: ProcessNode, every: int) -> None:
        self._node, self._every = node, every
        self.kept: list[tuple[int, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def commit(
        self, step: int, loss: float, shared: Tree, own: Tree, metrics: Mapping[str, float] | None = None
    ) -> None:
        """See `Node`."""
        if step % self._every == 0 and self._node.rank == 0:
            self.kept.append((step, leaf(own, "parameters").clone()))
        self._node.commit(step, loss, shared, own, metrics)


def training_of(model: str, data: Path | None, size: int) -> Training:
    """Return the same model and data as the other ways have."""
    whole = samples(model, data, 0, 1)
    train, test = Data(whole.x, whole.y), Data(whole.test_x, whole.test_y)
    return Training(Task(MODELS[model], functional.cross_entropy, train, test), iid, size, Rand(0))


def program(training: Training, node: Any, steps: int) -> Any:
    """Return the program, of a number of steps."""
    return ad_psgd(
        node,
        training,
        Exchange(),
        optimizer=Optimizer("sgd", {"lr": LR, "momentum": MOMENTUM}),
        topology=ring,
        steps=steps,
        batch=BATCH,
        learning_rate=partial(decayed, at=[steps * 3 // 4]),
    )


def timed(node: ProcessNode, options: argparse.Namespace, sent: Any) -> dict[str, Any]:
    """Return the blocks of its speed, each a whole run with its last average.

    Args:
        sent: () -> bytes that this rank has put on the wire, or None.
    """
    training = training_of(options.model, Path(options.data) if options.data else None, node.size)
    told: dict[str, Any] = {"chosen": None, "blocks": []}
    steps = 4
    for turn in range(options.repeats + 1):
        dist.barrier()
        wire, cpu, began = sent(), time.process_time(), time.perf_counter()
        node.run(program(training, node, steps))
        seconds, cpu = (time.perf_counter() - began) / steps, (time.process_time() - cpu) / steps
        wired = float("nan") if wire is None else (sent() - wire) / steps
        if turn:
            told["blocks"].append({"seconds": seconds, "cpu": cpu, "wire": wired})
        else:
            agreed = [seconds]
            dist.broadcast_object_list(agreed, 0)
            steps = max(4, round(options.seconds / options.repeats / agreed[0]))
    return told | {"steps": steps}


def learned(node: ProcessNode, options: argparse.Namespace, every: int) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Return rank 0's parameters every few of the steps of a run, and what all have agreed on at its end."""
    training = training_of(options.model, Path(options.data) if options.data else None, node.size)
    watched = Watched(node, every)
    return watched.kept, node.run(program(training, watched, options.steps))
