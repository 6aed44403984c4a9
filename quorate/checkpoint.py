"""Checkpoints: what all ranks hold at the end of one step, in safetensors files that are whole or absent.

A checkpoint has one file per writer: the simulator writes one for all ranks, each real process one of its own. It is
complete when every writer's file is there, so writers need not wait for one another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quorate.errors import QuorateError
from quorate.files import write_atomically
from quorate.trees import Tree, leaves, nest

_NAME = re.compile(r"step-(\d{8})\.(\d+)-of-(\d+)\.safetensors")
_KEPT = 2  # complete checkpoints
_MISSHAPEN = (LookupError, ValueError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Checkpoint:
    """The state at the end of a step.

    Args:
        step: steps done.
        shared: state that is equal on all ranks.
        own: state by rank.
        facts: JSON values by writer, e.g. clocks and sums of the trace.
    """

    step: int
    shared: Tree
    own: Mapping[int, Tree]
    facts: Sequence[Mapping[str, Any]]


def path_of(folder: Path, step: int, writer: int, writers: int) -> Path:
    """Return where a writer's file of a step is."""
    return folder / f"step-{step:08d}.{writer}-of-{writers}.safetensors"


def write(
    folder: Path, step: int, writer: int, writers: int, shared: Tree, own: Mapping[int, Tree], facts: Mapping[str, Any]
) -> None:
    """Write one writer's file, and remove checkpoints that are older than the last complete ones.

    Args:
        shared: only the first writer's is kept.
        own: the state of the ranks that this writer writes for.
        facts: JSON values.
    """
    tensors: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    places: dict[tuple[Any, ...], str] = {}
    named = [(f"shared/{name}", tensor) for name, tensor in leaves(shared)] if writer == 0 else []
    for rank, tree in own.items():
        named += [(f"own/{rank}/{name}", tensor) for name, tensor in leaves(tree)]
    for name, tensor in named:
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in places:
            same[name] = places[place]
        else:
            places[place] = name
            tensors[name] = tensor.detach().clone().contiguous().cpu()
    metadata = {"step": step, "writer": writer, "writers": writers, "same": same, "facts": dict(facts)}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path_of(folder, step, writer, writers), save(tensors, {"quorate": json.dumps(metadata)}))
    _forget(folder, writer, writers)


def _forget(folder: Path, writer: int, writers: int) -> None:
    complete = steps(folder, writers)
    if len(complete) >= _KEPT:  # older files are not in a complete one, or of one too many
        for step in {int(match[1]) for match in _matches(folder)}:
            if step < complete[-_KEPT]:
                path_of(folder, step, writer, writers).unlink(missing_ok=True)


def _matches(folder: Path) -> list[re.Match[str]]:
    return [match for match in (_NAME.fullmatch(path.name) for path in folder.glob("step-*")) if match]


def steps(folder: Path, writers: int) -> list[int]:
    """Return the steps whose checkpoint by so many writers is complete, in ascending order."""
    found: dict[int, int] = {}
    for match in _matches(folder):
        if int(match[3]) == writers:
            found[int(match[1])] = found.get(int(match[1]), 0) + 1
    return sorted(step for step, count in found.items() if count == writers)


def steps_of(folder: Path, writer: int, writers: int) -> list[int]:
    """Return the steps of which one writer's file is there, in ascending order."""
    return sorted(int(match[1]) for match in _matches(folder) if (int(match[2]), int(match[3])) == (writer, writers))


def latest(folder: Path, writers: int) -> Checkpoint | None:
    """Read the last complete checkpoint; None if there is none.

    Raises:
        QuorateError: if a file of it can't be read.
    """
    complete = steps(folder, writers)
    return read(folder, complete[-1], writers) if complete else None


def read(folder: Path, step: int, writers: int, only: int | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        only: a writer; then only its file is read, so that the shared state is empty unless it is the first.

    Raises:
        QuorateError: naming the file that is cut short or damaged.
    """
    shared: dict[str, Tensor | Tree] = {}
    own: dict[int, Tree] = {}
    facts = []
    for writer in range(writers) if only is None else [only]:
        path = path_of(folder, step, writer, writers)
        try:
            with safe_open(path, framework="pt") as file:
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                metadata = json.loads((file.metadata() or {})["quorate"])
            held |= {name: held[origin] for name, origin in dict(metadata["same"]).items()}
            if (metadata["step"], metadata["writer"], metadata["writers"]) != (step, writer, writers):
                raise ValueError("it is of another step or writer")
            facts.append(dict(metadata["facts"]))
            _share(held, shared, own)
        except (SafetensorError, OSError, *_MISSHAPEN) as error:
            raise QuorateError(
                f"checkpoint {path} is cut short or damaged ({type(error).__name__}: {error})",
                "remove this file to go back to the checkpoint before it, then `quorate resume` again",
            ) from error
    return Checkpoint(step, shared, own, facts)


def _share(held: Mapping[str, Tensor], shared: dict[str, Tensor | Tree], own: dict[int, Tree]) -> None:
    """Sort one file's tensors into the shared state and that of its ranks."""
    equal: dict[str, Tensor] = {}
    by_rank: dict[int, dict[str, Tensor]] = {}
    for name, tensor in held.items():
        if name.startswith("own/"):
            _, rank, rest = name.split("/", 2)
            by_rank.setdefault(int(rank), {})[rest] = tensor
        else:
            equal[name.removeprefix("shared/")] = tensor
    shared |= nest(equal)
    own |= {rank: nest(flat) for rank, flat in by_rank.items()}
