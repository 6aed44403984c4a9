from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from quorate.report import figures
from quorate.report.curves import curves
from quorate.report.folder import KINDS, Trace, load
from tests.report.runs import write_run


@pytest.fixture
def record(tmp_path):
    return load(write_run(tmp_path / "a", n=4, steps=20))


def empty(**facts) -> Trace:
    return replace(Trace(2, 1.0, (), np.empty((0, 4)), 0.0, dict.fromkeys(KINDS, np.empty((0, 3)))), **facts)


def test_each_metric_is_drawn_against_each_cost(record):
    figure = curves([record], ["a"]).figure
    titles = {figure.layout[axis].title.text for axis in figure.layout if axis.startswith(("xaxis", "yaxis"))}
    assert {"steps", "clock (ms)", "bytes sent (MB)", "accuracy (share right)", "loss"} <= titles
    assert [line.name for line in figure.data if line.showlegend] == ["accuracy", "loss, training", "loss, test"]
    assert len(figure.data) == 9


def test_other_metrics_get_a_row_of_their_own(record):
    more = replace(record, metrics=tuple({**point, "epsilon": 0.1 * point["step"]} for point in record.metrics))
    assert any(axis.title.text == "epsilon" for axis in curves([more], ["a"]).figure.select_yaxes())


def test_runs_keep_their_colour(record):
    figure = curves([record, record], ["a", "b"]).figure
    colours = {name: {line.line.color for line in figure.data if line.name == name} for name in ("a", "b")}
    assert [len(found) for found in colours.values()] == [1, 1]
    assert sum(bool(line.showlegend) for line in figure.data) == 2


def test_absent_and_infinite_values_are_left_out_and_said(record):
    points = ({"step": 1.0, "clock_seconds": 0.0, "bytes": 0.0, "train_loss": float("inf")}, *record.metrics[1:4])
    picture = curves([replace(record, metrics=points)], ["a"])
    assert "diverged" in picture.reading
    assert "No evaluation" in picture.reading
    assert [len(line.x) for line in picture.figure.data] == [3, 3, 3]
    nothing = curves([replace(record, metrics=())], ["a"])
    assert nothing.figure is None
    assert "no step was logged" in nothing.reading


def test_very_long_curves_are_thinned_out_and_keep_their_ends(tmp_path):
    figure = curves([load(write_run(tmp_path / "long", steps=5000, with_trace=False))], ["long"]).figure
    loss = next(line for line in figure.data if line.name == "loss, training")
    assert (len(loss.x), loss.x[0], loss.x[-1]) == (1000, 1, 5000)


def test_the_timeline_is_three_lines_with_holes(record):
    figure = figures.timeline(record.trace, virtual=True).figure
    assert {line.name for line in figure.data} == set(KINDS)
    computing = next(line for line in figure.data if line.name == "computing")
    assert len(computing.x) == 3 * 4 * 20
    assert np.isnan(computing.x[2::3]).all()
    assert computing.hovertext[0].startswith("rank 0: computing for ")
    assert figure.layout.xaxis.title.text == "virtual time (ms)"


def test_touching_intervals_become_one():
    intervals = {"computing": np.array([[1, 0, 1], [1, 1, 2], [1, 3, 4], [1, 3.5, 3.7], [1, 5, 5]])}
    (row,) = figures._stretches(empty(intervals=intervals), np.array([1.0]), 5.0)["computing"]
    assert row.tolist() == [[0, 0, 2], [0, 3, 4]]


def test_a_crowded_timeline_is_thinned_and_opens_at_its_beginning():
    starts = np.arange(200_000) * 1.0
    rows = np.column_stack([starts % 4, starts, starts + 0.5])
    trace = empty(size=4, seconds=4e5, until=2e5, intervals={**dict.fromkeys(KINDS, rows[:0]), "computing": rows})
    picture = figures.timeline(trace, virtual=False)
    assert len(picture.figure.to_json()) < 3_000_000
    assert picture.figure.layout.xaxis.range[1] == pytest.approx(96 / 3600)
    assert "Opens at the first 96.0 s" in picture.reading


def test_the_matrix_adds_up_neighbours_and_loses_no_byte():
    links = np.array([[0, 999, 3e6, 1], [1, 998, 2e6, 1], [500, 500, 7e6, 2]])
    picture = figures.matrix(empty(size=1000, links=links))
    z = np.array(picture.figure.data[0].z, dtype=float)
    assert z.shape == (125, 125)
    assert z[0, 124] == 5
    assert np.nansum(z) == 12
    assert np.isnan(z[3, 3])
    assert "8 x 8 neighbouring ranks of 1,000" in picture.reading


def test_links_without_messages_are_white_and_zero_bytes_are_not():
    z = figures.matrix(empty(links=np.array([[0, 1, 0, 3], [1, 0, 0, 0]]))).figure.data[0].z
    assert np.array_equal(z, [[np.nan, 0], [np.nan, np.nan]], equal_nan=True)


def test_nothing_to_draw_is_said():
    drawn = figures.pictures(empty(), virtual=True)
    assert all(picture.figure is None and picture.reading.startswith("There is nothing") for picture in drawn)


def test_bars_stack_the_seconds_of_each_worker(record):
    figure = figures.times(record.trace).figure
    assert figure.layout.barmode == "stack"
    assert [list(bar.x) for bar in figure.data] == [["0", "1", "2", "3"]] * 3
    assert figure.layout.yaxis.title.text == "time (ms)"


@pytest.mark.parametrize("n", [1, 64, 65, 10_000])
def test_workers_shown_are_few_and_spread(n):
    chosen = figures.spread(n)
    assert len(set(chosen)) == min(n, 64)
    assert (chosen[0], chosen[-1]) == (0, n - 1)


def test_hosts_are_escaped(record):
    worker = replace(record.trace.workers[0], host="<a href='x'>")
    figure = figures.times(replace(record.trace, workers=(worker,))).figure
    assert "<a" not in json.dumps(figure.data[0].hovertext)
