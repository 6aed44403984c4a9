"""Whose updates are unlike what all have come to: the scores of workers over the steps of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from quorate.errors import DataError
from quorate.report.folder import RunRecord
from quorate.report.picture import COLOURS, Picture, frame
from quorate.report.units import count

NAMED = 8  # workers with a line of their own, those of the highest scores
MOST = 1e6  # larger scores, and those of NaN or infinity, are drawn as this


def pictures(record: RunRecord) -> list[Picture]:
    """Draw a run's scores; nothing if it has none.

    Raises:
        DataError: if a file of them is damaged.
    """
    lines = sorted(
        (line for path in sorted(record.folder.glob("suspects*.jsonl")) for line in _lines(path)),
        key=lambda line: line["step"],
    )
    return [_scores(lines)] if lines else []


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for number, text in enumerate(path.read_text(errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
            scores = {
                int(rank): MOST if each is None else min(float(each), MOST) for rank, each in line["scores"].items()
            }
            lines.append({"step": int(line["step"]), "scores": scores})
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataError(f"`{path}` is damaged in line {number}") from error
    return lines


def _scores(lines: list[dict[str, Any]]) -> Picture:
    by_rank: dict[int, list[tuple[int, float]]] = {}
    for line in lines:
        for rank, score in line["scores"].items():
            by_rank.setdefault(rank, []).append((line["step"], score))
    typical = {rank: float(np.median([score for _, score in told])) for rank, told in by_rank.items()}
    worst = sorted(typical, key=lambda rank: -typical[rank])
    figure = frame(height=340)
    others = worst[NAMED:]
    if others:
        steps = sorted({step for rank in others for step, _ in by_rank[rank]})
        known = [dict(by_rank[rank]) for rank in others]
        middle = [float(np.median([each[step] for each in known if step in each])) for step in steps]
        figure.add_scatter(x=steps, y=middle, name=f"median of {count(len(others))} others", line_color="#9aa1ab")
    for place, rank in enumerate(worst[:NAMED]):
        told = by_rank[rank]
        x, y = [step for step, _ in told], [score for _, score in told]
        figure.add_scatter(x=x, y=y, name=f"worker {rank}", line_color=COLOURS[place % len(COLOURS)])
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="score", type="log")
    first, second = worst[0], worst[1] if len(worst) > 1 else worst[0]
    reading = (
        "How far each worker's update is from what all were combined to, over the median of all workers: about 1 for"
        f" those that are like the others. Worker {first} has the highest median score, {typical[first]:.3g}, then"
        f" worker {second} with {typical[second]:.3g}. A high score is a reason to look, no proof: honest workers with"
        " rare data have high ones, too, and who lies just a little has a low one."
        f" NaN, infinity and scores above {MOST:g} are drawn as {MOST:g}."
    )
    return Picture("Suspects", figure, reading)
