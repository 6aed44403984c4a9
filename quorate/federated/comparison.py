"""Whether a federation is worth it: its model against what each client comes to alone, and against pooled data.

All three start from the same parameters, take the same steps, and are measured on the same data: each client's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quorate import checkpoint
from quorate.errors import QuorateError
from quorate.federated.alone import alone, pooled
from quorate.federated.client import Client
from quorate.federated.evaluation import Own, spread
from quorate.federated.local import Train
from quorate.federated.record import read_rounds
from quorate.federated.summary import Found, Values, summary
from quorate.files import write_json
from quorate.rand import Rand
from quorate.settings import ComparisonSettings
from quorate.trees import Tree

FILE = "clients.json"
FOLDER = "comparison"
AT_ONCE = 10  # clients that train alone between two times that results are kept
LABELS = 50  # clients whose labels are kept
TESTED = {
    "held out": "samples that it holds out",
    "keys": "the test samples of its keys",
    "labels": "the test data, by the shares of its labels",
    "all": "all test data",
}


def took_part(where: Path, size: int) -> tuple[int, list[int]]:
    """Return how many rounds a run's folder tells of, and how often each client's reply was accepted."""
    counts, lines = [0] * size, read_rounds(where)
    for line in lines:
        for client in line["accepted"]:
            counts[client] += 1
    return len(lines), counts


def sampled(size: int, count: int, rand: Rand) -> list[int]:
    """Return the numbers of so many clients, ascending; all, if there are no more."""
    order = torch.randperm(size, generator=rand.fold("comparison").generator())
    return sorted(order[:count].tolist())


class Comparison:
    """Measures a simulated federation, and what it is compared with.

    Args:
        clients: what all have in common.
        shards: (n,) positions of each one's samples in the training data.
        settings: what is compared.
        train: works out local work; None: one by one.
    """

    def __init__(
        self, clients: Client, shards: Sequence[Tensor], settings: ComparisonSettings, train: Train | None = None
    ) -> None:
        self._clients, self._shards, self._settings = clients, shards, settings
        self._train = train or clients.train
        self._chosen = sampled(len(shards), settings.clients, clients.training.rand)

    @cached_property
    def _owns(self) -> list[Own]:
        own = self._clients.measuring.own
        return [own(client, shard) for client, shard in enumerate(self._shards)]

    def federated(self, parameters: Tensor, memory: Callable[[int], Tree]) -> Values:
        """Measure a federation's model; if clients have models of their own, these, of a sample of clients.

        Args:
            parameters: (d,), the server's.
            memory: what a client remembers.
        """
        own = {client: self._clients.personal(parameters, memory(client)) for client in self._chosen}
        if all(each is parameters for each in own.values()):
            return self._measured(parameters, range(len(self._shards)))
        return {client: value for client, each in own.items() for value in self._measured(each, [client]).values()}

    def during(self, parameters: Tensor, memory: Callable[[int], Tree]) -> dict[str, float]:
        """Return what is recorded of the clients in the middle of a run: the mean, and the ends of the distribution."""
        values = spread(list(self.federated(parameters, memory).values()), self._clients.measuring.rises)
        return {f"clients_{name}": values[name] for name in ("mean", "worst_decile", "best_decile")}

    def _measured(self, parameters: Tensor, clients: Sequence[int]) -> Values:
        values = self._clients.measuring.values(parameters, [self._owns[client] for client in clients])
        return {client: value for client, value in zip(clients, values, strict=True) if value is not None}

    def run(self, parameters: Tensor, memory: Callable[[int], Tree], where: Path) -> dict[str, Any]:
        """Compare, keeping what has been found in the run's folder; one that was broken off goes on.

        Args:
            parameters: (d,), the server's last.
            memory: what a client remembers.
            where: the folder; its record of the rounds tells how much the federation has trained.

        Returns:
            What `run.json` says; see `summary`. Each client's values are in `clients.json`.
        """
        rounds, counts = took_part(where, len(self._shards))
        found = Found(self.federated(parameters, memory))
        stages = _Stages(where / FOLDER, f"{rounds} {self._settings!r}")
        if self._settings.alone:
            self._alone(found, stages, max(counts), rounds)
        if self._settings.pooled:
            self._pooled(found, stages, counts, rounds)
        measuring = self._clients.measuring
        tested = sorted({TESTED[own.how] for own in self._owns})
        write_json(where / FILE, self._file(found, counts))
        return summary(found, measuring.name, measuring.rises, " or ".join(tested))

    def _samples(self, client: int) -> int:
        """Return the gradients of single samples that a client takes in a round."""
        return self._clients.settings.epochs * self._clients.samples(client, self._shards[client])

    def _alone(self, found: Found, stages: _Stages, most: int, rounds: int) -> None:
        wanted = self._settings.times or max(1, most)
        affordable = self._settings.samples // max(1, sum(map(self._samples, self._chosen)))
        found.times = min(wanted, max(1, affordable))
        if found.times < wanted:
            found.notes.append(f"alone: {found.times} instead of {wanted} times a round's epochs, to save time")
        done: dict[str, float | None] = stages.facts.setdefault("alone", {})
        failed: dict[str, str] = stages.facts.setdefault("failed", {})
        left = [client for client in self._chosen if str(client) not in done]
        for first in range(0, len(left), AT_ONCE):
            group = left[first : first + AT_ONCE]
            trained = alone(
                self._clients.local,
                self._clients.learning_rate,
                [(client, self._shards[client]) for client in group],
                found.times,
                rounds,
                self._train,
            )
            for client, each in zip(group, trained, strict=True):
                if isinstance(each, QuorateError):
                    failed[str(client)] = each.problem
                    done[str(client)] = None
                else:
                    done[str(client)] = self._measured(each, [client]).get(client)
            stages.keep()
        found.alone = {client: value for client in self._chosen if (value := done[str(client)]) is not None}
        found.notes += [f"alone: client {client} failed: {why}" for client, why in failed.items()]

    def _pooled(self, found: Found, stages: _Stages, counts: Sequence[int], rounds: int) -> None:
        wanted = sum(count * self._samples(client) for client, count in enumerate(counts))
        found.samples = min(wanted, self._settings.samples)
        if found.samples < wanted:
            found.notes.append(f"pooled: {found.samples:,} instead of {wanted:,} gradients, to save time")
        everything = torch.cat([self._clients.local(i, 0, each, {}).shard for i, each in enumerate(self._shards)])
        local = replace(self._clients.local(0, 0, self._shards[0], {}), shard=everything.sort().values)
        first, parameters = stages.pooled(local.initial)
        try:
            parameters = pooled(
                local,
                self._clients.learning_rate,
                parameters,
                found.samples,
                rounds,
                self._train,
                first,
                stages.went_on,
            )
            found.pooled = self._measured(parameters, sorted(found.federated))
        except QuorateError as error:
            found.notes.append(f"pooled: failed: {error.problem}")

    def _file(self, found: Found, counts: Sequence[int]) -> dict[str, Any]:
        """Return what `clients.json` says: lists with an entry per client, null where nothing was measured."""
        numbers, measuring = range(len(self._shards)), self._clients.measuring
        labels = [measuring.labels(self._shards[client]) for client in numbers[:LABELS]]
        return {
            "measure": measuring.name,
            "rises": measuring.rises,
            "samples": [self._clients.samples(client, self._shards[client]) for client in numbers],
            "took_part": list(counts),
            **{name: [getattr(found, name).get(i) for i in numbers] for name in ("federated", "alone", "pooled")},
            "labels": None if None in labels else labels,
        }


class _Stages:
    """What a comparison has come to, kept on the disk.

    Args:
        folder: of the comparison.
        plan: what is compared; results of another plan are not used.
    """

    def __init__(self, folder: Path, plan: str) -> None:
        self._folder, self._plan = folder, plan
        kept = checkpoint.latest(folder, 1)
        self._tree: Tree = {}
        self._stage = 0
        self.facts: dict[str, Any] = {}
        if kept is not None:
            self._stage = kept.step
            if kept.facts[0].get("plan") == plan:
                self.facts, self._tree = dict(kept.facts[0]), kept.shared
        self.facts["plan"] = plan

    def keep(self) -> None:
        """Write down what there is."""
        self._stage += 1
        checkpoint.write(self._folder, self._stage, 0, 1, self._tree, {}, self.facts)

    def pooled(self, initial: Tensor) -> tuple[int, Tensor]:
        """Return how many pieces of the training on pooled data are done, and the parameters (d,) after them."""
        held = self._tree.get("parameters")
        return (int(self.facts.get("pieces", 0)), held) if isinstance(held, Tensor) else (0, initial)

    def went_on(self, piece: int, parameters: Tensor) -> None:
        """Write down the parameters after a piece of the training on pooled data."""
        self.facts["pieces"], self._tree = piece, {"parameters": parameters}
        self.keep()
