from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from quorate.errors import DataError
from quorate.histogram import measure
from quorate.report.distribution import COLUMNS, pictures, read
from quorate.report.page import write_report
from tests.report.runs import write_run
from tests.tiny import randn


def write_lines(run, updates, first=1):
    """Note updates, one for each step."""
    lines = [{"step": step} | measure(update) for step, update in enumerate(updates, start=first)]
    run.mkdir(exist_ok=True)
    (run / "histogram.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_is_read_is_what_was_measured(tmp_path):
    x = torch.tensor([1.0, -1.0, 1.5, 4.0, 0.0])
    write_lines(tmp_path, [x])
    (found,) = read(tmp_path)
    assert (found.step, found.entries, found.zeros, found.first) == (1, 5, 1, 0)
    assert found.positive.tolist() == [1, 1, 0, 0, 1]
    assert found.negative.tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_allclose(found.edges, [1, 2**0.5, 2, 2**1.5, 4, 2**2.5])
    assert found.top[0] == (1, pytest.approx(16 / (1 + 1 + 2.25 + 16)))


def test_the_pictures_show_every_entry_and_its_bounds(tmp_path):
    write_lines(tmp_path, [(1 + step) * randn(1, 3000, seed=step)[0] for step in range(5)])
    sizes, shape, contraction = pictures(read(tmp_path))
    heat = sizes.figure.data[0]
    assert list(heat.x) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(np.nansum(10 ** np.array(heat.z, dtype=float), axis=0), [100] * 5)
    assert [each.name for each in shape.figure.data][-1] == "normal (kurtosis 3)"
    lines = contraction.figure.data
    assert len(lines) == 6
    for measured, tight, loose in (lines[:3], lines[3:]):
        assert all(a < b < c for a, b, c in zip(measured.y, tight.y, loose.y, strict=True))
    assert "Every measured value is below it." in contraction.reading


def test_an_update_without_a_bell_is_told(tmp_path):
    write_lines(tmp_path, [torch.ones(1000)])
    assert "2 of 2 measured values are above it" in pictures(read(tmp_path))[-1].reading


@pytest.mark.parametrize("update", [torch.zeros(9), torch.empty(0), torch.tensor([torch.nan])])
def test_updates_of_which_nothing_can_be_drawn(tmp_path, update):
    write_lines(tmp_path, [update])
    (picture,) = pictures(read(tmp_path))
    assert picture.figure is None
    write_lines(tmp_path, [update, torch.ones(9), torch.tensor([1e-300, 1e300], dtype=torch.float64)])
    assert len(pictures(read(tmp_path))) == 3


def test_very_many_steps_are_thinned_out(tmp_path):
    write_lines(tmp_path, [torch.ones(4)] * (COLUMNS + 50))
    heat = pictures(read(tmp_path))[0].figure.data[0]
    assert (len(heat.x), heat.x[0], heat.x[-1]) == (COLUMNS, 1, COLUMNS + 50)


def test_a_report_shows_what_was_noted_and_nothing_else(tmp_path):
    run = write_run(tmp_path / "run", steps=5)
    assert "What top-k would leave out" not in write_report([run], tmp_path / "without.html").read_text()
    write_lines(run, [randn(1, 50)[0]])
    text = write_report([run], tmp_path / "with.html").read_text()
    for title in ("The sizes of an update&#x27;s entries", "The shape of an update", "What top-k would leave out"):
        assert title in text


GOOD = {"step": 1} | measure(torch.ones(4))


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        '{"step": 1}',
        json.dumps(GOOD | {"first": 10**9}),
        json.dumps(GOOD | {"first": -2001}),
        json.dumps(GOOD | {"first": 0.5}),
        json.dumps(GOOD | {"positive": [1, 2, 3]}),
        json.dumps(GOOD | {"positive": [-1]}),
        json.dumps(GOOD | {"positive": [10**400]}),
        json.dumps(GOOD | {"positive": ["<script>"]}),
        json.dumps(GOOD | {"positive": [0] * 10_000, "negative": [0] * 10_000}),
        json.dumps(GOOD | {"sigma": "wide"}),
        json.dumps(GOOD | {"kurtosis": float("nan")}),
        json.dumps(GOOD | {"top": [[1]]}),
        json.dumps(GOOD | {"top": 7}),
        json.dumps(GOOD | {"step": True}),
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path, line):
    (tmp_path / "histogram.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n")
    with pytest.raises(DataError, match=r"histogram.jsonl` is damaged: line 2 tells of no update"):
        read(tmp_path)


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    assert read(tmp_path) == ()
    (tmp_path / "histogram.jsonl").write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)[:40]}")
    assert len(read(tmp_path)) == 1
