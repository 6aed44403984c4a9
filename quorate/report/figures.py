"""What the workers did: when each was busy, for how long in all, and who talked to whom.

Of thousands of workers at most `SHOWN` are drawn one by one, evenly spread over the ranks and always with the
first and the last; the matrix of traffic adds neighbouring ranks up into at most `CELLS` rows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from quorate.report.folder import KINDS, Floats, Trace
from quorate.report.picture import Picture, frame
from quorate.report.units import count, seconds, unit_of_bytes, unit_of_seconds

SHOWN = 64
CELLS = 128
STRETCHES = 20_000  # at most about so many drawn intervals in a timeline
AT_ONCE = 24  # intervals of one worker that fit next to each other on the screen

PAINT = {"computing": "#0072b2", "sending": "#e69f00", "waiting": "#c9ced6"}


def pictures(trace: Trace, *, virtual: bool, federated: bool = False) -> list[Picture]:
    """Draw everything that a trace tells about the workers, or about a federation's clients and, last, its server."""
    drawn = [timeline(trace, virtual=virtual), times(trace), traffic(trace), matrix(trace)]
    return [_of_clients(picture, trace.size - 1) for picture in drawn] if federated else drawn


def _of_clients(picture: Picture, server: int) -> Picture:
    """Call workers clients; the last one is the server."""
    figure, words = picture.figure, {"workers": "clients", "worker": "client", "ranks": "numbers", "rank": "number"}
    title, reading = picture.title, picture.reading
    for word, other in words.items():
        title, reading = title.replace(word, other), reading.replace(word, other)
    if figure is not None:
        for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
            if axis.title.text is not None:
                axis.title.text = axis.title.text.replace("rank", "client")
        for each in figure.data:
            if each.hovertemplate is not None:
                each.hovertemplate = each.hovertemplate.replace("rank", "client")
        reading += f" Number {server} is the server."
    return Picture(title, figure, reading, picture.wide)


def timeline(trace: Trace, *, virtual: bool) -> Picture:
    """Draw one row per worker: when it computed, sent and waited."""
    title = "Who was busy when"
    known = np.unique(np.concatenate([rows[:, 0] for rows in trace.intervals.values()]))
    if not len(known):
        return Picture(title, None, "There is nothing to draw: the trace holds no intervals.")
    shown = known[spread(len(known))]
    end = max(float(rows[:, 2].max()) for rows in trace.intervals.values() if len(rows))
    unit = unit_of_seconds(end)
    stretches = _stretches(trace, shown, end)
    height = 26 if len(shown) <= 16 else 18 if len(shown) <= 32 else 13
    figure = frame(height=height * len(shown) + 44 + 48)
    lanes = {"computing": (-0.12, 0.56), "waiting": (-0.12, 0.56), "sending": (0.3, 0.2)}
    for kind in ("waiting", "computing", "sending"):
        (offset, width), rows = lanes[kind], stretches[kind]
        drawn = [row for row in rows if len(row)]
        lines = np.concatenate(drawn) if drawn else np.empty((0, 3))
        # Start, end, gap: a single line with holes is far lighter than a shape per interval.
        x, y = (np.full((len(lines), 3), math.nan) for _ in range(2))
        x[:, :2] = lines[:, 1:] / unit.worth
        y[:, :2] = lines[:, :1] + offset
        labels = [f"rank {shown[int(i)]:.0f}: {kind} for {seconds(e - s)}" for i, s, e in lines]
        figure.add_scatter(
            x=x.ravel().astype(np.float32),
            y=y.ravel().astype(np.float32),
            mode="lines",
            name=kind,
            legendrank=KINDS.index(kind),
            line={"color": PAINT[kind], "width": max(1.5, width * height)},
            hovertext=[text for label in labels for text in (label, label, "")],
            hovertemplate=f"%{{hovertext}}<br>at %{{x:.4g}} {unit.sign}<extra></extra>",
        )
    ticks = [f"{rank:.0f}" for rank in shown]
    clock = "virtual time" if virtual else "wall time"
    figure.update_xaxes(title_text=f"{clock} ({unit.sign})", range=[0, _first_view(trace, shown, end) / unit.worth])
    figure.update_yaxes(
        title_text="rank", range=[len(shown) - 0.5, -0.5], fixedrange=True, showgrid=False, zeroline=False
    )
    figure.update_yaxes(tickmode="array", tickvals=list(range(len(shown))), ticktext=ticks, tickfont_size=10)
    figure.update_layout(hovermode="closest")
    return Picture(title, figure, _timeline_reading(trace, len(known), len(shown), end, _first_view(trace, shown, end)))


def times(trace: Trace) -> Picture:
    """Draw a bar per worker: its seconds of computing, sending and waiting."""
    title = "Where each worker's time went"
    if not trace.workers:
        return Picture(title, None, "There is nothing to draw: the trace holds no workers.")
    measures = {kind: [getattr(worker, f"{kind}_seconds") for worker in trace.workers] for kind in KINDS}
    unit = unit_of_seconds(max(map(sum, zip(*measures.values(), strict=True))))
    figure = _bars(trace, {kind: (values, PAINT[kind]) for kind, values in measures.items()}, unit.worth, unit.sign)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title_text=f"time ({unit.sign})")
    reading = (
        "One bar per worker over the whole run. Much waiting on all but a few points to those few as stragglers."
        " Sending may overlap computing, so a bar can be taller than the run was long."
    )
    return Picture(title, figure, reading + _shown_note(len(trace.workers)))


def traffic(trace: Trace) -> Picture:
    """Draw two bars per worker: bytes sent and bytes received."""
    title = "How much each worker sent and received"
    if not any(worker.sent_bytes or worker.received_bytes for worker in trace.workers):
        return Picture(title, None, "There is nothing to draw: no worker sent or received anything.")
    sent, received = ([getattr(w, f"{way}_bytes") for w in trace.workers] for way in ("sent", "received"))
    unit = unit_of_bytes(max(sent + received))
    figure = _bars(trace, {"sent": (sent, "#d55e00"), "received": (received, "#56b4e9")}, unit.worth, unit.sign)
    figure.update_layout(barmode="group")
    figure.update_yaxes(title_text=f"bytes ({unit.sign})")
    reading = "Two bars per worker over the whole run. One that towers over the others is a bottleneck of the network."
    return Picture(title, figure, reading + _shown_note(len(trace.workers)))


def matrix(trace: Trace) -> Picture:
    """Draw the bytes that went from each row's workers to each column's."""
    title = "Who talked to whom"
    if not len(trace.links):
        return Picture(title, None, "There is nothing to draw: no messages went between workers.")
    width = math.ceil(trace.size / CELLS)
    cells = math.ceil(trace.size / width)
    source, target = (trace.links[:, i].astype(np.int64) // width for i in (0, 1))
    sums = [np.bincount(source * cells + target, trace.links[:, i], cells * cells) for i in (2, 3)]
    sent, messages = (total.reshape(cells, cells) for total in sums)
    unit = unit_of_bytes(float(sent.max()))
    ends = [(i * width, min((i + 1) * width, trace.size) - 1) for i in range(cells)]
    labels = [str(first) if first == last else f"{first}-{last}" for first, last in ends]
    figure = frame(height=640)
    figure.add_heatmap(
        x=labels,
        y=labels,
        z=np.where(messages > 0, sent / unit.worth, math.nan).astype(np.float32),
        text=[[count(entry) for entry in row] for row in messages],
        zmin=0,
        zmax=max(float(sent.max()), 1.0) / unit.worth,
        colorscale=[[0, "#e3eef6"], [0.35, "#6aaed6"], [0.7, "#1f6fb0"], [1, "#08306b"]],
        colorbar={"title": {"text": f"bytes ({unit.sign})"}, "outlinewidth": 0, "thickness": 14},
        hoverongaps=False,
        xgap=1 if cells <= 40 else 0,
        ygap=1 if cells <= 40 else 0,
        hovertemplate=f"from %{{y}} to %{{x}}<br>%{{z:.4g}} {unit.sign} in %{{text}} messages<extra></extra>",
    )
    axis = {"type": "category", "tickmode": "array", "showgrid": False, "constrain": "domain", "automargin": True}
    across = labels[:: math.ceil(cells / (16 if width == 1 else 6))]
    figure.update_xaxes(title_text="to rank", tickvals=across, tickangle=0, **axis)
    down = labels[:: math.ceil(cells / 16)]
    figure.update_yaxes(title_text="from rank", tickvals=down, autorange="reversed", scaleanchor="x", **axis)
    figure.update_layout(margin_t=28)
    reading = "Bytes in all, from the worker of the row to the worker of the column. White: they never talked."
    if width > 1:
        reading += f" Each cell adds up {count(width)} x {count(width)} neighbouring ranks of {count(trace.size)}."
    return Picture(title, figure, reading, wide=False)


def spread(n: int, at_most: int = SHOWN) -> list[int]:
    """Return at most so many of range(n), evenly spread, with both ends."""
    return list(range(n)) if n <= at_most else [round(i * (n - 1) / (at_most - 1)) for i in range(at_most)]


def _bars(trace: Trace, bars: dict[str, tuple[Sequence[float], str]], worth: float, sign: str) -> go.Figure:
    chosen = spread(len(trace.workers))
    shown = [trace.workers[i] for i in chosen]
    labels = [str(worker.rank) for worker in shown]
    hosts = [f"<br>on {html.escape(worker.host, quote=False)}" if worker.host else "" for worker in shown]
    figure = frame(height=340)
    for name, (values, colour) in bars.items():
        figure.add_bar(
            x=labels,
            y=[values[i] / worth for i in chosen],
            name=name,
            marker_color=colour,
            hovertext=hosts,
            hovertemplate=f"rank %{{x}}: {name} %{{y:.4g}} {sign}%{{hovertext}}<extra></extra>",
        )
    ticks = labels[:: math.ceil(len(labels) / (32 if len(labels[-1]) < 4 else 16))]
    figure.update_xaxes(title_text="rank", type="category", tickmode="array", tickvals=ticks, tickangle=0)
    figure.update_layout(bargap=0.25)
    return figure


def _stretches(trace: Trace, shown: Floats, end: float) -> dict[str, list[Floats]]:
    """Return per kind and row the intervals to draw: (m, 3), row, first and last second.

    Intervals that touch become one, and if they are very many, so do those with gaps too small to be seen.
    """
    for gap in (0.0, end / 4000, end / 1000, end / 250):
        found = {
            kind: [_merged(i, rows[rows[:, 0] == rank, 1:], gap) for i, rank in enumerate(shown)]
            for kind, rows in trace.intervals.items()
        }
        if sum(len(row) for rows in found.values() for row in rows) <= STRETCHES:
            break
    return found


def _merged(row: int, intervals: Floats, gap: float) -> Floats:
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]
    intervals = intervals[intervals[:, 0].argsort(kind="stable")]
    if not len(intervals):
        return np.empty((0, 3))
    reach = np.maximum.accumulate(intervals[:, 1])
    opens = np.concatenate([[True], intervals[1:, 0] > reach[:-1] + gap])
    closes = np.concatenate([opens[1:], [True]])
    return np.column_stack([np.full(opens.sum(), float(row)), intervals[opens, 0], reach[closes]])


def _first_view(trace: Trace, shown: Floats, end: float) -> float:
    """Return the second up to which the busiest row shows about `AT_ONCE` intervals."""
    starts = [rows[rows[:, 0] == rank, 1] for rank in shown for rows in trace.intervals.values()]
    crowded = [float(np.sort(row)[AT_ONCE]) for row in starts if len(row) > 2 * AT_ONCE]
    return min([view for view in crowded if view > 0], default=end)


def _timeline_reading(trace: Trace, known: int, shown: int, end: float, view: float) -> str:
    text = (
        "One row per worker. Blue: computing; grey: waiting for others; the thin orange line: sending, which may"
        " overlap computing. White: idle."
    )
    recorded = trace.until or end
    if trace.seconds > 1.001 * recorded:
        text += f" Recorded for the first {seconds(recorded)} of {seconds(trace.seconds)}."
    if view < end:
        text += f" Opens at the first {seconds(view)}; double-click to see all {seconds(end)}, drag to zoom in."
    else:
        text += " Drag to zoom in, double-click to zoom out."
    if shown < trace.size:
        of_recorded = f" (recorded: {count(known)})" if known < trace.size and known > shown else ""
        text += f" Shows {count(shown)} of {count(trace.size)} workers{of_recorded}."
    return text


def _shown_note(n: int) -> str:
    return f" Shows {SHOWN} of {count(n)} workers, evenly spread over the ranks." if n > SHOWN else ""
