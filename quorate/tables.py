"""The tables of a recipe that name parts: which there are, what a program uses of them, and their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from quorate import parts
from quorate.aggregators import what_it_is_given
from quorate.algorithms import Algorithm
from quorate.codecs import Codec
from quorate.codes import Code
from quorate.learning_rates import LearningRate
from quorate.optimizer import Optimizer
from quorate.outer_optimizers import OuterOptimizer
from quorate.periods import Period
from quorate.selections import Selection
from quorate.topologies import Topology

OF_PROGRAM: dict[Any, str] = {
    Optimizer: "optimizer",
    OuterOptimizer: "outer_optimizer",
    LearningRate: "learning_rate",
    Period: "period",
    Topology: "topology",
    Algorithm: "algorithm",
    Selection: "selection",
    Codec: "downlink",
    Code: "code",
}
PARTS = (
    *("task", "partition", "program", "optimizer", "outer_optimizer", "learning_rate"),
    *("period", "topology", "codec", "aggregator", "collective", "sparse_collective"),
    *("algorithm", "selection", "downlink", "availability", "pre_aggregator", "attack", "code"),
)
DEFAULTS: dict[str, Any] = {
    "task": {"name": "digits"},
    "partition": {"name": "iid"},
    "aggregator": {"name": "mean"},
    "collective": {"name": "backend"},
    "sparse_collective": {"name": "gather"},
    "codec": [],
    "outer_optimizer": {"name": "momentum"},
    "learning_rate": {"name": "constant"},
    "period": {"name": "every"},
    "topology": {"name": "ring"},
    "algorithm": {"name": "fed_avg"},
    "selection": {"name": "uniform"},
    "downlink": [],
    "pre_aggregator": [],
    "code": {"name": "repetition"},
}


OF_LISTS = ("codec", "downlink", "pre_aggregator")


def parts_of(program: Any) -> dict[str, str]:
    """Return which keyword arguments of a program are parts, and of which kind."""
    hints = get_type_hints(program)
    return {
        name: OF_PROGRAM[hints[name]]
        for name in parts.settings(program)
        if any(hints.get(name) is each or hints.get(name) == each for each in OF_PROGRAM)
    }


def filled(kind: str, table: Any, folder: Path) -> Any:
    """Return a table, or a list of them, with the defaults of its part's settings."""
    if isinstance(table, list):
        return [_with_defaults(kind, each, folder) for each in table]
    return dict(table) if kind == "optimizer" else _with_defaults(kind, table, folder)


def _with_defaults(kind: str, table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    part = parts.find(kind, table.get("name"), folder)
    elsewhere = ["data", *(["codec"] if kind in OF_LISTS else ()), *(parts_of(part) if kind == "program" else ())]
    elsewhere += what_it_is_given(part)
    defaults = {
        key: each.default
        for key, each in parts.settings(part).items()
        if each.default is not inspect.Parameter.empty and key not in elsewhere
    }
    return {"name": table["name"]} | defaults | dict(table)


def without_none(value: Any) -> Any:
    """Return a value without the keys of its mappings that hold None, which TOML has not."""
    if isinstance(value, Mapping):
        return {key: without_none(each) for key, each in value.items() if each is not None}
    return [without_none(each) for each in value] if isinstance(value, list | tuple) else value
