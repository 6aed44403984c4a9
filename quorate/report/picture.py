"""A picture of the report: a plotly figure, and in plain words how to read it."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

# Told apart by colour-blind readers too. Source: Okabe and Ito, "Color universal design", 2008, and four more.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b4ea3", "#8c6d31", "#555b66", "#b2182b")


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Args:
        title: plain text.
        figure: None if there is nothing to draw.
        reading: plain text, how to read the figure or why there is none.
        wide: whether the figure takes the whole width of the page.
    """

    title: str
    figure: go.Figure | None
    reading: str
    wide: bool = True


def frame(height: int) -> go.Figure:
    """Return an empty figure in the report's looks; its width follows the page, `height` is in pixels."""
    grid: dict[str, object] = {
        "gridcolor": "#e8eaee",
        "zerolinecolor": "#d4d8de",
        "linecolor": "#9aa1ab",
        "ticks": "outside",
    }
    grid |= {"tickcolor": "#9aa1ab", "showline": True}
    return go.Figure(
        layout={
            "template": {"layout": {"xaxis": grid, "yaxis": grid}},
            "height": height,
            "autosize": True,
            "font": {
                "family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif",
                "size": 12,
                "color": "#30363f",
            },
            "margin": {"l": 64, "r": 16, "t": 44, "b": 48},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "yref": "paper"},
            "hoverlabel": {"namelength": -1},
        }
    )
