"""Short federated runs of digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

WHOLE: dict[str, Any] = {
    "workers": 12,
    "task": {"name": "digits", "hidden": 16},
    "partition": {"name": "dirichlet", "alpha": 0.5},
    "program": {"name": "federated", "rounds": 12, "cohort": 4, "epochs": 2, "batch": 10},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "record": {"metrics": 1, "evaluate": 4, "checkpoint": 4},
    "comparison": {"clients": 4},
}


def write_federated(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write a recipe; the changes are of its tables' keys, or replace what is no table."""
    whole = dict(WHOLE)
    for name, change in (changes or {}).items():
        whole[name] = whole.get(name, {}) | change if isinstance(change, dict) else change
    path = folder / "federated_digits.toml"
    path.write_text(tomli_w.dumps(whole))
    return path
