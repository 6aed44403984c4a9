"""The recipe's tables that are no parts: how a run is simulated, run on processes, and recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quorate.errors import RecipeError, suggestion


class SimulatorSettings(BaseModel):
    """How a run is simulated.

    Args:
        batching: "exact": gradients one by one, as real processes take them, to the same bits; "vectorised": those of
            many workers in one pass; "auto": exact up to 16 workers.
        paranoid: check who writes to which tensor; slow.
        threads: torch's threads; more than one may change the bits.
        interrupted: what becomes of the reply of a federation's client that goes while it works at it: it is "lost", or
            the client "finishes" before.
        processes: that share the work of a federation's clients where many are trained at once; more than one need
            their own cores. "auto": a second one when the run turns out to be long enough for it to pay.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batching: Literal["auto", "exact", "vectorised"] = "auto"
    paranoid: bool = False
    threads: int = Field(default=1, ge=1)
    interrupted: Literal["lost", "finishes"] = "lost"
    processes: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = 1


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


class HostileSettings(BaseModel):
    """Which workers carry out the [attack].

    Args:
        f: how many; None: as many as the aggregator is told to withstand, at least one.
        ranks: who they are; None: the last f.
        redrawn: f others in every step.
        start: the first step in which they lie, from 0.
        knows: "own": what they have computed themselves; "all": all honest updates.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    f: int | None = Field(default=None, ge=0)
    ranks: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    redrawn: bool = False
    start: int = Field(default=0, ge=0)
    knows: Literal["own", "all"] = "all"


class ComparisonSettings(BaseModel):
    """What a federation is compared with when its training is over.

    Args:
        alone: each client, or some of them, trained by itself.
        pooled: the same training with all data in one place; a real federation can't do that.
        clients: how many train alone, and, where clients have models of their own, are measured; a sample if there are
            more. With 0, no client is measured, and nothing compared.
        times: how often a client alone does the epochs that it does in a round; None: as often as the client that took
            part most often.
        samples: gradients of single samples that each of the two takes at most.
        during: the clients are measured whenever a simulated run is evaluated, and not only at the end.
        patience: seconds that the clients of a real federation have to measure, and then to train alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alone: bool = True
    pooled: bool = True
    clients: int = Field(default=20, ge=0)
    times: int | None = Field(default=None, ge=1)
    samples: int = Field(default=5_000_000, ge=1)
    during: bool = False
    patience: float = Field(default=120.0, gt=0)


class FederationSettings(BaseModel):
    """How a federation across machines is run; the defaults suit clients behind ordinary internet links.

    Args:
        chunk: bytes of the pieces in which tensors travel; each is sent again as a whole after a break.
        keepalive: seconds of silence after which a peer is asked whether it is there, and then to wait for its answer.
        absence: seconds for which a client that was asked may be away before the round goes on without it.
        homecoming: the same for a client that has not come back yet since the server was started.
        answer: seconds that a client may take to answer a request.
        stall: seconds for which a reply that has begun to come may make no progress.
        offences: messages that no honest client sends, after which a client is shut out of the run.
        reconnect: seconds before a client's first attempt to come back; each further one waits twice as long, less a
            random part.
        reconnect_most: the most seconds between two attempts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    chunk: int = Field(default=1 << 20, ge=1 << 10, le=1 << 26)
    keepalive: float = Field(default=5.0, ge=0.1)
    absence: float = Field(default=10.0, ge=0)
    homecoming: float = Field(default=60.0, ge=0)
    answer: float = Field(default=3600.0, gt=0)
    stall: float = Field(default=30.0, gt=0)
    offences: int = Field(default=3, ge=1)
    reconnect: float = Field(default=0.1, gt=0)
    reconnect_most: float = Field(default=30.0, gt=0)


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
