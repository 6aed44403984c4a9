"""What a defence is worth, drawn: accuracy by attack and defence, one table for each division of the data."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from quorate.report import shell
from quorate.report.page import section, written
from quorate.report.picture import Picture, frame

Row = Mapping[str, Mapping[str, Any]]
"""By attack, by defence: `accuracy` and `loss`, or `failed`."""

CLOSE = 0.02  # accuracy within which an attack has done no harm
BROKEN = 0.2  # accuracy lost from which a defence is broken


def value_of(cell: Mapping[str, Any] | None) -> float | None:
    """Return a cell's accuracy; None if there is none, 0 of a run that has ended in NaN."""
    if cell is None or "failed" in cell:
        return None
    accuracy = cell.get("accuracy")
    return None if accuracy is None else float(accuracy) if accuracy == accuracy else 0.0


def worst(rows: Row, defence: str, free: str) -> tuple[str, float] | None:
    """Return the attack that a defence withstands least, and its accuracy then."""
    found = {attack: value_of(row.get(defence)) for attack, row in rows.items() if attack != free}
    known = {attack: value for attack, value in found.items() if value is not None}
    return min(known.items(), key=lambda each: each[1]) if known else None


def table(place: str, rows: Row, free: str, plain: str) -> Table:
    """Return a table for the terminal: a row for each attack, a column for each defence, in per cent.

    Args:
        free: the row without any attack.
        plain: the column of plain averaging, whose value without attack others are compared with.
    """
    defences = _defences(rows)
    legend = ", ".join(f"{number}: {defence}" for number, defence in enumerate(defences, 1))
    drawn = Table(
        title=f"data: {place}; test accuracy in %, x: the run stops; by defence",
        caption=legend,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    drawn.add_column("attack", no_wrap=True)
    for number in range(1, len(defences) + 1):
        drawn.add_column(str(number), justify="right", no_wrap=True)
    reference = value_of(rows.get(free, {}).get(plain))
    for attack, row in rows.items():
        values = {defence: value_of(row.get(defence)) for defence in defences}
        best = max((value for value in values.values() if value is not None), default=None)
        drawn.add_row(attack, *[_text(values[each], row.get(each), best, reference) for each in defences])
    drawn.add_section()
    least = [worst(rows, defence, free) for defence in defences]
    drawn.add_row("worst of all", *[Text("-" if each is None else f"{100 * each[1]:.0f}", "bold") for each in least])
    return drawn


def _defences(rows: Row) -> list[str]:
    return list(dict.fromkeys(defence for row in rows.values() for defence in row))


def _text(value: float | None, cell: Mapping[str, Any] | None, best: float | None, reference: float | None) -> Text:
    if value is None:
        return Text("-", "dim")
    if cell is not None and "stopped" in cell:
        return Text("x", "red")
    lost = 0.0 if reference is None else reference - value
    style = "green" if lost <= CLOSE else "red" if lost >= BROKEN else ""
    return Text(f"{100 * value:.0f}", f"bold {style}" if value == best else style)


def write(
    title: str, tables: Mapping[str, Row], notes: Sequence[str], to: Path, free: str, plain: str, f: int, n: int
) -> Path:
    """Write the page of all tables, and return its path.

    Args:
        tables: by division of the data.
        notes: what is to be known beside them, plain text.
        f: how many of n workers lie.
    """
    numbers = itertools.count(1)
    head = f"<h1>{html.escape(title)}</h1><p class='lead'>{f} of {n} workers lie. {html.escape(' '.join(notes))}</p>"
    parts = [section(_picture(place, rows, free, plain), numbers) for place, rows in tables.items()]
    return written(shell.page(html.escape(title), head + "".join(parts)), to)


def _picture(place: str, rows: Row, free: str, plain: str) -> Picture:
    defences, attacks = _defences(rows), list(rows)
    values = [[value_of(rows[attack].get(defence)) for defence in defences] for attack in attacks]
    shown = [["" if each is None else f"{100 * each:.1f}" for each in row] for row in values]
    cells = [[rows[attack].get(each, {}) for each in defences] for attack in attacks]
    told = [[str(cell.get("failed") or cell.get("stopped") or "") for cell in row] for row in cells]
    figure = frame(height=190 + 30 * len(attacks))
    figure.add_heatmap(
        z=values,
        x=[each.replace("_", " ").replace(" + ", "<br>+ ") for each in defences],
        y=attacks,
        text=shown,
        texttemplate="%{text}",
        customdata=told,
        hovertemplate="%{y} against %{x}: %{text} %{customdata}<extra></extra>",
        colorscale=[[0, "#d55e00"], [0.5, "#f5f0d0"], [1, "#009e73"]],
        zmin=0,
        zmax=1,
        colorbar={"title": "accuracy", "tickformat": ".0%"},
    )
    figure.update_yaxes(autorange="reversed", ticks="", showgrid=False)
    figure.update_xaxes(side="top", ticks="", showgrid=False, tickangle=-60)
    figure.update_layout(margin={"l": 150, "t": 170, "r": 16, "b": 16})
    sentences = []
    for defence in defences[:1] + [each for each in (plain,) if each in defences]:
        found = worst(rows, defence, free)
        if found is not None:
            sentences.append(f"`{defence}` does worst against {found[0]}: {100 * found[1]:.1f} %.")
    reading = (
        "Test accuracy in per cent after the same training under each attack (rows) with each defence (columns); an"
        f" empty field is a run that could not be done. {' '.join(sentences)}"
    )
    return Picture(f"Data: {place}", figure, reading)
