"""What a comparison of a federation has come to: as numbers for files, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quorate.federated.evaluation import spread

Values = dict[int, float]


@dataclass
class Found:
    """What has been measured, by client, of those who have data to measure on.

    Args:
        federated: with the federation's model, or the client's own that it has from there.
        alone: with what a client has come to by itself.
        pooled: with the model of pooled data.
        times: how often those alone did the epochs of a round.
        samples: gradients of single samples that were taken on pooled data.
        notes: what was left out, cut short or failed, in words.
    """

    federated: Values = field(default_factory=dict)
    alone: Values = field(default_factory=dict)
    pooled: Values = field(default_factory=dict)
    times: int = 0
    samples: int = 0
    notes: list[str] = field(default_factory=list)


def summary(found: Found, measure: str, rises: bool, tested: str) -> dict[str, Any]:
    """Return a comparison as JSON values.

    Args:
        measure: its name.
        rises: whether more is better.
        tested: what a client is measured on, in words.

    Returns:
        `measure`, `rises`, `tested_on`, `notes`; `federated`, `alone` and `pooled`, each null or what `spread` says.
        `alone` has besides: `times`; `gain`, how much better the clients are served by the federation on average; and
        `worse_off`, the share of them that would be better off alone; `pooled` has `samples` and `gap`, how much better
        clients would be served by pooled data.
    """
    sign = 1.0 if rises else -1.0
    result: dict[str, Any] = {"measure": measure, "rises": rises, "tested_on": tested, "notes": found.notes}
    for name, values in (("federated", found.federated), ("alone", found.alone), ("pooled", found.pooled)):
        result[name] = spread(list(values.values()), rises) if values else None
    gains = [
        sign * (found.federated[client] - value) for client, value in found.alone.items() if client in found.federated
    ]
    if gains:
        result["alone"] |= {
            "times": found.times,
            "gain": sum(gains) / len(gains),
            "worse_off": sum(gain < 0 for gain in gains) / len(gains),
        }
    gaps = [sign * (value - found.federated[client]) for client, value in found.pooled.items()]
    if gaps:
        result["pooled"] |= {"samples": found.samples, "gap": sum(gaps) / len(gaps)}
    return result


def in_numbers(compared: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a comparison that stand beside a run's other measures."""
    found = {}
    for name, title in (("federated", "clients"), ("alone", "alone"), ("pooled", "pooled")):
        for key in ("mean", "worst_decile", "best_decile") if compared[name] else ():
            found[f"{title}_{key}"] = float(compared[name][key])
    return found


def lines(compared: Mapping[str, Any]) -> list[str]:
    """Say in words what a comparison has come to, given what `summary` returned."""
    federated, alone, pooled = (compared[name] for name in ("federated", "alone", "pooled"))
    if federated is None:
        return ["no client has data to measure its model on"]
    count = federated["clients"]
    said = [f"{compared['measure']} of {count} client{'s'[: count != 1]}, each on {compared['tested_on']}:"]
    parts = [_of("federated", federated, count)]
    parts += [_of("alone", alone, count)] if alone else []
    parts += [_of("pooled", pooled, count)] if pooled else []
    said.append(", ".join(parts))
    verdict = []
    if alone and "gain" in alone:
        better = round((1 - alone["worse_off"]) * alone["clients"])
        verdict.append(
            f"the federation serves {better} of {alone['clients']} clients as well as training alone or better,"
            f" by {alone['gain']:+.4f} on average"
        )
    if pooled and "gap" in pooled:
        verdict.append(f"pooled data would be {pooled['gap']:+.4f} from it")
    said += ["; ".join(verdict)] if verdict else []
    return said + list(compared["notes"])


def _of(name: str, values: Mapping[str, Any], count: int) -> str:
    of = f", {values['clients']} clients" if values["clients"] != count else ""
    return f"{name} {values['mean']:.4f} (worst decile {values['worst_decile']:.4f}{of})"
