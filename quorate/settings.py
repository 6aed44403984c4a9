"""The recipe's tables that are no parts: how a run is simulated, run on processes, and recorded."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(default=1, ge=1)
    timeout: float = Field(default=300.0, gt=0)


class RecordSettings(BaseModel):
    """What a run writes, and how often, in steps; 0 for never.

    Args:
        metrics: between two lines of `metrics.jsonl`.
        evaluate: between two measurements on the test data, of rank 0's parameters.
        checkpoint: between two checkpoints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: int = Field(default=10, ge=1)
    evaluate: int = Field(default=50, ge=0)
    checkpoint: int = Field(default=100, ge=0)
