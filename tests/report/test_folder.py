from __future__ import annotations

import json
import math

import pytest

from quorate.errors import DataError, QuorateError
from quorate.report.folder import load, names
from tests.report.runs import DIGEST, write_run


def test_reads_what_was_written(tmp_path):
    record = load(write_run(tmp_path / "a", n=3, steps=20))
    assert (record.name, record.finished, record.virtual) == ("a", True, True)
    assert (record.result.steps, record.result.bytes, record.result.parameters_sha256) == (20, 20 * 269_360, DIGEST)
    assert len(record.metrics) == 20
    assert "accuracy" not in record.metrics[0]
    assert record.metrics[9]["step"] == 10
    assert record.trace is not None
    assert (record.trace.size, len(record.trace.workers), record.trace.links.shape) == (3, 3, (3, 4))
    assert record.trace.intervals["computing"].shape == (60, 3)


def test_a_folder_without_run_json_is_no_run_folder(tmp_path):
    with pytest.raises(QuorateError) as caught:
        load(tmp_path)
    assert caught.value.problem == f"`{tmp_path}` is not a run folder: it has no run.json"
    assert caught.value.hint == "a run folder is printed at the end of `quorate run`"


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_last_line_cut_short_is_ignored(tmp_path, cut):
    folder = write_run(tmp_path / "a", steps=20, result=None, status="running")
    file = folder / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + b'{"step": 21, "clock_seconds": 0.1, "bytes": 5}'[:cut])
    assert load(folder).result.steps == 20


def test_any_other_broken_line_is_an_error_that_names_it(tmp_path):
    folder = write_run(tmp_path / "a", steps=3)
    (folder / "metrics.jsonl").write_text('{"step": 1, "clo\n{"step": 2, "clock_seconds": 0, "bytes": 0}\n')
    with pytest.raises(DataError, match="line 1 is not valid JSON"):
        load(folder)


def test_an_unfinished_run_tells_how_far_it_got(tmp_path):
    result = load(write_run(tmp_path / "a", steps=25, status="failed", result=None, with_trace=False)).result
    assert result.steps == 25
    assert result.accuracy == pytest.approx(0.97 - 0.85 * 0.975**25)
    assert result.parameters_sha256 is None


def test_a_diverged_run_is_read(tmp_path):
    folder = write_run(tmp_path / "a", steps=1)
    (folder / "metrics.jsonl").write_text('{"step": 1, "clock_seconds": 0, "bytes": 0, "train_loss": NaN}\n')
    assert math.isnan(load(folder).metrics[0]["train_loss"])


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("run.json", "{", "run.json` is damaged: it is not valid JSON"),
        ("run.json", "[" * 100_000, "run.json` is damaged: it is not valid JSON"),
        ("run.json", "[]", "an object was expected, got []"),
        ("run.json", '{"result": {"steps": "many"}}', "`steps` must be a number of at least 0, got 'many'"),
        ("metrics.jsonl", '{"step": -1, "clock_seconds": 0, "bytes": 0}', "`step` must be a number of at least 0"),
        ("trace.json", '{"size": 2, "seconds": 1, "links": [[0, 2, 5, 1]]}', "it names rank 2 of 2 workers"),
        ("trace.json", '{"size": 1e300, "seconds": 1}', "workers are more than this report can count"),
        ("trace.json", '{"size": 2, "seconds": 1, "links": [[0, -1, 5, 1]]}', "finite numbers of at least 0"),
        ("trace.json", '{"size": 2, "seconds": 1, "links": [[0, 1]]}', "rows of 4 numbers"),
        ("trace.json", '{"size": 2, "seconds": 1, "links": [[0, 1, "x", 1]]}', "rows of 4 numbers"),
        ("trace.json", '{"size": 2, "seconds": 1, "timeline": {"intervals": [7]}}', "an interval must be"),
        ("trace.json", '{"size": 2, "seconds": 1, "workers": 7}', "a list was expected, got 7"),
        ("trace.json", '{"size": 2, "seconds": 1, "workers": [{"rank": 0}]}', "`sent_bytes` must be a number"),
    ],
)
def test_damage_is_refused_with_the_name_of_the_file(tmp_path, file, text, says):
    folder = write_run(tmp_path / "a", steps=2)
    (folder / file).write_text(text)
    with pytest.raises(DataError) as caught:
        load(folder)
    assert f"`{folder / file}` is damaged" in caught.value.problem
    assert says in caught.value.problem
    assert caught.value.hint


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    records = [load(write_run(tmp_path / parent / "run", steps=1)) for parent in ("a", "b")]
    assert names(records) == ["a/run", "b/run"]
    assert names([records[0], records[0]]) == ["a/run (1)", "a/run (2)"]
    assert names(records[:1]) == ["run"]


def test_unknown_kinds_of_intervals_are_left_out(tmp_path):
    folder = write_run(tmp_path / "a", n=2, steps=2)
    trace = json.loads((folder / "trace.json").read_text())
    trace["timeline"]["intervals"] = [[0, "sleeping", 0, 1], [0, ["list"], 0, 1], [1, "computing", 0, 1]]
    (folder / "trace.json").write_text(json.dumps(trace))
    read = load(folder).trace
    assert read is not None
    assert [len(rows) for rows in read.intervals.values()] == [1, 0, 0]
