"""What tests of robust aggregation share: all rules for any f, and what liars may say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quorate import parts
from quorate.aggregators import most_of, what_it_is_given
from quorate.rand import Rand
from tests.tiny import randn

Rule = Callable[[Tensor], Tensor]


def examples(kind: str, name: str) -> tuple[Any, ...]:
    """Return the instances that a part's laws are checked on: its module's EXAMPLES, or itself."""
    part = parts.find(kind, name)
    found: tuple[Any, ...] = vars(__import__(part.__module__, fromlist=["EXAMPLES"])).get("EXAMPLES", (part,))
    return found


ROBUST = sorted(name for name in parts.names("aggregator") if hasattr(parts.find("aggregator", name), "most"))
PRE = sorted(parts.names("pre_aggregator"))


def rule(name: str, f: int, scale: float = 1.0) -> Rule:
    """Return the first example of a robust aggregator, for f, in a unit in which its radius is scaled."""
    return _for(examples("aggregator", name)[0], f, scale)


def pre_rule(name: str, f: int, scale: float = 1.0, seed: int = 0) -> Rule:
    """Return the first example of a pre-aggregator, for f, in a unit in which its radius is scaled."""
    made = _for(examples("pre_aggregator", name)[0], f, scale)
    return partial(made, rand=Rand(seed)) if "rand" in what_it_is_given(made) else made


def _for(example: Any, f: int, scale: float) -> Any:
    if not isinstance(example, partial):
        return example
    settings = dict(example.keywords)
    if "f" in settings:
        settings["f"] = f
    if "radius" in settings:
        settings["radius"] *= scale
    return partial(example.func, **settings)


def allowed(name: str, n: int, most: int) -> int:
    """Return the largest f up to `most` that a robust aggregator allows for n updates."""
    return min(most, most_of(parts.find("aggregator", name), n))


LIES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "nan": lambda honest, f: torch.full_like(honest[:1], torch.nan).repeat(f, 1),
    "infinity": lambda honest, f: torch.full_like(honest[:1], torch.inf).repeat(f, 1),
    "one NaN": lambda honest, f: torch.cat([honest[:1, 1:], honest.new_full((1, 1), torch.nan)], dim=1).repeat(f, 1),
    "both infinities": lambda honest, f: honest[:1].sign().repeat(f, 1) * torch.inf,
    "1e38": lambda honest, f: torch.full_like(honest[:1], 1e38).repeat(f, 1),
    "1e38 of any sign": lambda honest, f: 1e38 * randn(f, honest.shape[1], seed=f).sign().to(honest),
    "largest": lambda honest, f: torch.full_like(honest[:1], -3.4e38).repeat(f, 1),
    "squares overflow": lambda honest, f: torch.full_like(honest[:1], 3e19).repeat(f, 1),
    "denormal": lambda honest, f: torch.full_like(honest[:1], 1e-45).repeat(f, 1),
    "nothing": lambda honest, f: torch.zeros_like(honest[:1]).repeat(f, 1),
    "far": lambda honest, f: 100 + randn(f, honest.shape[1], seed=f).to(honest),
    "reversed": lambda honest, f: -100 * honest.mean(dim=0, keepdim=True).repeat(f, 1),
    "hidden": lambda honest, f: (honest.mean(dim=0) - 1.5 * honest.std(dim=0)).repeat(f, 1),
    "copied": lambda honest, f: honest[:1].repeat(f, 1),
    "one coordinate": lambda honest, f: torch.cat([honest[:1, 1:], honest.new_full((1, 1), 1e30)], dim=1).repeat(f, 1),
    "different": lambda honest, f: honest.new_tensor([1e38, torch.nan, -1.0, 1e-45])[:, None].repeat(
        f, honest.shape[1]
    )[:f],
}
"""What f liars say who know honest updates (n - f, d): (f, d)."""


def meeting(lie: str, n: int, d: int, f: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, list[int]]:
    """Return updates (n, d), of which f lie, and the places of the n - f honest ones: normal around a drawn centre."""
    centre = 3 * randn(d, seed=seed + 1, dtype=torch.float64)
    honest = (centre + randn(n - f, d, seed=seed, dtype=torch.float64)).to(dtype)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    updates = torch.cat([honest, LIES[lie](honest, f)])[order]
    return updates, [place for place, row in enumerate(order.tolist()) if row < n - f]
