"""The recipe's tables that are no parts: how a run is simulated, run on processes, and recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quorate.errors import RecipeError, suggestion


class SimulatorSettings(BaseModel):
    """How a run is simulated.

    Args:
        batching: "exact": gradients one by one, as real processes take them, to the same bits; "vectorised": those of
            many workers in one pass; "auto": exact up to 16 workers.
        paranoid: check who writes to which tensor; slow.
        threads: torch's threads; more than one may change the bits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batching: Literal["auto", "exact", "vectorised"] = "auto"
    paranoid: bool = False
    threads: int = Field(default=1, ge=1)


class ProcessSettings(BaseModel):
    """How a run on real processes is done.

    Args:
        device: "cpu" (gloo) or "cuda" (NCCL; one GPU per process).
        threads: torch's threads in each process; more than one may change the bits.
        timeout: seconds after which a collective that some rank has not joined is given up.
        patience: seconds that an elastic run waits for enough workers before it stops.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(default=1, ge=1)
    timeout: float = Field(default=300.0, gt=0)
    patience: float = Field(default=60.0, gt=0)


class RecordSettings(BaseModel):
    """What a run writes, and how often, in steps; 0 for never.

    Args:
        metrics: between two lines of `metrics.jsonl`.
        evaluate: between two measurements on the test data, of rank 0's parameters.
        checkpoint: between two checkpoints.
        histogram: between two lines of `histogram.jsonl`: how the entries of what rank 0 says are distributed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: int = Field(default=10, ge=1)
    evaluate: int = Field(default=50, ge=0)
    checkpoint: int = Field(default=100, ge=0)
    histogram: int = Field(default=0, ge=0)


def checked(key: str, model: type[BaseModel], table: Any) -> Any:
    """Read one of the recipe's tables that are no parts.

    Raises:
        RecipeError: if it is no table, or a key or value of it can't be what was meant.
    """
    if not isinstance(table, Mapping):
        raise RecipeError(f"`{key}` must be a table, got {table!r}", f"[{key}]")
    try:
        return model.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function", "constrained")))
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"unknown key `{where}` in [{key}]", suggestion(where, model.model_fields)) from error
        wanted, got = first["msg"].removeprefix("Value error, "), repr(first["input"])
        if first["type"] != "value_error" or got not in wanted:
            wanted += f", got {got}"
        raise RecipeError(f"[{key}] `{where}`: {wanted[:1].lower()}{wanted[1:]}") from error
