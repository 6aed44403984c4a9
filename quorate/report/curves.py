"""How a run learns: each metric against steps, time and traffic, one small picture per pair.

The same curve against three costs is the point: what is best per step is often not best per second or per byte.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from quorate.report.folder import Floats, RunRecord
from quorate.report.picture import COLOURS, Picture, frame
from quorate.report.units import Unit, unit_of_bytes, unit_of_seconds

POINTS = 1000  # at most so many on a curve: there are no more pixels
OTHERS = 4  # at most so many metrics besides accuracy and loss
ONE = Unit("", 1.0)


@dataclass(frozen=True)
class Cost:
    """A horizontal axis: the key in `metrics.jsonl`, what to call it, and its unit for a given range."""

    key: str
    title: str
    unit: Callable[[float], Unit]


COSTS = (
    Cost("step", "steps", lambda largest: ONE),
    Cost("clock_seconds", "clock", unit_of_seconds),
    Cost("bytes", "bytes sent", unit_of_bytes),
)


@dataclass(frozen=True)
class Curve:
    """A metric of one run: its key in `metrics.jsonl`, and how it is drawn."""

    key: str
    title: str
    dotted: bool = False


def curves(records: Sequence[RunRecord], names: Sequence[str]) -> Picture:
    """Draw accuracy, loss and other metrics of all runs, a row per metric and a column per cost."""
    title = "How well it learned" if len(records) == 1 else "How well they learned"
    rows, rounds = _rows(records), all(record.federated for record in records)
    if not rows:
        return Picture(title, None, "There is nothing to draw yet: no step was logged.")
    figure = frame(height=70 + 250 * len(rows))
    figure.set_subplots(rows=len(rows), cols=len(COSTS), shared_yaxes=True, horizontal_spacing=0.03)
    for column, cost in enumerate(COSTS, start=1):
        largest = max((point[cost.key] for record in records for point in record.metrics), default=0.0)
        unit = cost.unit(largest)
        for row, (_, parts) in enumerate(rows.items(), start=1):
            for i, record in enumerate(records):
                for part in parts:
                    trace = _line(record, part, cost, unit.worth)
                    if trace is None:
                        continue
                    label = part.title if len(records) == 1 else names[i]
                    colour = COLOURS[(_colour(part, rows) if len(records) == 1 else i) % len(COLOURS)]
                    trace.update(name=html.escape(label, quote=False), legendgroup=label, line_color=colour)
                    trace.update(showlegend=column == 1 and not _named(figure, html.escape(label, quote=False)))
                    figure.add_trace(trace, row=row, col=column)
            signs = f" ({unit.sign})" if unit.sign else ""
            named = "rounds" if cost.key == "step" and rounds else cost.title
            figure.update_xaxes(title_text=named + signs, rangemode="tozero", row=row, col=column)
    for row, name in enumerate(rows, start=1):
        figure.update_yaxes(title_text=html.escape(name, quote=False), row=row, col=1)
    figure.update_layout(hovermode="closest", showlegend=True)
    return Picture(title, figure, _reading(records))


def _rows(records: Sequence[RunRecord]) -> dict[str, list[Curve]]:
    """Return the rows to draw: the title of the vertical axis, and the metrics that share it."""
    present = {key: None for record in records for point in record.metrics for key in point}
    rows = {
        "accuracy (share right)": [
            Curve("accuracy", "accuracy"),
            *([Curve(key, title, dotted=True) for key, title in DECILES] if _often(records) else ()),
        ],
        "loss": [Curve("train_loss", "loss, training", dotted=True), Curve("test_loss", "loss, test")],
    }
    known = KNOWN | OF_FEDERATIONS if all(record.federated for record in records) else KNOWN
    others = [key for key in present if key not in known][:OTHERS]
    rows |= {key: [Curve(key, key)] for key in others}
    kept = {name: [part for part in parts if part.key in present] for name, parts in rows.items()}
    return {name: parts for name, parts in kept.items() if parts}


DECILES = (("clients_worst_decile", "worst decile of clients"), ("clients_best_decile", "best decile of clients"))
OF_FEDERATIONS = {"clients", "step_norm", "client_norm"} | {
    f"{who}_{what}" for who in ("clients", "alone", "pooled") for what in ("mean", "worst_decile", "best_decile")
}
"""Metrics that have pictures of their own."""
KNOWN = {"step", "clock_seconds", "wall_seconds", "bytes", "train_loss", "test_loss", "accuracy", "ranks"}


def _often(records: Sequence[RunRecord]) -> bool:
    """Return whether clients' accuracies were measured in the middle of a run, too."""
    return any(sum(DECILES[0][0] in point and "accuracy" in point for point in each.metrics) > 1 for each in records)


def _line(record: RunRecord, part: Curve, cost: Cost, worth: float) -> go.Scatter | None:
    x, y = _values(record, part.key, cost.key)
    if not len(x):
        return None
    few = len(x) <= 60 and not part.dotted
    return go.Scatter(
        x=x / worth,
        y=y,
        mode="lines+markers" if few else "lines",
        line={"width": 1.6 if part.dotted else 2.2, "dash": "dot" if part.dotted else "solid"},
        marker_size=5,
        opacity=0.85 if part.dotted else 1.0,
        hovertemplate="%{y:.4g}<br>at %{x:.4g}",
    )


def _values(record: RunRecord, key: str, cost: str) -> tuple[Floats, Floats]:
    """Return the finite values of a metric and what they had cost; evenly thinned out if they are very many."""
    points = [(point[cost], point[key]) for point in record.metrics if key in point]
    pairs = np.array(points, dtype=np.float64).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) > POINTS:
        pairs = pairs[np.linspace(0, len(pairs) - 1, POINTS).round().astype(int)]
    return pairs[:, 0], pairs[:, 1]


def _colour(part: Curve, rows: dict[str, list[Curve]]) -> int:
    return [other.key for parts in rows.values() for other in parts].index(part.key)


def _named(figure: go.Figure, label: str) -> bool:
    return any(trace.name == label and trace.showlegend for trace in figure.data)


def _reading(records: Sequence[RunRecord]) -> str:
    clocks = {record.virtual for record in records}
    rounds = all(record.federated for record in records)
    parts = [
        f"The same curves against three costs: {'rounds' if rounds else 'steps'}, time, and bytes sent by all"
        f" {'clients and the server' if rounds else 'workers'} together."
        " Further up is better for accuracy, further down for loss; further left is cheaper."
    ]
    if len(records) > 1:
        parts.append("A run keeps its colour. Dotted: loss on the training batch; solid: measured on the test set.")
    parts.append(
        "The clock is virtual: what the simulated network and machines would have taken."
        if clocks == {True}
        else "The clock is wall time."
        if clocks == {False}
        else "The clock is virtual for simulated runs and wall time for the others, so do not compare these columns."
    )
    if not any("accuracy" in point or "test_loss" in point for record in records for point in record.metrics):
        parts.append("No evaluation on the test set was made, so there is only the training loss.")
    if any(not np.isfinite(value) for record in records for point in record.metrics for value in point.values()):
        parts.append("Values that became infinite or not a number (the run diverged) are left out.")
    return " ".join(parts)
