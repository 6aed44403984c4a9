"""A federated recipe as Flower's ServerApp and ClientApp: the server's program and the clients of every other engine.

The server writes the run folder that others write. Flower can't resume a run; another one of its runs with the same
folder goes on from the last commit, and with replies that were accepted since.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from quorate import folder
from quorate.checkpoint import Checkpoint
from quorate.engines.federation_part import Part
from quorate.engines.federation_store import Store
from quorate.engines.flower import FlowerServer
from quorate.engines.flower_client import FlowerClient
from quorate.engines.flower_nodes import Bounds
from quorate.errors import RunError
from quorate.federated import Answer, Request
from quorate.federated.client import Asked
from quorate.federated.questions import compare
from quorate.federated.record import Rounds
from quorate.federated.setup import client_of
from quorate.federated.summary import in_numbers
from quorate.rand import Rand
from quorate.recipe import Recipe, load
from quorate.recorder import RunRecorder
from quorate.star import broadcast_to, configuration, require_federated, said_by, tell, training_of
from quorate.trace import Trace
from quorate.training import Training
from quorate.trees import Tree

ENGINE = "flower"
HOMES = Path("~/.quorate/flower")


def server_app(recipe: Path) -> Any:
    """Return the ServerApp of a recipe.

    Its run's configuration holds `out`, the run's folder on the SuperLink's machine, and perhaps `data`, the folder of
    data sets there; the server needs the test data.
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        out = Path(str(context.run_config.get("out", ""))).expanduser()
        if not out.is_absolute():
            raise RunError(
                f"`out` is the run's folder, from / on; got `{out}`", "--run-config 'out=\"/srv/runs/first\"'"
            )
        result = serve(out, load(recipe), grid, _data(context.run_config))
        tell(f"test loss {result['loss']}, accuracy {result['accuracy']}; run: {out}")

    return app


def client_app(recipe: Path) -> Any:
    """Return the ClientApp of a recipe.

    A node's configuration holds `partition-id`, the client's number; perhaps `num-partitions`, if of the data only that
    part by the recipe's partition is its own; `data`, the folder of data sets, and `home`, the folder of what it keeps.
    """
    app = ClientApp()

    @app.query()  # type: ignore[untyped-decorator]
    def greet(message: Any, context: Any) -> Any:
        return Message(client(load(recipe), context.node_config).greet(message.content), reply_to=message)

    @app.train()  # type: ignore[untyped-decorator]
    def work(message: Any, context: Any) -> Any:
        return Message(client(load(recipe), context.node_config).work(message.content), reply_to=message)

    return app


def _data(given: Mapping[str, Any]) -> Path | None:
    data = str(given.get("data", "")) or os.environ.get("QUORATE_DATA", "")
    return Path(data).expanduser() if data else None


def client(recipe: Recipe, node: Mapping[str, Any]) -> FlowerClient:
    """Return the client that a node is.

    Args:
        node: its configuration; see `client_app`.

    Raises:
        QuorateError: for a mistake in the recipe, the data or the configuration.
    """
    require_federated(recipe)
    torch.set_num_threads(1)
    data, number, count = _data(node), node.get("partition-id"), node.get("num-partitions")
    for name, value, least in (("partition-id", number, 0), ("num-partitions", 1 if count is None else count, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise RunError(
                f"a node's `{name}` is a whole number, at least {least}; got {value!r}",
                '--node-config "partition-id=0 num-partitions=2"',
            )
    assert isinstance(number, int)
    if count is None:
        training, shard = training_of(recipe, data), 0
    elif number < count:
        training = recipe.poisoned(Training(recipe.task(data), recipe.partition, count, Rand(recipe.seed)))
        shard = number
    else:
        raise RunError(f"there is no part {number} of {count}", f"partition-id=0 .. partition-id={count - 1}")
    exchange = recipe.attacked(recipe.exchange, recipe.workers)
    clients, samples = client_of(recipe.program, training, exchange, recipe.workers), training.shards[shard]

    def answer(memory: Tree, request: Request) -> tuple[Tree, Answer]:
        return clients(Asked(number, memory, request, samples))

    facts = {"samples": float(clients.samples(number, samples))}
    part = Part(answer, broadcast_to(clients), configuration(recipe), facts)
    return FlowerClient(number, part, Path(str(node.get("home") or HOMES)).expanduser())


def serve(
    where: Path,
    recipe: Recipe,
    grid: Any,
    data: Path | None = None,
    told: Callable[[str], None] = tell,
    poll: float = 0.2,
) -> dict[str, Any]:
    """Run a federation's server on a grid to the end of its recipe; go on if the folder holds the run already.

    Args:
        where: the run's folder.
        grid: Flower's.
        data: the folder of data sets; the server needs the test data.
        told: is told what happens, in words.
        poll: seconds between two questions whether there are replies.

    Returns:
        The run's result; see `quorate.run.simulate`.

    Raises:
        QuorateError: for a mistake in the recipe, the data or the task, or if nobody is left; the folder is kept, and
            the run can be gone on with.
    """
    require_federated(recipe)
    torch.set_num_threads(1)
    training = training_of(recipe, data)
    if (where / "run.json").exists():
        _require_same(where, recipe)
        facts = folder.read(where)
        if facts["status"] == "finished":
            return dict(facts["result"])
    else:
        folder.create(
            where, recipe, ENGINE, recipe.workers, data, {"batching": "exact", "parameters": training.layout.numel}
        )
    with folder.locked(where):
        folder.update(where, {"status": "running", "error": None, "data": str(data.resolve()) if data else None})
        try:
            return _served(where, recipe, grid, training, told, poll)
        except BaseException as error:
            folder.failed(where, error)
            raise


def _require_same(where: Path, recipe: Recipe) -> None:
    engine, held, given = folder.read(where)["engine"], configuration(folder.recipe_of(where)), configuration(recipe)
    differ = [key for key in sorted({*held, *given}) if held.get(key) != given.get(key)]
    if engine != ENGINE or differ:
        what = f"of another recipe; it differs in {', '.join(differ)}" if differ else f"of another kind (`{engine}`)"
        raise RunError(f"`{where}` holds a run {what}", "name another folder by `out`")


def _served(
    where: Path, recipe: Recipe, grid: Any, training: Training, told: Callable[[str], None], poll: float
) -> dict[str, Any]:
    size, program, exchange = recipe.workers, recipe.program, recipe.attacked(recipe.exchange, recipe.workers)
    clients, trace, store = client_of(program, training, exchange, size), Trace(size + 1), Store(where / "federation")
    with closing(store):
        last = store.committed()
        resumed = None if last is None else Checkpoint(last.round, last.state, {0: {}}, [last.facts])
        settings = recipe.record.model_copy(update={"checkpoint": 0})
        with closing(RunRecorder(where, range(1), 1, settings, training, trace, resumed)) as record:
            server = FlowerServer(
                grid,
                store,
                Bounds(configuration(recipe), said_by(clients), recipe.federation),
                size,
                recorder=record,
                trace=trace,
                record=Rounds(where, 0 if last is None else last.round),
                facts=record.facts,
                began=0.0 if last is None else float(last.facts.get("clock", 0.0)),
                told=told,
                poll=poll,
            )
            parameters = server.run(lambda each: program(each, training, exchange))
            measures = record.finish(parameters)
            steps, seconds, told_of = record.steps, record.wall_seconds, trace.summary()
            if recipe.comparison.clients:
                compared = server.run(lambda each: compare(each, clients, parameters, recipe.comparison, where))
                record.add(in_numbers(compared))
                folder.update(where, {"comparison": compared})
                store.let_go()
            return folder.finish(where, parameters, training.layout, measures, steps, told_of, seconds)
