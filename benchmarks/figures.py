"""What all benchmarks share: how a figure is printed, and the facts without which it can't be compared later."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def figure(name: str, value: float, target: float | None = None, *, at_least: bool = True, **more: Any) -> bool:
    """Print one JSON line.

    Args:
        target: what the value should reach, or, if not `at_least`, should not exceed.
        more: context, e.g. the spread.

    Returns:
        Whether the target is met; True if there is none.
    """
    met = target is None or (value >= target if at_least else value <= target)
    line = {"figure": name, "value": value, "target": target, "at_least": at_least, "met": met, **more}
    print(json.dumps(line | {"machine": machine()}), flush=True)
    return met


def machine() -> str:
    """Return processor, cores and versions in a line."""
    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, torch {torch.__version__}, Python {platform.python_version()}"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, median and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
