"""The model that a run has ended with: the one of all, or that of one client of a federation.

Its folder holds the parameters by name, and what clients remember, where they have models of their own.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from quorate import checkpoint, folder
from quorate.errors import DataError, RunError
from quorate.federated.client import Client
from quorate.federated.setup import client_of
from quorate.files import write_atomically
from quorate.parts import short
from quorate.tasks import Task
from quorate.training import Training
from quorate.trees import Tree, branch

PERSONAL = "personal"
_AT_ONCE = 2_000  # samples


class Final(NamedTuple):
    """A trained model.

    Args:
        module: in evaluation mode.
        task: what it was trained for.
        run: the folder that it is from.
        client: whose it is; None: everybody's.
    """

    module: nn.Module
    task: Task
    run: Path
    client: int | None


def keep(where: Path, step: int, clients: Client, parameters: Tensor, memory: Callable[[int], Tree]) -> None:
    """Keep what clients remember, of those who use other parameters than the server's (d,)."""
    own = {}
    for client in range(clients.size):
        held = memory(client)
        if held and clients.personal(parameters, held) is not parameters:
            own[client] = {"algorithm": branch(held, "algorithm")}
    if own:
        checkpoint.write(where / PERSONAL, step, 0, 1, {}, own, {})


def load(run: Path, data: Path | None = None, client: int | None = None) -> Final:
    """Return the model that a run has ended with.

    Args:
        run: the run's folder.
        data: the folder of data sets, if it is not where it was.
        client: whose model; None: everybody's.

    Raises:
        QuorateError: if the run has not ended, its task can't be loaded any more, its parameters are not those of the
            task's model, or there is no such client.
    """
    facts = folder.read(run)
    if facts["status"] != "finished":
        raise RunError(f"`{run}` has not ended, so it has no model yet", f"quorate resume {run}")
    recipe, size = folder.recipe_of(run), int(facts["workers"])
    training = recipe.training(size, data or (Path(facts["data"]) if facts["data"] else None))
    if not isinstance(training, Training):
        raise RunError(
            f"`{run}` has trained a table of numbers, not a module",
            "read its `parameters.safetensors` with safetensors",
        )
    parameters = _parameters(run / "parameters.safetensors", training)
    if client is not None:
        if not recipe.plan(size).federated or not 0 <= client < size:
            whose = f"clients 0 to {size - 1}" if recipe.plan(size).federated else "no clients"
            raise RunError(f"`{run}` has {whose}, and no client {client}", "leave out --client for everybody's model")
        clients = client_of(recipe.program, training, recipe.exchange, size)
        kept = checkpoint.latest(run / PERSONAL, 1)
        parameters = clients.personal(parameters, {} if kept is None else kept.own.get(client, {}))
    training.gradient.adopt(parameters)
    return Final(training.gradient.objective.model.eval(), training.task, run, client)


def _parameters(path: Path, training: Training) -> Tensor:
    """Read parameters (d,) from where a run's end has put them, by name."""
    flat = training.initial().clone()
    try:
        with safe_open(path, framework="pt") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"`{path}` can't be read: {error}") from error
    for name, view in training.layout.views(flat).items():
        given = held.pop(name.removeprefix("model."), None)
        if given is None or given.shape != view.shape or given.dtype != view.dtype:
            found = "missing" if given is None else _described(given)
            raise DataError(
                f"`{path}` does not fit the task's model: `{name.removeprefix('model.')}` is {found}, not"
                f" {_described(view)}",
                "was the task changed since the run?",
            )
        view.copy_(given)
    if held:
        raise DataError(f"`{path}` holds `{min(held)}`, which the task's model has not", "was the task changed?")
    return flat


@torch.no_grad()
def outputs(final: Final, x: Tensor) -> Tensor:
    """Return what the model makes of inputs (n, ...) like the task's.

    Raises:
        DataError: if the inputs are not like the task's.
    """
    like = final.task.test.x
    if x.shape[1:] != like.shape[1:] or x.is_floating_point() != like.is_floating_point():
        raise DataError(
            f"the inputs are {_described(x)}, but this model takes {like.dtype} of shape"
            f" (n{''.join(f', {length}' for length in like.shape[1:])})"
        )
    if not len(x):
        raise DataError("there are no inputs to predict from")
    try:
        return torch.cat([final.module(part.to(like.dtype)) for part in x.split(_AT_ONCE)])
    except Exception as error:
        raise DataError(f"the model can't take these inputs: {short(error)}") from error


def predictions(final: Final, output: Tensor) -> Tensor:
    """Return the most likely classes, where the targets are classes; else the outputs themselves."""
    y = final.task.test.y
    classes = not y.is_floating_point() and output.dim() == y.dim() + 1 and output.shape[1] > 1
    return output.argmax(dim=1) if classes else output


def measures(final: Final, output: Tensor, y: Tensor) -> dict[str, float]:
    """Return the task's loss and metrics on targets (n, ...).

    Raises:
        DataError: if they are not like the task's.
    """
    try:
        y = y.to(final.task.test.y.dtype)
        values = {"loss": float(final.task.loss(output, y))}
        return values | {name: float(metric(output, y)) for name, metric in final.task.metrics.items()}
    except Exception as error:
        raise DataError(f"targets, {_described(y)}, are not like the task's: {short(error)}") from error


def to_safetensors(final: Final, where: Path) -> Path:
    """Write the module's parameters and buffers by name, as `load_state_dict` takes them.

    Raises:
        DataError: if the file can't be written.
    """
    facts = folder.read(final.run)
    said = {"recipe": str(facts["recipe"]), "task": str(facts["task"]), "quorate": str(facts["quorate"])}
    said |= {} if final.client is None else {"client": str(final.client)}
    held = {name: tensor.detach().clone().contiguous() for name, tensor in final.module.state_dict().items()}
    return _written(where, save(held, said))


def to_torch_export(final: Final, where: Path) -> Path:
    """Write a program, (n, ...) -> outputs for any n, which `torch.export.load` reads where there is no quorate.

    Raises:
        QuorateError: if the module can't be exported, or the file not be written.
    """
    module = copy.deepcopy(final.module)
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()  # otherwise each would carry the flat tensor of all
    example = final.task.test.x[:2].clone()
    try:
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    except Exception as error:
        raise RunError(f"torch.export can't take this model: {short(error)}", "--format safetensors") from error
    return _written(where, buffer.getvalue())


def _written(where: Path, content: bytes) -> Path:
    try:
        write_atomically(where, content)
    except OSError as error:
        raise DataError(f"`{where}` can't be written: {error.strerror}") from error
    return where


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
