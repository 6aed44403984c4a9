from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest

from quorate.report.federation import drift, labels, participation, pictures, replies, served
from quorate.report.folder import load
from quorate.report.page import write_report
from quorate.report.rounds import clients, rounds
from quorate.report.table import cells, titles
from tests.report.runs import write_run
from tests.report.test_page import HOSTILE, body

COMPARED = {
    "measure": "accuracy",
    "rises": True,
    "tested_on": "the test data, by the shares of its labels",
    "notes": ["alone: client 3 failed: it diverged"],
    "federated": {"clients": 8, "mean": 0.9, "worst_decile": 0.8, "best_decile": 1.0, "deviation": 0.1},
    "alone": {"clients": 8, "mean": 0.7123, "worst_decile": 0.5, "best_decile": 0.9, "deviation": 0.1},
    "pooled": None,
}


def write_federation(folder, n=8, number=40, **facts):
    """Write a run folder of a federation in whose rounds things go wrong."""
    chance = random.Random(0)
    write_run(folder, n=n, steps=number, federated=True, program="federated", comparison=COMPARED, **facts)
    lines = []
    for i in range(1, number + 1):
        asked = sorted(chance.sample(range(n), min(n, 6)))
        refused = [{"client": asked[0], "why": HOSTILE, "hostile": True}]
        gone = [{"client": asked[1], "why": "it crashed", "hostile": False}]
        line = {"round": i, "clock_seconds": float(i), "asked": asked, "accepted": asked[3:], "refused": refused}
        lines.append(line | {"gone": gone, "late": [asked[2]], "bytes_up": 1000, "bytes_down": 3000})
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {
        "federated": [0.9 + 0.1 * chance.random() for _ in range(n)],
        "alone": [chance.random() if i < 20 else None for i in range(n)],
        "pooled": [0.95] * n,
    }
    known = {"measure": "accuracy", "rises": True, "samples": [5] * n, "took_part": [1] * n}
    known["labels"] = [[chance.randrange(5) for _ in range(10)] for _ in range(min(n, 50))]
    (folder / "clients.json").write_text(json.dumps(known | values))
    return folder


def test_a_federation_is_told_in_rounds_and_clients(tmp_path):
    text = body(write_report([write_federation(tmp_path / "a")], tmp_path / "report.html"))
    assert "federated with 8 clients on simulator" in text
    for title in ("Rounds", "How often each client took part", "How well each client is served: accuracy"):
        assert f"<h2>{title}</h2>" in text
    for said in ("What labels clients have", "0.7123", "client 3 failed", "Number 7 is the server", "<dt>clients</dt>"):
        assert said in text
    assert "<span>rounds</span>" in text
    assert "Where each worker" not in text
    assert "<script>alert" not in text


def test_federations_are_compared_in_rounds(tmp_path):
    records = [load(write_federation(tmp_path / name)) for name in "ab"]
    assert "rounds" in titles(federated=True)
    assert "steps" not in titles(federated=True)
    assert len(cells(records)[0]) == len(titles(federated=True))
    text = body(write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html"))
    assert "<th>rounds</th>" in text
    mixed = body(write_report([tmp_path / "a", write_run(tmp_path / "c")], tmp_path / "report.html"))
    assert "<th>steps</th>" in mixed


def test_fates_are_drawn_as_they_were(tmp_path):
    noted = rounds(write_federation(tmp_path / "a"))
    picture = replies(noted)
    drawn = {trace.name: list(trace.y) for trace in picture.figure.data}
    assert drawn["accepted"] == [3.0] * 40
    assert drawn["late"] == drawn["refused"] == drawn["gone"] == [1.0] * 40
    assert (drawn["up"][-1], drawn["down"][-1]) == (40.0, 120.0)
    assert "120 accepted, 40 late, 40 refused, 40 gone" in picture.reading
    assert "client 0: </script>" in picture.reading
    part = participation(noted, 8)
    taken = next(trace for trace in part.figure.data if trace.name == "accepted")
    assert sum(taken.y) == 120


@pytest.mark.parametrize("number", [200, 201, 1000, 1037])
def test_many_rounds_are_added_up(tmp_path, number):
    noted = rounds(write_federation(tmp_path / "a", number=number))
    figure = replies(noted).figure
    taken = next(trace for trace in figure.data if trace.name == "accepted")
    assert len(taken.x) <= 200
    assert taken.x[-1] == number
    up = next(trace for trace in figure.data if trace.name == "up")
    assert len(up.x) == len(up.y)
    assert up.y[-1] in (number, number / 1000)


def test_ten_thousand_clients_stay_small_and_quick(tmp_path):
    folder, began = write_federation(tmp_path / "a", n=10_000, number=200), time.perf_counter()
    drawn = pictures(load(folder))
    assert time.perf_counter() - began < 20
    assert sum(len(picture.figure.to_json(engine="json")) for picture in drawn) < 500_000
    assert "10,000" in drawn[1].reading


def test_who_is_worse_off_is_counted(tmp_path):
    write_federation(tmp_path / "a")
    known = clients(tmp_path / "a")
    worse = int((known.values["federated"] < known.values["alone"]).sum())
    assert f"{worse} of 8 would be better off alone" in served(known).reading


def test_distance_of_labels_by_hand():
    apart = labels(np.array([[4.0, 0.0], [0.0, 4.0], [2.0, 2.0]]), 3)
    assert "33.3 %" in apart.reading
    assert "Shows" not in apart.reading
    alike = labels(np.array([[1.0, 3.0], [2.0, 6.0], [0.0, 0.0]]), 5)
    assert "Shows the first 3 of 5 clients" in alike.reading


def test_drift_needs_both_lengths():
    assert drift([{"step": 1.0, "client_norm": 2.0}]) is None
    assert drift([{"step": 1.0, "client_norm": float("inf"), "step_norm": 1.0}]) is None
    assert "4 times" in drift([{"step": 1.0, "client_norm": 2.0, "step_norm": 0.5}]).reading
    assert drift([{"step": 1.0, "client_norm": 0.0, "step_norm": 0.0}]) is not None


def test_a_federation_that_was_killed_at_once_is_told(tmp_path):
    folder = write_federation(tmp_path / "a", number=0, status="running", result=None)
    (folder / "clients.json").unlink()
    text = body(write_report([folder], tmp_path / "report.html"))
    assert "had not finished" in text
