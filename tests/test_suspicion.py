"""Scores of workers, and the file that holds them."""

from __future__ import annotations

import json
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.rand import At, Rand
from quorate.suspicion import Judgement, Suspects, scores
from tests.tiny import randn


@given(n=st.integers(3, 9), d=st.integers(1, 20), seed=st.integers(0, 99), size=st.floats(1e-3, 1e3))
def test_scores_do_not_depend_on_size_or_place_and_their_median_is_one(n, d, seed, size):
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    combined = updates.mean(0)
    found = scores(updates, combined)
    assert sorted(found)[n // 2] == 1
    moved = scores(size * updates + 3, size * combined + 3)
    assert all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(found, moved, strict=True))


def test_who_says_nan_has_an_infinite_score_and_equals_have_none():
    updates = torch.zeros(4, 3)
    assert scores(updates, torch.zeros(3)) == (0, 0, 0, 0)
    updates[2, 1] = torch.nan
    assert scores(updates, torch.zeros(3)) == (0, 0, math.inf, 0)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def judged(step, told, rank=0, alone=False):
    return Judgement(At(step, rank, 4, Rand(0)), tuple(told), lambda: tuple(told.values()), alone)


def test_the_highest_score_that_anyone_has_given_is_written_every_so_many_steps(tmp_path):
    suspects = Suspects(tmp_path, 0, 2, 0)
    for step in range(4):
        suspects.judge(judged(step, {0: 1.0, 3: 2.0 + step}, alone=True))
        suspects.judge(judged(step, {3: 1.5, 1: math.inf}, rank=1, alone=True))
    suspects.close()
    assert lines(tmp_path / "suspects.jsonl") == [
        {"step": 2, "scores": {"0": 1.0, "1": None, "3": 3.0}},
        {"step": 4, "scores": {"0": 1.0, "1": None, "3": 5.0}},
    ]


def test_a_resumed_run_takes_later_lines_back(tmp_path):
    first = Suspects(tmp_path, 0, 1, 0)
    for step in range(5):
        first.judge(judged(step, {0: 1.0}))
    first.close()
    again = Suspects(tmp_path, 0, 1, 2)
    again.judge(judged(2, {0: 7.0}))
    again.close()
    assert [line["step"] for line in lines(tmp_path / "suspects.jsonl")] == [1, 2, 3]


def test_other_processes_write_only_what_nobody_else_has_seen(tmp_path):
    suspects = Suspects(tmp_path, 2, 1, 0)
    suspects.judge(judged(0, {0: 1.0}, rank=2))  # all have combined the same
    assert not list(tmp_path.iterdir())
    suspects.judge(judged(1, {0: 1.0}, rank=2, alone=True))
    suspects.judge(judged(2, {0: 1.0}, rank=0))  # it is the server
    suspects.close()
    assert [line["step"] for line in lines(tmp_path / "suspects-2.jsonl")] == [2, 3]


def test_scores_that_nobody_writes_down_are_not_worked_out(tmp_path):
    def never():
        raise AssertionError("asked for")

    suspects = Suspects(tmp_path, 2, 10, 0)
    suspects.judge(Judgement(At(0, 0, 4, Rand(0)), (0, 1), never))
    suspects.judge(Judgement(At(9, 2, 4, Rand(0)), (0, 1), never))
    suspects.close()
    assert not list(tmp_path.iterdir())
