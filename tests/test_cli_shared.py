from __future__ import annotations

import json

import pytest

from quorate import cli_shared
from quorate.cli_shared import progress_bar, tell

RESULT = {
    "accuracy": 0.95,
    "loss": 0.125,
    "steps": 20,
    "clock_seconds": 1.5,
    "wall_seconds": 2.0,
    "bytes": 3_000_000,
    "run": "runs/one",
}
FACTS = {"engine": "simulator", "workers": 4}


@pytest.mark.parametrize("looks", [True, False])
def test_progress_is_drawn_for_a_person_only(looks, monkeypatch):
    monkeypatch.setattr(cli_shared, "shown", lambda: looks)
    with progress_bar(10) as told:
        assert (told is not None) == looks
    with progress_bar(10, show=not looks) as told:
        assert (told is not None) == (not looks)


def test_progress_is_of_the_steps_and_the_last_evaluation(monkeypatch):
    updates = []
    monkeypatch.setattr("rich.progress.Progress.update", lambda _, task, **fields: updates.append(fields))
    with progress_bar(10, show=True) as told:
        told(3, {})
        told(4, {"accuracy": 0.5, "loss": 1.25})
    assert updates == [
        {"completed": 3, "measures": ""},
        {"completed": 4, "measures": "accuracy 0.5000  loss 1.2500"},
    ]


def test_progress_that_nobody_sees_writes_nothing(capfd):
    with progress_bar(10, show=False):
        pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("engine", "clock"), [("simulator", "virtual"), ("processes", "real")])
def test_a_result_says_which_clock_its_seconds_are_of(engine, clock, capsys):
    tell(RESULT, FACTS | {"engine": engine}, False)
    out = capsys.readouterr().out
    assert "test accuracy 0.9500, test loss 0.1250 after 20 steps of 4 workers\n" in out
    assert f"1.500 {clock} seconds, 3.000 MB sent, 2.0 s of this machine\n" in out
    assert out.endswith("run:    runs/one\nreport: runs/one/report.html\n")


def test_a_task_without_accuracy_has_none_told(capsys):
    tell(RESULT | {"accuracy": None}, FACTS, False)
    assert capsys.readouterr().out.startswith("test loss 0.1250 after 20 steps")


def test_the_last_line_is_the_result_if_it_is_wanted(capsys):
    tell(RESULT, FACTS, True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == RESULT
