from __future__ import annotations

import json

import pytest
import torch

from quorate import checkpoint
from quorate.checkpoint import Checkpoint
from quorate.errors import QuorateError
from quorate.metrics_file import read_lines
from quorate.partitions.iid import iid
from quorate.rand import Rand
from quorate.recorder import RunRecorder, merge, metrics_path
from quorate.settings import RecordSettings
from quorate.tasks.digits import digits
from quorate.trace import Trace
from quorate.training import Training
from quorate.trees import flatten


def test_losses_are_averaged_and_bytes_summed_over_workers(tmp_path):
    lines = {
        0: [(5, 1.0, 10), (10, 0.5, 20), (15, 0.25, 30)],
        1: [(5, 3.0, 11), (10, None, 22)],
        2: [(5, 2.0, 12), (10, 1.5, 24)],
    }
    for writer, told in lines.items():
        text = "".join(json.dumps({"step": s, "train_loss": loss, "bytes": b}) + "\n" for s, loss, b in told)
        metrics_path(tmp_path, writer).write_text(text)
    merge(tmp_path, 3)
    metrics_path(tmp_path, 1).write_text(json.dumps({"step": 5, "train_loss": 3.0, "bytes": 11}) + "\n")
    metrics_path(tmp_path, 2).write_text(json.dumps({"step": 5, "train_loss": 2.0, "bytes": 12}) + "\n")
    merge(tmp_path, 3)  # as after a crash that left the workers' files behind
    joined = [(line["step"], line["train_loss"], line["bytes"]) for line in read_lines(tmp_path / "metrics.jsonl")]
    assert joined == [(5, 2.0, 33), (10, 1.0, 66), (15, 0.25, 76)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.fixture(scope="module")
def training():
    return Training(digits(hidden=4), iid, 2, Rand(1))


@pytest.fixture
def recorder(training, tmp_path):
    """Make a recorder of two simulated ranks that is closed at the end."""
    made = []

    def make(resumed=None, progress=None, settings=None):
        settings = settings or RecordSettings(metrics=2, evaluate=4, checkpoint=3)
        made.append(RunRecorder(tmp_path, range(2), 2, settings, training, Trace(2), resumed, progress))
        return made[-1]

    yield make
    for each in made:
        each.close()


def commit(record, training, first, last, ranks=(0, 1)):
    for step in range(first, last + 1):
        for rank in ranks:
            tree = {"parameters": training.initial() + step}
            record.commit(rank, step, 0.5 * step + rank, loss=float(step + rank), shared=tree, own={"said": tree})


def test_writes_what_is_due(recorder, training, tmp_path):
    told = []
    record = recorder(progress=lambda step, measures: told.append((step, sorted(measures))))
    commit(record, training, 1, 5)
    record.finish(training.initial())
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["train_loss"], line["clock_seconds"]) for line in lines[:2]] == [
        (2, 2.0, 1.0),
        (4, 4.0, 2.0),
    ]
    assert [line["step"] for line in lines if "test_loss" in line] == [4, 5]
    assert checkpoint.steps(tmp_path / "checkpoints", 1) == [3]
    assert [step for step, _ in told] == [1, 2, 3, 4, 5]
    assert [measures for _, measures in told[:4]] == [[]] * 3 + [told[3][1]]
    assert "test_loss" in told[3][1]
    assert record.steps == 5


def test_a_step_counts_when_all_ranks_have_done_it(recorder, training, tmp_path):
    record = recorder()
    commit(record, training, 1, 3, ranks=[1])
    assert (record.steps, read_lines(tmp_path / "metrics.jsonl")) == (0, [])
    commit(record, training, 1, 2, ranks=[0])
    assert record.steps == 2
    assert checkpoint.steps(tmp_path / "checkpoints", 1) == []
    commit(record, training, 3, 3, ranks=[0])
    assert checkpoint.steps(tmp_path / "checkpoints", 1) == [3]


def test_restores_what_it_has_written(recorder, training, tmp_path):
    commit(recorder(), training, 1, 3)
    saved = checkpoint.latest(tmp_path / "checkpoints", 1)
    record = recorder(saved)
    tree = {"parameters": training.initial()}
    step, shared, own = record.restore(1, tree, {"said": tree})
    assert (step, record.steps) == (3, 3)
    assert torch.equal(shared["parameters"], training.initial() + 3)
    assert torch.equal(own["said"]["parameters"], training.initial() + 3)
    commit(record, training, 4, 4)
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["train_loss"] == 4.0
    assert recorder().restore(0, tree, {}) == (0, tree, {})


def test_nothing_is_written_if_nothing_is_asked_for(recorder, training, tmp_path):
    commit(recorder(settings=RecordSettings(metrics=100, evaluate=0, checkpoint=0)), training, 1, 5)
    assert read_lines(tmp_path / "metrics.jsonl") == []
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_of_another_model_is_refused(recorder, training, tmp_path):
    commit(recorder(), training, 1, 3)
    record = recorder(checkpoint.latest(tmp_path / "checkpoints", 1))
    for wrong in (torch.zeros(7), training.initial().double()):
        with pytest.raises(QuorateError) as error:
            record.restore(0, {"parameters": wrong}, {})
        assert str(error.value) == "the checkpoint of step 3 does not fit the recipe: `parameters` differs"
    with pytest.raises(QuorateError, match="does not fit the recipe: `momentum` differs"):
        record.restore(0, {}, {"momentum": torch.zeros(1)})


@pytest.mark.parametrize("facts", [{}, {"wall_seconds": "x"}, {"wall_seconds": 1, "interval": [], "trace": {}}])
def test_a_checkpoint_without_the_facts_of_a_run_is_refused(facts, recorder):
    with pytest.raises(QuorateError, match="the checkpoint of step 3 is not of a run: it lacks"):
        recorder(Checkpoint(3, {}, {}, [facts]))


def test_what_codecs_keep_is_saved_as_it_was_when_committed_by_parameter_name(recorder, training, tmp_path):
    """One rank goes on, and its codec writes to its state in place, before the others have done the step."""
    record, d = recorder(), training.layout.numel
    states = [{"residual": torch.full((d,), float(rank)), "range": torch.zeros(2)} for rank in range(2)]
    for rank in range(2):
        record.commit(rank, 3, 0.0, 1.0, {"parameters": training.initial()}, {"exchange": states[rank]})
        states[rank]["residual"].add_(9)
    saved = checkpoint.latest(tmp_path / "checkpoints", 1)
    for rank in range(2):
        held = flatten(saved.own[rank]["exchange"]["residual"])
        assert {name: tensor.shape for name, tensor in held.items()} == {
            name: shape for name, shape, _ in training.layout.places
        }
        assert all((tensor == rank).all() for tensor in held.values())
    begun = {"exchange": {"residual": torch.zeros(d), "range": torch.zeros(2)}}
    _, _, own = recorder(saved).restore(1, {}, begun)
    assert torch.equal(own["exchange"]["residual"], torch.ones(d))
    own["exchange"]["range"].add_(1)
    assert torch.equal(recorder(saved).restore(1, {}, begun)[2]["exchange"]["range"], torch.zeros(2))


def test_a_checkpoint_of_other_codecs_is_refused(recorder, training, tmp_path):
    tree, d = {"parameters": training.initial()}, training.layout.numel
    record = recorder()
    for rank in range(2):
        record.commit(rank, 3, 0.0, 1.0, tree, {"exchange": {"residual": torch.zeros(d)}})
    record = recorder(checkpoint.latest(tmp_path / "checkpoints", 1))
    others = {"exchange": {}}, {"exchange": {"residual": torch.zeros(d), "momentum": torch.zeros(d)}}
    for given, name in zip(others, ("residual", "momentum"), strict=True):
        with pytest.raises(QuorateError) as error:
            record.restore(0, tree, given)
        assert str(error.value) == (
            f"the checkpoint of step 3 does not fit the recipe: it is of other codecs, which remember `exchange.{name}`"
            "\nhint: leave [[codec]] as it was, or begin a new run"
        )
    assert record.restore(0, tree, {"exchange": {"residual": torch.zeros(d)}})[0] == 3
