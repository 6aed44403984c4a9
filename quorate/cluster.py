"""The machines a simulated run is charged for: how fast each computes, and how each is linked.

All links meet in one switch: a message from a to b takes up a's uplink and b's downlink, and arrives after the sum of
both latencies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import exp, inf, log
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from quorate.rand import Rand

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_BITS = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}
_BYTES = {"B/s": 1.0, "kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9}
_SIZES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
_QUANTITY = re.compile(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(\S+)\s*")


def seconds(value: Any) -> Any:
    """Read a duration: seconds as a number, or a number with a unit, e.g. "0.1 ms"."""
    return _quantity(value, _SECONDS)


def bytes_per_second(value: Any) -> Any:
    """Read a rate: bytes per second as a number, or a number with a unit, e.g. "100 Mbit/s", "10 MB/s"."""
    return _quantity(value, {unit: size / 8 for unit, size in _BITS.items()} | _BYTES)


def bytes_of(value: Any) -> Any:
    """Read a size: bytes as a number, or a number with a unit, e.g. "2 GB"."""
    return _quantity(value, _SIZES)


def _quantity(value: Any, units: dict[str, float]) -> Any:
    if not isinstance(value, str):
        return value
    match = _QUANTITY.fullmatch(value)
    if match is None or match[2] not in units:
        raise ValueError(f"write a number with one of the units {', '.join(units)}, not {value!r}")
    return float(match[1]) * units[match[2]]


Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, BeforeValidator(bytes_per_second), Field(gt=0)]
Size = Annotated[float, BeforeValidator(bytes_of), Field(gt=0)]
Rank = Annotated[int, Field(ge=0)]


class Distribution(BaseModel):
    """Seconds per sample that vary.

    Args:
        name: "lognormal" (`median` and `sigma`, the standard deviation of the logarithm), "exponential" (`median`), or
            "uniform" (from `low` to `high`).
        drawn: "node": once for each worker, which makes slow and fast workers; "step": anew for every computation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["lognormal", "exponential", "uniform"]
    median: Seconds = 100e-6
    sigma: float = Field(default=0.5, ge=0)
    low: Seconds = 0.0
    high: Seconds = 200e-6
    drawn: Literal["node", "step"] = "node"

    def draw(self, rand: Rand) -> float:
        """Return seconds per sample."""
        import random

        source = random.Random(rand.seed)
        if self.name == "uniform":
            return source.uniform(self.low, self.high)
        if self.name == "exponential":
            return -self.median / log(2) * log(1 - source.random())
        return self.median * exp(self.sigma * source.gauss(0, 1))


class Exceptional(BaseModel):
    """What differs on some nodes; what is not given is as on the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ranks: tuple[int, ...] = Field(min_length=1)
    seconds_per_sample: Seconds | Distribution | None = None
    uplink: Rate | None = None
    downlink: Rate | None = None
    latency: Seconds | None = None
    memory: Size | None = None


class Event(BaseModel):
    """What happens to some machines at a time; `quorate/schedule.py` says what several come to.

    Args:
        at: seconds of the run's clock.
        kind: "pause": they compute nothing for a while; "slow": computing takes `factor` times as long; "crash": they
            are gone, with all that is on its way to or from them; "join": they come, or come back; "cut": nothing
            travels between them and the others.
        ranks: the machines, by the ranks that they have while all are there.
        lasts: seconds; needed for "pause" and "slow"; a "cut" without it lasts for ever.
        factor: of "slow".
        others: of "cut": the other side; all other ranks if not given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: Seconds
    kind: Literal["pause", "slow", "crash", "join", "cut"]
    ranks: tuple[Rank, ...] = Field(min_length=1)
    lasts: Annotated[Seconds, Field(gt=0)] | None = None
    factor: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    others: tuple[Rank, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Event:
        if self.kind in ("pause", "slow") and self.lasts is None:
            raise ValueError(f'a {self.kind} needs `lasts`, e.g. lasts = "2 s"')
        if self.kind in ("crash", "join") and self.lasts is not None:
            raise ValueError(f'a {self.kind} has no `lasts`; an event of the kind "join" brings a rank back')
        if self.kind == "slow" and self.factor is None:
            raise ValueError("a slow needs `factor`, how many times as long computing takes, e.g. factor = 3.0")
        if self.kind != "slow" and self.factor is not None:
            raise ValueError(f'a {self.kind} has no `factor`; "slow" has one')
        if self.kind != "cut" and self.others is not None:
            raise ValueError(f'a {self.kind} has no `others`; "cut" has them')
        named = self.ranks + (self.others or ())
        if len(set(named)) < len(named):
            twice = next(rank for rank in named if named.count(rank) > 1)
            raise ValueError(f"it names rank {twice} twice")
        return self

    @property
    def until(self) -> float:
        """When it is over, in seconds; inf if it lasts for ever."""
        return inf if self.lasts is None else self.at + self.lasts


class Cluster(BaseModel):
    """A description of machines and links, and of what happens to them.

    Args:
        seconds_per_sample: of computing; a number, a distribution, or "measured": the time that this machine takes,
            times `measured_factor`; then the clock, but nothing else, differs from run to run.
        transport: "ideal": a message takes its bytes and one latency; "gloo": as gloo over TCP was measured to take.
        uplink: bytes per second a node can send.
        downlink: bytes per second a node can receive.
        latency: seconds from a node to the switch, so that a message between two takes twice as long.
        memory: bytes that a machine has, which clients of a federation tell their server; None: they do not tell.
        node: exceptions.
        event: what happens at which time, on the simulator.
        detection: seconds after which the others take a worker to have left that has crashed or is cut off.
        regroup: seconds that it takes the others to begin anew, beside the copies of the state that are needed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds_per_sample: Seconds | Distribution | Literal["measured"] = 100e-6
    measured_factor: float = Field(default=1.0, gt=0)
    transport: Literal["ideal", "gloo"] = "ideal"
    uplink: Rate = 125e6
    downlink: Rate = 125e6
    latency: Seconds = 50e-6
    memory: Size | None = None
    node: tuple[Exceptional, ...] = ()
    event: tuple[Event, ...] = ()
    detection: Seconds = 1.0
    regroup: Seconds = 0.1

    def of(self, rank: int, field: str) -> Any:
        """Return a node's value of a field, the last exception that names it first."""
        for exception in reversed(self.node):
            if rank in exception.ranks and getattr(exception, field) is not None:
                return getattr(exception, field)
        return getattr(self, field)

    def speed(self, rank: int, rand: Rand) -> Callable[[int, int], float]:
        """Return a node's seconds per sample as a function of the step, and of its computations before in the step."""
        given = self.of(rank, "seconds_per_sample")
        if isinstance(given, Distribution):
            if given.drawn == "step":
                return lambda step, count: given.draw(rand.fold("speed", rank, step, count))
            given = given.draw(rand.fold("speed", rank))
        constant = inf if given == "measured" else float(given)
        return lambda step, count: constant
