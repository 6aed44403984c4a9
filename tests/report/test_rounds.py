from __future__ import annotations

import json

import numpy as np
import pytest

from quorate.errors import DataError
from quorate.report.rounds import clients, compared, counts, rounds

LINE = {"round": 1, "clock_seconds": 2.5, "asked": [3, 7], "accepted": [3], "late": [5], "bytes_up": 10}
LINE |= {"refused": [{"client": 7, "why": "NaN", "hostile": True}], "gone": [], "bytes_down": 20}
CLIENTS = {"measure": "accuracy", "rises": True, "samples": [1, 2], "took_part": [1, 0], "labels": [[1, 0], [0, 2]]}
CLIENTS |= {"federated": [0.5, 0.75], "alone": [None, 0.5], "pooled": [1, 1]}


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.parent


def test_rounds_are_read(tmp_path):
    (one,) = rounds(write(tmp_path / "rounds.jsonl", LINE))
    assert one.fates == {"accepted": (3,), "late": (5,), "refused": (7,), "gone": ()}
    assert (one.number, one.up, one.down, one.why) == (1, 10, 20, ((7, "NaN", True),))
    assert counts([one, one], "refused", 9).tolist() == [0] * 7 + [2, 0]
    assert rounds(tmp_path / "nowhere") == ()


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    write(tmp_path / "rounds.jsonl", LINE, LINE)
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "acc')
    assert len(rounds(tmp_path)) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"accepted": ["3"]},
        {"accepted": [-1]},
        {"accepted": [10**12]},
        {"accepted": None},
        {"refused": [7]},
        {"refused": [{"client": 7}]},
        {"bytes_up": float("nan")},
        {"bytes_up": -1},
        {"round": None},
        {"round": 10**400},
    ],
)
def test_damage_is_named(tmp_path, change):
    write(tmp_path / "rounds.jsonl", LINE, LINE | change, LINE)
    with pytest.raises(DataError, match=r"rounds.jsonl` is damaged: line 2"):
        rounds(tmp_path)


@pytest.mark.parametrize("line", ["[]", "3", "[[[" * 10_000, "{"])
def test_lines_that_are_no_rounds_are_named(tmp_path, line):
    (tmp_path / "rounds.jsonl").write_text(f"{line}\n{json.dumps(LINE)}\n")
    with pytest.raises(DataError, match="line 1"):
        rounds(tmp_path)


def test_clients_are_read(tmp_path):
    found = clients(write(tmp_path / "clients.json", CLIENTS))
    assert np.array_equal(found.values["alone"], [np.nan, 0.5], equal_nan=True)
    assert found.labels.tolist() == [[1, 0], [0, 2]]
    assert clients(tmp_path / "nowhere") is None
    assert clients(write(tmp_path / "clients.json", CLIENTS | {"labels": None})).labels.size == 0


@pytest.mark.parametrize(
    "change",
    [
        {"alone": [1]},
        {"federated": 3},
        {"labels": [[1], [1, 2]]},
        {"labels": [[-1, 0]]},
        {"labels": 3},
        {"pooled": None},
    ],
)
def test_damaged_clients_are_named(tmp_path, change):
    with pytest.raises(DataError, match=r"clients.json` is damaged"):
        clients(write(tmp_path / "clients.json", CLIENTS | change))


def test_what_was_compared_is_taken_as_far_as_it_can_be_read():
    row = {"clients": 2, "mean": 0.5, "worst_decile": None, "best_decile": "x", "deviation": float("inf")}
    found = compared({"comparison": {"measure": 3, "federated": row, "alone": [], "pooled": {}, "notes": 3}})
    assert found.rows == {"federated": {"clients": 2, "mean": 0.5}}
    assert (found.measure, found.tested_on, found.notes) == ("3", "None", ())
    for odd in (None, 3, [], {}, {"federated": {"mean": None}}):
        assert compared({"comparison": odd}) is None
