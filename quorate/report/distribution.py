"""What the updates looked like that were to be said: sizes of their entries, their shape, what top-k loses of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quorate.errors import DataError
from quorate.report.folder import Floats
from quorate.report.picture import COLOURS, Picture, frame
from quorate.report.units import count, plain

COLUMNS = 400  # at most so many steps are drawn: there are no more pixels
OUTERMOST, LARGEST_COUNT = 2000, 1 << 62  # number of a bin, and of entries
DENSITY_FROM, SIGMAS = 1e-7, 12.0  # of the picture of the shape


@dataclass(frozen=True)
class Distribution:
    """One line of `histogram.jsonl`.

    Args:
        entries: d, of which `zeros` are in no bin.
        first: the number b of the first bin, which holds 2^(b / 2) <= |x| < 2^((b + 1) / 2).
        positive: numbers of entries per bin; `negative` is as long.
        sigma: standard deviation; NaN if it is not known, as is `kurtosis`.
        top: (k, share of the energy that the k largest hold), in the file's order.
    """

    step: float
    entries: float
    zeros: float
    first: int
    positive: Floats
    negative: Floats
    sigma: float
    kurtosis: float
    top: tuple[tuple[float, float], ...]

    @property
    def edges(self) -> Floats:
        """The bins' limits: (m + 1,) for m bins."""
        return np.exp2(np.arange(self.first, self.first + len(self.positive) + 1) / 2)


def read(run: Path) -> tuple[Distribution, ...]:
    """Read what a run noted of its updates; nothing if it was not asked to.

    Raises:
        DataError: if the file is damaged, other than by a last line that was cut short.
    """
    path = run / "histogram.jsonl"
    if not path.is_file():
        return ()
    try:
        lines = [line for line in path.read_bytes().decode("utf-8", errors="replace").split("\n") if line.strip()]
    except OSError as error:
        raise DataError(f"`{path}` can't be read: {error.strerror}") from error
    found = []
    for i, line in enumerate(lines, start=1):
        try:
            found.append(_distribution(json.loads(line)))
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
            if i == len(lines) and isinstance(error, json.JSONDecodeError):
                break
            raise DataError(
                f"`{path}` is damaged: line {i} tells of no update ({str(error)[:80]})",
                f"remove `{path}` to see the report without its updates",
            ) from error
    return tuple(found)


def _distribution(raw: Mapping[str, Any]) -> Distribution:
    positive, negative = _counts(raw["positive"]), _counts(raw["negative"])
    step, entries, zeros = (_whole(raw[key]) for key in ("step", "entries", "zeros"))
    first = raw["first"]
    if (
        type(first) is not int
        or len(positive) != len(negative)
        or not -OUTERMOST <= first <= OUTERMOST + 1 - len(positive)
    ):
        raise ValueError("bins that can't be")
    top = tuple((float(_whole(k)), _known(energy)) for k, energy in raw["top"])
    return Distribution(
        step, entries, zeros, first, positive, negative, _known(raw["sigma"]), _known(raw["kurtosis"]), top
    )


def _whole(value: Any) -> float:
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"no number of entries: {str(value)[:40]}")
    return float(value)


def _counts(values: Any) -> Floats:
    if not isinstance(values, list) or len(values) > 2 * OUTERMOST + 1:
        raise ValueError("bins that can't be")
    return np.array([_whole(value) for value in values], dtype=np.float64)


def _known(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"no measure: {str(value)[:40]}")
    return float(value)


def pictures(noted: Sequence[Distribution]) -> list[Picture]:
    """Draw what is known of a run's updates; nothing if nothing is."""
    drawn = [each for each in noted if len(each.positive)]
    if not noted:
        return []
    if not drawn:
        text = "There is nothing to draw: every update that was noted is zero."
        return [Picture("The sizes of an update's entries", None, text)]
    return [sizes(drawn), shape(drawn), contraction(drawn)]


def sizes(noted: Sequence[Distribution]) -> Picture:
    """Draw steps across, sizes up, and shares of entries as colours."""
    noted = _thinned(noted)
    first = min(each.first for each in noted)
    last = max(each.first + len(each.positive) for each in noted)
    z, signs = np.full((last - first, len(noted)), np.nan), np.full((last - first, len(noted)), np.nan)
    for column, each in enumerate(noted):
        both = each.positive + each.negative
        rows = slice(each.first - first, each.first - first + len(both))
        with np.errstate(divide="ignore", invalid="ignore"):
            z[rows, column] = np.where(both > 0, 100 * both / each.entries, np.nan)
            signs[rows, column] = 100 * each.positive / both
    centres = np.exp2((np.arange(first, last) + 0.5) / 2)
    figure = frame(height=420)
    figure.add_heatmap(
        x=[each.step for each in noted],
        y=centres,
        z=np.log10(z),
        customdata=np.dstack([z, signs]),
        colorscale="Viridis",
        hoverongaps=False,
        colorbar=_colours(z),
        hovertemplate="step %{x}: %{customdata[0]:.3g} % of the entries near %{y:.2g},"
        "<br>of which %{customdata[1]:.3g} % are positive<extra></extra>",
    )
    figure.add_scatter(
        x=[each.step for each in noted],
        y=[each.sigma if each.sigma > 0 else None for each in noted],
        mode="lines",
        name="standard deviation",
        line={"color": "#d55e00", "width": 1.6},
        hovertemplate="%{y:.3g}<extra></extra>",
    )
    figure.update_xaxes(title_text="steps")
    figure.update_yaxes(title_text="|x|", type="log", exponentformat="power")
    figure.update_layout(hovermode="closest", showlegend=True)
    return Picture("The sizes of an update's entries", figure, _sizes_reading(noted))


def _colours(z: Floats) -> dict[str, Any]:
    low, high = math.floor(np.nanmin(np.log10(z))), math.ceil(np.nanmax(np.log10(z)))
    ticks = list(range(low, high + 1))
    return {"title": {"text": "% of entries"}, "tickvals": ticks, "ticktext": [f"{10.0**tick:g}" for tick in ticks]}


def _sizes_reading(noted: Sequence[Distribution]) -> str:
    last = noted[-1]
    zeros = 100 * last.zeros / last.entries
    return (
        "A column per noted step: how many entries of rank 0's update, as it was given to be said, were of each size."
        f" Bins are a factor of √2 wide. In the last column {zeros:.3g} % of {count(last.entries)} entries are"
        " exactly zero, and in no bin. What error feedback adds to an update is not in it."
    )


def shape(noted: Sequence[Distribution]) -> Picture:
    """Draw the density of the entries, in standard deviations, next to the normal one."""
    chosen = dict.fromkeys((0, len(noted) // 2, len(noted) - 1))
    figure = frame(height=360)
    for colour, i in zip(COLOURS, chosen, strict=False):
        each = noted[i]
        if not each.sigma > 0:
            continue
        with np.errstate(all="ignore"):
            edges = each.edges / each.sigma
            widths, centres = np.diff(edges), np.sqrt(edges[1:]) * np.sqrt(edges[:-1])
            x = np.concatenate([-centres[::-1], centres])
            y = np.concatenate([(each.negative / widths)[::-1], each.positive / widths]) / each.entries
        kept = (y > DENSITY_FROM) & (np.abs(x) <= SIGMAS) & (np.abs(x) > 1e-2)
        figure.add_scatter(
            x=x[kept],
            y=y[kept],
            mode="lines",
            line={"color": colour, "width": 2},
            name=f"step {each.step:.0f} (kurtosis {plain(each.kurtosis)})",
            hovertemplate="density %{y:.3g} at %{x:.3g} standard deviations",
        )
    grid = np.linspace(-5.5, 5.5, 221)
    figure.add_scatter(
        x=grid,
        y=np.exp(-grid * grid / 2) / math.sqrt(2 * math.pi),
        mode="lines",
        name="normal (kurtosis 3)",
        line={"color": "#555b66", "width": 1.4, "dash": "dot"},
        hoverinfo="skip",
    )
    figure.update_xaxes(title_text="x, in standard deviations")
    figure.update_yaxes(title_text="density", type="log", exponentformat="power")
    reading = (
        "A bell: one peak at zero, falling to both sides. A kurtosis above 3 means a narrower peak and more very large"
        " entries than a normal distribution has: the further above, the more of an update a few entries say."
    )
    return Picture("The shape of an update", figure, reading)


def contraction(noted: Sequence[Distribution]) -> Picture:
    """Draw what exact top-k would lose of each noted update, next to its bounds."""
    noted, figure = _thinned(noted), frame(height=360)
    for colour, i in zip(COLOURS, range(min(len(each.top) for each in noted)), strict=False):
        ratio = noted[-1].top[i][0] / noted[-1].entries
        name, steps = f"k = {ratio:.3g} d", [each.step for each in noted]
        kept = [each.top[i][0] / each.entries for each in noted]
        lines = [
            (f"{name}: measured", [1 - each.top[i][1] for each in noted], "solid"),
            ("bound (1 - k/d)², bell-shaped", [(1 - share) ** 2 for share in kept], "dash"),
            ("bound 1 - k/d, any", [1 - share for share in kept], "dot"),
        ]
        for label, values, dash in lines:
            figure.add_scatter(
                x=steps,
                y=values,
                mode="lines",
                name=label,
                legendgroup=name,
                line={"color": colour, "width": 2.2 if dash == "solid" else 1.2, "dash": dash},
                hovertemplate=f"%{{y:.4f}}<extra>{name}</extra>",
            )
    figure.update_xaxes(title_text="steps")
    figure.update_yaxes(title_text="‖x - top-k(x)‖² / ‖x‖²", rangemode="tozero")
    return Picture("What top-k would leave out", figure, _contraction_reading(noted))


def _contraction_reading(noted: Sequence[Distribution]) -> str:
    measured = [(k / each.entries, 1 - energy) for each in noted for k, energy in each.top if energy == energy]
    above = sum(lost > (1 - share) ** 2 + 1e-12 for share, lost in measured)
    verdict = (
        "Every measured value is below it."
        if not above
        else f"{above} of {len(measured)} measured values are above it: those updates are not bell-shaped."
    )
    return (
        "The share of an update's energy that the k largest entries do not hold; further down is better. No update can"
        " be above 1 - k/d; bell-shaped ones stay below (1 - k/d)² (Shi, Chu, Cheung and See 2019). " + verdict
    )


def _thinned(noted: Sequence[Distribution]) -> Sequence[Distribution]:
    if len(noted) <= COLUMNS:
        return noted
    return [noted[i] for i in np.linspace(0, len(noted) - 1, COLUMNS).round().astype(int)]
