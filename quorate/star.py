"""A federated recipe as a server and clients on machines of their own: the star that real federations are.

The server writes the same run folder as a simulation does; what it needs to go on after a crash is in `federation/`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import quorate
from quorate import folder
from quorate.checkpoint import Checkpoint
from quorate.engines.federation import FederationServer, Stopped
from quorate.engines.federation_client import FederationClient
from quorate.engines.federation_desk import Rules
from quorate.engines.federation_farewell import tell_the_rest
from quorate.engines.federation_part import Bearer, Part
from quorate.engines.federation_reception import Shown, listening
from quorate.engines.federation_store import Committed, Store
from quorate.errors import RunError
from quorate.federated import Answer, Request
from quorate.federated.client import Asked, Client
from quorate.federated.questions import compare
from quorate.federated.record import Rounds
from quorate.federated.setup import client_of
from quorate.federated.summary import in_numbers
from quorate.partitions.iid import iid
from quorate.rand import Rand
from quorate.recipe import Recipe
from quorate.recorder import Progress, RunRecorder
from quorate.trace import Trace
from quorate.training import Training
from quorate.trees import Tree
from quorate.wire import Message

ENGINE = "federation"
_ELSEWHERE = ("availability",)  # tables that say nothing about what server and clients do together

Told = Callable[[str], None]
Beside = Callable[[FederationServer], AbstractAsyncContextManager[object]]


def tell(text: str) -> None:
    """Say something to whoever looks on."""
    print(text, file=sys.stderr, flush=True)


def configuration(recipe: Recipe) -> dict[str, str]:
    """Return a hash of every part of a recipe that server and clients must agree on, by key."""
    told: dict[str, Any] = {"seed": recipe.seed, "workers": recipe.workers}
    told |= {key: table for key, table in recipe.tables.items() if key not in _ELSEWHERE}
    told["quorate"] = quorate.__version__.split(".")[0]
    return {key: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() for key, value in told.items()}


def require_federated(recipe: Recipe) -> None:
    """Refuse a recipe that is not of a federation.

    Raises:
        RunError: naming its program.
    """
    if not recipe.plan(recipe.workers).federated:
        name = recipe.tables["program"]["name"]
        raise RunError(f"`{name}` is no program of a federation's server", 'name = "federated" in [program]')


def training_of(recipe: Recipe, data: Path | None) -> Training:
    """Load the task with all its data as one share: what a server evaluates on, and what is a client's own."""
    training = Training(recipe.task(data), iid, 1, Rand(recipe.seed))
    training.gradient.adopt(training.initial())  # the module needs no copy of its own
    return training


async def serve(
    where: Path,
    recipe: Recipe,
    identity: Shown,
    address: str,
    *,
    data: Path | None = None,
    progress: Progress | None = None,
    told: Told = tell,
    beside: Beside | None = None,
    listens: Callable[[int], None] = lambda port: None,
) -> dict[str, Any]:
    """Run a federation's server to the end of its recipe; go on if the folder holds the run already.

    Args:
        where: the run's folder.
        identity: of the server.
        address: HOST:PORT for clients; port 0 takes a free one.
        data: the folder of data sets; the server needs the test data.
        progress: told of the rounds done and the last evaluation.
        told: is told what happens, in words.
        beside: what runs as long as clients are served, e.g. a control plane.
        listens: is told the port.

    Returns:
        The run's result; see `quorate.run.simulate`. Of a run that is finished already, when its clients have heard it.

    Raises:
        Stopped: if the run is stopped.
        QuorateError: for a mistake in the recipe, the data or the task, or if nobody is left; the folder is kept, and
            the run can be gone on with.
    """
    require_federated(recipe)
    if recipe.availability is not None:
        told("[availability] is for the simulator; real clients are there or not")
    training = training_of(recipe, data)
    if (where / "run.json").exists():
        _require_same(where, recipe)
        facts = folder.read(where)
        if facts["status"] == "finished":
            with folder.locked(where):
                rules = Rules("", configuration(recipe), lambda kind: {}, recipe.federation, told)
                kept = where / "federation"
                await tell_the_rest(kept, recipe.workers, rules, identity, address, _measures(facts["result"]), listens)
            return dict(facts["result"])
    else:
        folder.create(
            where, recipe, ENGINE, recipe.workers, data, {"batching": "exact", "parameters": training.layout.numel}
        )
    with folder.locked(where):
        folder.update(where, {"status": "running", "error": None, "data": str(data.resolve()) if data else None})
        try:
            return await _served(where, recipe, identity, address, training, progress, told, beside, listens)
        except (Stopped, asyncio.CancelledError, KeyboardInterrupt) as error:
            folder.stopped(where, error)
            raise
        except BaseException as error:
            folder.failed(where, error)
            raise


def _measures(result: Mapping[str, Any]) -> dict[str, float | None]:
    return {"accuracy": result["accuracy"], "loss": result["loss"]}


def _require_same(where: Path, recipe: Recipe) -> None:
    facts = folder.read(where)
    if facts["engine"] != ENGINE:
        raise RunError(f"`{where}` holds a run of another kind (`{facts['engine']}`)", "name another folder with --out")
    held, given = configuration(folder.recipe_of(where)), configuration(recipe)
    differ = [key for key in sorted({*held, *given}) if held.get(key) != given.get(key)]
    if differ:
        raise RunError(
            f"`{where}` holds a run of another recipe; it differs in {', '.join(differ)}",
            "name another folder with --out, or go on with the recipe.toml in the folder",
        )


async def _served(
    where: Path,
    recipe: Recipe,
    identity: Shown,
    address: str,
    training: Training,
    progress: Progress | None,
    told: Told,
    beside: Beside | None,
    listens: Callable[[int], None],
) -> dict[str, Any]:
    size, program, exchange = recipe.workers, recipe.program, recipe.attacked(recipe.exchange, recipe.workers)
    clients, trace, store = client_of(program, training, exchange, size), Trace(size + 1), Store(where / "federation")
    server: FederationServer | None = None

    def progressed(step: int, measures: dict[str, float]) -> None:
        if server is not None:
            server.evaluated(measures)
        if progress is not None:
            progress(step, measures)

    with closing(store):
        committed = store.committed()
        resumed = None if committed is None else _resumed(committed)
        kept: Mapping[str, Any] = {} if committed is None else committed.facts
        settings = recipe.record.model_copy(update={"checkpoint": 0})
        record = RunRecorder(where, range(1), 1, settings, training, trace, resumed, progressed)
        exchange = replace(exchange, judged=record.judge)
        with closing(record):
            rules = Rules(store.run, configuration(recipe), said_by(clients), recipe.federation, told)
            server = FederationServer(
                store,
                rules,
                size,
                recorder=record,
                trace=trace,
                record=Rounds(where, 0 if committed is None else committed.round),
                facts=record.facts,
                began=float(kept.get("clock", 0.0)),
                offences=kept.get("offences"),
                rounds=program.keywords.get("rounds"),
            )
            async with listening(server.desk, identity, rules, address) as port:
                listens(port)
                async with beside(server) if beside is not None else nullcontext():
                    parameters = await server.run(lambda each: program(each, training, exchange))
                    measures = record.finish(parameters)
                    steps, seconds, told_of = record.steps, record.wall_seconds, trace.summary()
                    server.end_training()
                    if recipe.comparison.clients:
                        compared = await server.run(
                            lambda each: compare(each, clients, parameters, recipe.comparison, where)
                        )
                        record.add(in_numbers(compared))
                        folder.update(where, {"comparison": compared})
                        store.let_go()
                    result = folder.finish(where, parameters, training.layout, measures, steps, told_of, seconds)
                    await server.farewell(_measures(result))
                    return result


def _resumed(committed: Committed) -> Checkpoint:
    return Checkpoint(committed.round, committed.state, {0: {}}, [committed.facts])


def said_by(clients: Client) -> Callable[[str], Mapping[str, Message]]:
    """Return what tensors replies may have, at most, by the kind of request."""
    training = clients.training
    likes = clients.algorithm.says(training.initial(), training.layout)
    train = {name: clients.uplink.emits(like) for name, like in likes.items()}
    return lambda kind: train if kind == "train" else {}


def broadcast_to(clients: Client) -> Callable[[str], Mapping[str, Message]]:
    """Return what tensors requests have, at most, by their kind."""

    def limits(kind: str) -> Mapping[str, Message]:
        likes = clients.likes(kind)
        return {name: clients.downlink.emits(like) if kind == "train" else (like,) for name, like in likes.items()}

    return limits


async def join(
    identity: Bearer,
    recipe: Recipe,
    home: Path,
    *,
    data: Path | None = None,
    part: tuple[int, int] | None = None,
    give_up: float | None = None,
    told: Told = tell,
) -> dict[str, float | None]:
    """Be a client until the run is over.

    Args:
        identity: who this is.
        home: a folder for what outlasts a crash; of no other client.
        data: the folder of data sets.
        part: (i, n): of the data only share i of n by the recipe's partition; None: all of it is this client's own.
        give_up: seconds without contact with the server after which to stop; None: never.
        told: is told what happens, in words.

    Returns:
        The measures of the final model.

    Raises:
        QuorateError: for a mistake in the recipe or the data, or if the server refuses this client for good.
    """
    require_federated(recipe)
    torch.set_num_threads(1)
    if part is None:
        training, number = training_of(recipe, data), 0
    else:
        number, count = part
        if not 0 <= number < count:
            raise RunError(f"there is no part {number} of {count}", f"--part 0/{count} .. {count - 1}/{count}")
        training = recipe.poisoned(Training(recipe.task(data), recipe.partition, count, Rand(recipe.seed)))
    shard = training.shards[number]
    clients = client_of(recipe.program, training, recipe.attacked(recipe.exchange, recipe.workers), recipe.workers)

    def answer(memory: Tree, request: Request) -> tuple[Tree, Answer]:
        return clients(Asked(identity.number, memory, request, shard))

    facts = {"samples": float(clients.samples(identity.number, shard))}
    brought = Part(answer, broadcast_to(clients), configuration(recipe), facts)
    return await FederationClient(identity, brought, home, recipe.federation, told).run(give_up)
