"""The report: one HTML file about one run, or about several side by side, that opens without a network."""

from __future__ import annotations

import html
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from quorate.errors import QuorateError
from quorate.report import distribution, federation, figures, shell, suspects, units
from quorate.report.curves import curves
from quorate.report.folder import RunRecord, load, names
from quorate.report.picture import Picture
from quorate.report.rounds import MEASURES, compared
from quorate.report.table import Cell, cells, columns, titles
from quorate.report.target import Target, race

FACTS = ("recipe", "task", "program", "engine", "workers", "parameters", "seed", "batching")
VERSIONS = ("quorate", "torch", "python", "started")


def write_report(folders: Sequence[Path], to: Path, target: Target | None = None) -> Path:
    """Write the report of one or several runs and return its path.

    Args:
        folders: run folders; several are compared.
        to: the HTML file; it is replaced in one go, so nobody sees half a report.
        target: what several runs are to reach.

    Raises:
        QuorateError: if a folder is no run folder or damaged, or the file can't be written.
    """
    if not folders:
        raise QuorateError("a report needs at least one run folder", "quorate report RUN...")
    records = [load(folder) for folder in folders]
    text = _page(records, target)
    return written(text, Path(to))


def written(text: str, to: Path) -> Path:
    """Write a page in one go, and return its path.

    Raises:
        QuorateError: if it can't be written.
    """
    if to.is_dir():
        raise QuorateError(f"`{to}` is a folder", f"name a file, for example `{to / 'report.html'}`")
    beside = to.with_name(f".{to.name}.{os.getpid()}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(text, encoding="utf-8", errors="replace")
            os.replace(beside, to)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise QuorateError(f"the report can't be written to `{to}`: {error.strerror}") from error
    return to


def _page(records: Sequence[RunRecord], target: Target | None) -> str:
    labels, numbers = names(records), itertools.count(1)
    if len(records) == 1:
        (record,) = records
        title = f"{_fact(record, 'recipe')} · {labels[0]}"
        parts = [_head("Run", _fact(record, "recipe"), f"{labels[0]}, {_summary(record)}")]
        parts += [_trouble(record), _cards(record), _facts(record)]
        parts += [_compared(record), section(curves(records, labels), numbers), *_details(record, numbers)]
    else:
        title = f"{len(records)} runs compared"
        parts = [_head("", title, ", ".join(labels))]
        parts += [_trouble(record, label) for record, label in zip(records, labels, strict=True)]
        parts.append(_table(records, target))
        if target is not None:
            parts.append(section(race(records, labels, target), numbers))
        parts.append(section(curves(records, labels), numbers))
        for record, label in zip(records, labels, strict=True):
            inside = "".join([_facts(record), _compared(record), *_details(record, numbers)])
            summary = f"{_escape(label)} · {_escape(_summary(record))}"
            parts.append(f'<details class="run"><summary>{summary}</summary>{inside}</details>')
    return shell.page(_escape(title), "\n".join(part for part in parts if part))


def _head(kind: str, title: str, lead: str) -> str:
    prefix = f"{kind} of " if kind else ""
    return f'<h1>{prefix}{_escape(title)}</h1>\n<p class="lead">{_escape(lead)}</p>'


def _summary(record: RunRecord) -> str:
    number, who = _fact(record, "workers"), "client" if record.federated else "worker"
    return f"{_fact(record, 'program')} with {number} {who}{'' if number == '1' else 's'} on {_fact(record, 'engine')}"


def _trouble(record: RunRecord, label: str | None = None) -> str:
    """Return what must be said first about a run that did not finish; "" for one that did."""
    if record.finished:
        return ""
    name = f"The run {_escape(label)}" if label is not None else "This run"
    error = record.facts.get("error")
    if record.facts.get("status") == "stopped":
        what = "was stopped, and can be gone on with. What follows is how far it got."
        return f'<div class="open"><b>{name}</b> {what}</div>'
    if error is not None or record.facts.get("status") == "failed":
        message = _escape(error if error is not None else "no message was kept")
        return f'<div class="bad"><b>{name} failed.</b> What follows is how far it got.<pre>{message}</pre></div>'
    what = "had not finished when this report was made, or was killed. What follows is how far it got."
    return f'<div class="open"><b>{name}</b> {what}</div>'


def _cards(record: RunRecord) -> str:
    values = [(column.full, column.write(column.get(record))) for column in columns(None, record.federated)]
    cards = "".join(f'<div class="card"><b>{_escape(value)}</b><span>{title}</span></div>' for title, value in values)
    return f'<div class="cards">{cards}</div>'


def _facts(record: RunRecord) -> str:
    rows = "".join(
        f"<div><dt>{_called(record, key)}</dt><dd>{_escape(_fact(record, key))}</dd></div>" for key in FACTS + VERSIONS
    )
    digest = record.result.parameters_sha256
    if digest:
        rows += f'<div class="wide"><dt>SHA-256 of the parameters</dt><dd class="hash">{_escape(digest)}</dd></div>'
    return f"<section><h2>Facts</h2><dl>{rows}</dl></section>"


def _called(record: RunRecord, key: str) -> str:
    return "clients" if key == "workers" and record.federated else key


def _compared(record: RunRecord) -> str:
    """Return the table of a federation against each client alone, and against pooled data; "" if there is none."""
    found = compared(record.facts)
    if found is None:
        return ""
    heads = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in ("", *MEASURES))
    body = ""
    for name, row in found.rows.items():
        values = [units.count(row.get(key)) if key == "clients" else units.share(row.get(key)) for key in MEASURES]
        body += f"<tr><td>{name}</td>{''.join(f'<td>{value}</td>' for value in values)}</tr>"
    reading = (
        f"{found.measure} of the federation's model, of each client trained by itself, and of training on all data in"
        f" one place; each client is measured on {found.tested_on}. The deciles are the means of the tenth of the"
        " clients that is served worst and best."
    )
    notes = "".join(f'<p class="reading">{_escape(note)}</p>' for note in found.notes)
    table = f'<div class="table"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    title = "Federated, alone, or with pooled data"
    return f'<section><h2>{title}</h2>{table}<p class="reading">{_escape(reading)}</p>{notes}</section>'


def _table(records: Sequence[RunRecord], target: Target | None) -> str:
    heads = titles(target, all(record.federated for record in records))
    head = "".join(f"<th>{title}</th>" for title in heads)
    body = "".join(f"<tr>{''.join(map(_entry, row))}</tr>" for row in cells(records, target))
    reading = (
        "★ marks the best of the finished runs. Equal parameters mean that two runs ended in the same model, to the"
        " bit. The last column shows the first digits of their SHA-256."
    )
    if len({record.virtual for record in records}) > 1:
        reading += " Clocks are not ranked: some are virtual, some are wall time."
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<section><h2>Results</h2><div class="table">{table}</div><p class="reading">{reading}</p></section>'


def _entry(cell: Cell) -> str:
    return f'<td class="best">★ {_escape(cell.text)}</td>' if cell.best else f"<td>{_escape(cell.text)}</td>"


def _details(record: RunRecord, numbers: Iterator[int]) -> list[str]:
    if record.trace is None:
        why = "There is no trace, so there are no pictures of the workers: the run was stopped before it wrote one."
        parts = [f'<section><h2>The workers</h2><p class="reading">{why}</p></section>']
    else:
        drawn = figures.pictures(record.trace, virtual=record.virtual, federated=record.federated)
        parts = [section(picture, numbers) for picture in drawn]
    beside = [*federation.pictures(record), *suspects.pictures(record)]
    parts = [*[section(picture, numbers) for picture in beside], *parts]
    updates = distribution.pictures(distribution.read(record.folder))
    recipe = f"<pre>{_escape(record.recipe)}</pre>" if record.recipe else "<p>The folder holds no recipe.</p>"
    return [
        *parts,
        *[section(picture, numbers) for picture in updates],
        f"<section><details><summary>The recipe, with every default filled in</summary>{recipe}</details></section>",
    ]


def section(picture: Picture, numbers: Iterator[int]) -> str:
    """Return a picture as HTML; `numbers` counts those of the page."""
    plot = ""
    if picture.figure is not None:
        name, height = f"plot-{next(numbers)}", picture.figure.layout.height
        data = shell.embedded(picture.figure.to_json(engine="json"))
        kind = "plot" if picture.wide else "plot narrow"
        plot = (
            f'<div class="{kind}" id="{name}" style="height:{height}px"></div>'
            f'<script type="application/json" id="{name}-data">{data}</script>'
        )
    return (
        f'<section><h2>{_escape(picture.title)}</h2>{plot}<p class="reading">{_escape(picture.reading)}</p></section>'
    )


def _fact(record: RunRecord, key: str) -> str:
    value = record.facts.get(key)
    if key in ("workers", "parameters") and isinstance(value, int):
        return units.count(value)
    return units.NOTHING if value is None else str(value)


def _escape(value: object) -> str:
    return html.escape(str(value))
