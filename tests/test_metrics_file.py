from __future__ import annotations

import pytest

from quorate.metrics_file import Metrics, read_lines


@pytest.fixture
def metrics(tmp_path):
    """A file of metrics, without TensorBoard events, that is closed at the end."""
    made = []

    def make(after=0):
        made.append(Metrics(tmp_path / "metrics.jsonl", None, after))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_lines_are_there_as_soon_as_they_are_written(metrics, tmp_path):
    writer = metrics()
    for step in (5, 10):
        writer.write({"step": step, "train_loss": 0.5})
        assert read_lines(tmp_path / "metrics.jsonl")[-1] == {"step": step, "train_loss": 0.5}


def test_a_second_line_of_a_step_adds_to_the_first(metrics, tmp_path):
    writer = metrics()
    writer.write({"step": 5, "train_loss": 0.5, "bytes": 1})
    writer.write({"step": 10, "train_loss": 0.4, "bytes": 2})
    writer.write({"step": 10, "train_loss": None, "bytes": 3, "accuracy": 0.9})
    assert read_lines(tmp_path / "metrics.jsonl") == [
        {"step": 5, "train_loss": 0.5, "bytes": 1},
        {"step": 10, "train_loss": 0.4, "bytes": 3, "accuracy": 0.9},
    ]


def test_a_resumed_run_takes_later_lines_back(metrics, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 10}\n{"step": 15, "train')
    metrics(after=7)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 5}\n'


def test_a_run_resumed_after_its_last_step_adds_to_the_last_line(metrics, tmp_path):
    writer = metrics()
    writer.write({"step": 5, "train_loss": 0.5})
    writer.write({"step": 10, "train_loss": 0.4})
    metrics(after=10).write({"step": 10, "train_loss": None, "accuracy": 0.9})
    assert read_lines(tmp_path / "metrics.jsonl") == [
        {"step": 5, "train_loss": 0.5},
        {"step": 10, "train_loss": 0.4, "accuracy": 0.9},
    ]


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    assert read_lines(tmp_path / "none") == []
    (tmp_path / "a").write_text('{"step": 1}\n{"step"')
    assert read_lines(tmp_path / "a") == [{"step": 1}]
