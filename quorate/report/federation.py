"""A federation in pictures: its rounds, who took part, how well each client is served, and how unlike clients are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from quorate.report.folder import Floats, RunRecord
from quorate.report.picture import COLOURS, Picture, frame
from quorate.report.rounds import FATES, MODELS, Clients, Round, clients, counts, rounds
from quorate.report.units import count, plain, size, unit_of_bytes

COLUMNS = 200  # at most so many bars: more rounds, or clients, are added up
SINGLE = 60  # clients that are drawn one by one
TOLD = 5  # reasons that are told
PAINT = {"accepted": "#009e73", "late": "#e69f00", "refused": "#d55e00", "gone": "#9aa1ab"}
MODEL_PAINT = dict(zip(MODELS, COLOURS, strict=False))


def pictures(record: RunRecord) -> list[Picture]:
    """Draw what a federation's folder tells of its rounds and clients.

    Raises:
        DataError: if a file in it is damaged.
    """
    noted, known = rounds(record.folder), clients(record.folder)
    drawn = []
    if noted:
        drawn += [replies(noted), participation(noted, _size(record, noted))]
    if known is not None:
        drawn.append(served(known))
        if known.labels.size:
            drawn.append(labels(known.labels, len(known.values["federated"])))
    drifting = drift(record.metrics)
    return drawn + ([drifting] if drifting is not None else [])


def _size(record: RunRecord, noted: Sequence[Round]) -> int:
    told = record.facts.get("workers")
    largest = max((client for each in noted for fate in FATES for client in each.fates[fate]), default=-1) + 1
    return told if isinstance(told, int) and largest <= told <= 10**7 else largest


def replies(noted: Sequence[Round]) -> Picture:
    """Draw what became of those who were asked, by round, and the bytes that went up and down."""
    width = math.ceil(len(noted) / COLUMNS)
    groups = [noted[i : i + width] for i in range(0, len(noted), width)]
    x = [group[-1].number for group in groups]
    figure = frame(height=340)
    figure.set_subplots(rows=1, cols=2, horizontal_spacing=0.09, column_widths=[0.6, 0.4])
    for fate in FATES:
        y = [sum(len(each.fates[fate]) for each in group) / len(group) for group in groups]
        if fate == "accepted" or any(y):
            hover = f"round %{{x}}: %{{y:.4g}} {fate}<extra></extra>"
            figure.add_bar(x=x, y=y, name=fate, marker_color=PAINT[fate], hovertemplate=hover, row=1, col=1)
    up, down = (np.cumsum([getattr(each, way) for each in noted]) for way in ("up", "down"))
    unit = unit_of_bytes(float(max(up[-1], down[-1])))
    ends = [min(i + width, len(noted)) - 1 for i in range(0, len(noted), width)]
    for name, values, colour, dash in (("down", down, "#56b4e9", "solid"), ("up", up, "#0072b2", "dash")):
        figure.add_scatter(
            x=x, y=values[ends] / unit.worth, mode="lines", name=name,
            line={"color": colour, "width": 2.2, "dash": dash},
            hovertemplate=f"%{{y:.4g}} {unit.sign} {name} until round %{{x}}<extra></extra>", row=1, col=2,
        )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.05)
    figure.update_xaxes(title_text="rounds")
    figure.update_yaxes(title_text="clients", row=1, col=1)
    figure.update_yaxes(title_text=f"bytes so far ({unit.sign})", rangemode="tozero", row=1, col=2)
    total = {fate: sum(len(each.fates[fate]) for each in noted) for fate in FATES}
    told = ", ".join(f"{count(total[fate])} {fate}" for fate in FATES if total[fate]) or "no replies"
    reading = (
        f"Left, the clients that were asked, by what became of their replies: {told}. Late replies were not waited for,"
        " refused ones could not be used, and who is gone has not replied. Right, what clients have sent up"
        f" ({size(float(up[-1]))}) and the server has broadcast ({size(float(down[-1]))})."
    )
    if width > 1:
        reading += f" Each bar is the mean of {width} rounds."
    return Picture("Rounds", figure, reading + _reasons(noted))


def _reasons(noted: Sequence[Round]) -> str:
    found: dict[tuple[int, str], int] = {}
    for client, why in ((client, why) for each in noted for client, why, hostile in each.why if hostile):
        found[client, why] = found.get((client, why), 0) + 1
    if not found:
        return ""
    most = sorted(found.items(), key=lambda each: -each[1])
    told = "; ".join(f"client {client}: {why} ({times} times)" for (client, why), times in most[:TOLD])
    rest = f"; and {count(len(most) - TOLD)} more" if len(most) > TOLD else ""
    return f" What can't have come from a client that works: {told}{rest}."


def participation(noted: Sequence[Round], n: int) -> Picture:
    """Draw how often each client took part."""
    title = "How often each client took part"
    if not n:
        return Picture(title, None, "There is nothing to draw: nobody was asked.")
    figure = frame(height=320)
    by_fate = {fate: counts(noted, fate, n) for fate in FATES}
    accepted = by_fate["accepted"]
    if n <= SINGLE:
        for fate, values in by_fate.items():
            if fate == "accepted" or values.any():
                hover = f"client %{{x}}: %{{y}} {fate}<extra></extra>"
                figure.add_bar(
                    x=list(range(n)), y=values, name=fate, marker_color=PAINT[fate], hovertemplate=hover
                )  # fmt: skip
        figure.update_layout(barmode="stack")
        figure.update_xaxes(title_text="client")
        figure.update_yaxes(title_text="rounds")
    else:
        width = max(1, math.ceil((accepted.max() + 1) / COLUMNS))
        y = np.bincount((accepted // width).astype(np.int64))
        figure.add_bar(
            x=np.arange(len(y)) * width + (width - 1) / 2, y=y, marker_color=PAINT["accepted"], showlegend=False,
            hovertemplate="%{y} clients took part %{x} times<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(title_text="rounds that a client took part in")
        figure.update_yaxes(title_text="clients")
    reading = (
        f"A client took part in {count(float(accepted.min()))} to {count(float(accepted.max()))} of"
        f" {count(len(noted))} rounds, in {plain(float(accepted.mean()))} on average;"
        f" {count(float((accepted == 0).sum()))} of {count(n)} never did."
    )
    return Picture(title, figure, reading)


def served(known: Clients) -> Picture:
    """Draw how a measure is distributed among clients, and each client's own against what it has alone."""
    title = f"How well each client is served: {known.measure}"
    found = {name: values[np.isfinite(values)] for name, values in known.values.items()}
    if not len(found["federated"]):
        return Picture(title, None, "There is nothing to draw: no client has data to be measured on.")
    figure = frame(height=380)
    both = np.isfinite(known.values["federated"]) & np.isfinite(known.values["alone"])
    figure.set_subplots(rows=1, cols=2 if both.any() else 1, horizontal_spacing=0.09)
    for name, values in found.items():
        if not len(values):
            continue
        ordered = _thinned(np.sort(values))
        figure.add_scatter(
            x=ordered, y=np.arange(1, len(ordered) + 1) / len(ordered), mode="lines", name=name,
            line={"color": MODEL_PAINT[name], "width": 2.2, "shape": "hv"},
            hovertemplate=f"{name}: %{{y:.0%}} of the clients have at most %{{x:.4g}}<extra></extra>", row=1, col=1,
        )  # fmt: skip
    figure.update_xaxes(title_text=f"a client's {known.measure}", row=1, col=1)
    figure.update_yaxes(title_text="share of clients", tickformat=".0%", range=[0, 1.02], row=1, col=1)
    reading = (
        "Left, the share of clients that have at most so much: "
        f"{'a curve further right serves' if known.rises else 'a curve further left serves'} clients better, and a"
        " steeper one serves them more alike."
    )
    if both.any():
        x, y = known.values["alone"][both], known.values["federated"][both]
        numbers = np.flatnonzero(both)
        ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
        figure.add_scatter(
            x=ends, y=ends, mode="lines", line={"color": "#9aa1ab", "dash": "dot"}, hoverinfo="skip", showlegend=False,
            row=1, col=2,
        )  # fmt: skip
        figure.add_scatter(
            x=x, y=y, mode="markers", marker={"color": MODEL_PAINT["federated"], "size": 7, "opacity": 0.7},
            text=[str(number) for number in numbers], showlegend=False,
            hovertemplate="client %{text}: %{x:.4g} alone, %{y:.4g} federated<extra></extra>", row=1, col=2,
        )  # fmt: skip
        figure.update_xaxes(title_text="alone", row=1, col=2)
        figure.update_yaxes(title_text="federated", row=1, col=2)
        worse = int(((y < x) if known.rises else (y > x)).sum())
        reading += (
            f" Right, each client that was trained alone, too: {'below' if known.rises else 'above'} the dotted line,"
            f" {count(worse)} of {count(len(x))} would be better off alone."
        )
    return Picture(title, figure, reading)


def _thinned(values: Floats) -> Floats:
    """Return at most 1,000 of ordered values, evenly spread, with both ends."""
    return values if len(values) <= 1000 else values[np.linspace(0, len(values) - 1, 1000).round().astype(int)]


def labels(held: Floats, n: int) -> Picture:
    """Draw what classes the samples of the first clients are of.

    Args:
        held: (clients, classes), numbers of samples.
        n: how many clients there are.
    """
    totals = held.sum(axis=1, keepdims=True)
    shares = np.divide(held, totals, out=np.zeros_like(held), where=totals > 0)
    figure = frame(height=180 + 14 * min(held.shape[1], 40))
    figure.add_heatmap(
        x=[str(client) for client in range(len(held))],
        y=[str(label) for label in range(held.shape[1])],
        z=np.where(held > 0, 100 * shares, np.nan).T,
        customdata=held.T,
        zmin=0,
        zmax=100,
        colorscale="Viridis_r",
        colorbar={"title": {"text": "% of a client's"}, "outlinewidth": 0, "thickness": 14},
        hoverongaps=False,
        xgap=1,
        hovertemplate="client %{x}: %{customdata} samples of class %{y}, %{z:.3g} % of its own<extra></extra>",
    )
    figure.update_xaxes(title_text="client", type="category", tickangle=0, nticks=26)
    figure.update_yaxes(title_text="class", type="category", nticks=20)
    whole = held.sum(axis=0) / max(held.sum(), 1.0)
    apart = 0.5 * np.abs(shares - whole).sum(axis=1)
    reading = (
        "A column is a client, and a row a class; white: it has no sample of it. On average"
        f" {100 * float(apart.mean()):.3g} % of a client's samples would have to be exchanged for it to have the labels"
        " of all (total variation; 0 if clients are alike)."
    )
    if len(held) < n:
        reading += f" Shows the first {len(held)} of {count(n)} clients."
    return Picture("What labels clients have", figure, reading)


def drift(metrics: Sequence[Mapping[str, float]]) -> Picture | None:
    """Draw how far clients move in a round, and how far the server does; None if neither was noted."""
    points = [point for point in metrics if "client_norm" in point and "step_norm" in point]
    pairs = np.array([[point["step"], point["client_norm"], point["step_norm"]] for point in points]).reshape(-1, 3)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if not len(pairs):
        return None
    if len(pairs) > 1000:
        pairs = pairs[np.linspace(0, len(pairs) - 1, 1000).round().astype(int)]
    figure = frame(height=320)
    named = (("a client's update, on average", 1, "#d55e00"), ("what the server steps by", 2, "#0072b2"))
    for name, column, colour in named:
        figure.add_scatter(
            x=pairs[:, 0], y=pairs[:, column], mode="lines", name=name, line={"color": colour, "width": 2},
            hovertemplate="%{y:.4g} in round %{x}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title_text="rounds", rangemode="tozero")
    figure.update_yaxes(title_text="length (L2 norm)", rangemode="tozero")
    sizes = pairs[-1, 1:]
    last = f" In the last round, {plain(float(sizes[0] / sizes[1]))} times." if sizes[1] > 0 else ""
    reading = (
        "Clients that agree move as far as their mean does. The further the upper curve is above the lower one, the"
        f" more their updates cancel each other: clients drift apart.{last}"
    )
    return Picture("How far clients drift apart", figure, reading)
