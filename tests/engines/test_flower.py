from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="needs `pip install -e '.[flower]'`, in an environment of its own")

from flwr.app import ConfigRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from quorate import flower_apps, run
from quorate.engines.federation_blobs import Blob
from quorate.engines.federation_frames import Failed, Garbled, Offer
from quorate.engines.flower_messages import Errand, digest, read, record, require_fitting, tensors
from quorate.errors import RunError
from quorate.federated.record import read_rounds
from quorate.flower_folder import write_app
from quorate.recipe import Recipe, load, parse
from tests.engines.flower_grid import Broken, Grid
from tests.engines.star_lab import RECIPE, recipe

CALM = {"quorum": "quorum = 3", "alone": "alone = false\nclients = 0"}


@pytest.fixture(autouse=True)
def _within_flower(monkeypatch):
    """Flower makes messages in processes of its own only, which know these numbers."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def served(where: Path, grid: Grid, chosen: Recipe, told=lambda text: None):
    return flower_apps.serve(where, chosen, grid, told=told, poll=0.01)


def simulated(where: Path, chosen: Recipe) -> str:
    return run.simulate(chosen, chosen.workers, where)["parameters_sha256"]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"[optimizer]": '[[codec]]\nname = "error_feedback"\n[[codec]]\nname = "top_k"\nratio = 0.05\n[optimizer]'},
        {"[optimizer]": '[algorithm]\nname = "scaffold"\n[optimizer]'},
    ],
    ids=["fed_avg", "error_feedback", "scaffold"],
)
def test_a_federation_on_flower_has_the_bits_of_the_simulation(tmp_path, more):
    chosen = recipe(**CALM, **more)
    result = served(tmp_path / "run", Grid(chosen, tmp_path / "homes"), chosen)
    assert result["parameters_sha256"] == simulated(tmp_path / "simulated", chosen)
    assert [line["accepted"] for line in read_rounds(tmp_path / "run")] == [[0, 1, 2]] * 3


def test_an_asynchronous_program_runs_on_flower(tmp_path):
    buffered = RECIPE.replace('name = "federated"', 'name = "fed_buff"\nconcurrency = 3')
    chosen = parse(buffered.replace("cohort = 3\nquorum = 2", "buffer = 2"), "buffered", Path())
    result = served(tmp_path / "run", Grid(chosen, tmp_path / "homes"), chosen)
    assert result["steps"] == 3
    assert all(len(line["accepted"]) >= 2 for line in read_rounds(tmp_path / "run"))


def test_clients_measure_themselves_and_train_alone_when_asked(tmp_path):
    chosen = recipe(alone="alone = true")
    served(tmp_path / "run", Grid(chosen, tmp_path / "homes"), chosen)
    values = json.loads((tmp_path / "run" / "clients.json").read_text())
    for name in ("federated", "alone"):
        assert all(0 < value <= 1 for value in values[name])


@pytest.mark.parametrize("crash", [2, 5, 8])
def test_a_run_that_was_killed_goes_on_in_another_run_of_flowers(tmp_path, crash):
    """Error feedback's residuals, which clients keep, go on as well: the bits show it."""
    codec = '[[codec]]\nname = "error_feedback"\n[[codec]]\nname = "top_k"\nratio = 0.05\n[optimizer]'
    chosen = recipe(**CALM, **{"[optimizer]": codec})
    with pytest.raises(Broken):
        served(tmp_path / "run", Grid(chosen, tmp_path / "homes", breaks=crash), chosen)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    result = served(tmp_path / "run", Grid(chosen, tmp_path / "homes"), chosen)
    assert result["parameters_sha256"] == simulated(tmp_path / "simulated", chosen)


def test_a_run_of_another_recipe_is_not_gone_on_with(tmp_path):
    chosen = recipe(**CALM)
    served(tmp_path / "run", Grid(chosen, tmp_path / "homes"), chosen)
    with pytest.raises(RunError, match="differs in program"):
        served(tmp_path / "run", Grid(chosen, tmp_path / "homes"), recipe(**CALM, rounds="rounds = 4"))


def test_a_client_that_sends_garbage_is_named_and_the_round_goes_on(tmp_path):
    chosen = recipe(alone="alone = false\nclients = 0")

    def spoiled(client: int, reply: RecordDict) -> RecordDict:
        return reply if client != 1 else RecordDict({"quorate": ConfigRecord({"kind": "offer", "header": "{"})})

    result = served(tmp_path / "run", Grid(chosen, tmp_path / "homes", change=spoiled), chosen)
    gone = [each for line in read_rounds(tmp_path / "run") for each in line["gone"]]
    assert result["steps"] == 3
    assert {each["client"] for each in gone} == {1}
    assert all(each["hostile"] and "offer" in each["why"] for each in gone)


def test_a_client_that_sends_nan_or_another_shape_is_refused(tmp_path):
    def spoiled(client: int, reply: RecordDict) -> RecordDict:
        header, content = read(reply, (Offer,))
        if client == 0:
            wrong = torch.full((3,), 1.0)
            blob = Blob({"update": (wrong,)}, 1 << 20)
            changed = header.model_copy(update={"tensors": blob.specs, "bytes": blob.bytes})
            return record(changed, blob.read(0, blob.bytes))
        return record(header, torch.full((len(content) // 4,), torch.nan).numpy().tobytes()) if client == 1 else reply

    chosen = recipe(alone="alone = false\nclients = 0", quorum="quorum = 1")
    served(tmp_path / "run", Grid(chosen, tmp_path / "homes", change=spoiled), chosen)
    first = read_rounds(tmp_path / "run")[0]
    assert first["accepted"] == [2]
    assert {each["client"] for each in first["gone"]} == {0}
    assert {each["client"] for each in first["refused"]} == {1}
    assert "NaN" in first["refused"][0]["why"]


def test_a_node_that_vanishes_costs_its_own_update_only(tmp_path):
    chosen = recipe(alone="alone = false\nclients = 0")
    result = served(tmp_path / "run", Grid(chosen, tmp_path / "homes", vanish={2}), chosen)
    gone = [each for line in read_rounds(tmp_path / "run") for each in line["gone"]]
    assert result["steps"] == 3
    assert {each["client"] for each in gone} == {2}
    assert "away" in gone[0]["why"]


def test_nodes_of_another_recipe_or_of_a_number_that_is_taken_take_no_part(tmp_path):
    chosen, said = recipe(**CALM), []
    grid = Grid(chosen, tmp_path / "homes")
    grid.add(7, 1)
    grid.add(8, 2, recipe(**CALM, batch="batch = 10"))
    served(tmp_path / "run", grid, chosen, said.append)
    refused = [text for text in said if "takes no part" in text]
    assert any("client 1, as node" in text for text in refused)
    assert any("its recipe differs in program" in text for text in refused)


def test_what_was_not_accepted_has_not_happened(tmp_path):
    """A reply's memory is taken over when a later request says that it was accepted, and only then."""
    chosen = recipe(
        **CALM, **{"[optimizer]": '[[codec]]\nname = "error_feedback"\n[[codec]]\nname = "sign"\n[optimizer]'}
    )
    client = flower_apps.client(chosen, {"partition-id": 0, "num-partitions": 3, "home": str(tmp_path)})
    training = chosen.training(3, None)
    blob = Blob({"parameters": (training.initial(),)}, 1 << 20)

    def asked(round: int, last: str | None) -> tuple[str, bytes]:
        errand = Errand(
            id="0" * 32,
            run="a" * 32,
            last=last,
            round=round,
            what="train",
            numbers={},
            tensors=blob.specs,
            bytes=blob.bytes,
        )
        errand = errand.model_copy(update={"id": digest(errand.model_copy(update={"last": None}), blob.sha256)})
        header, content = read(client.work(record(errand, blob.read(0, blob.bytes))), (Offer, Failed))
        assert isinstance(header, Offer)
        return header.id, content

    first, said = asked(0, None)
    assert asked(0, None) == (first, said)
    _, dropped = asked(1, None)
    _, again = asked(2, None)
    asked(0, None)
    _, accepted = asked(1, first)
    assert dropped != accepted
    assert again != said


def test_a_client_says_why_it_could_not_work(tmp_path):
    chosen = recipe(**CALM)
    client = flower_apps.client(chosen, {"partition-id": 0, "num-partitions": 3, "home": str(tmp_path)})
    errand = Errand(id="0" * 32, run="a" * 32, last=None, round=0, what="dance", numbers={}, tensors=(), bytes=0)
    header, _ = read(client.work(record(errand)), (Offer, Failed))
    assert isinstance(header, Failed)
    assert "dance" in header.why


@pytest.mark.parametrize(
    "node",
    [{}, {"partition-id": "0"}, {"partition-id": -1}, {"partition-id": 3, "num-partitions": 3}, {"partition-id": True}],
)
def test_a_node_that_is_no_client_is_told_what_to_type(node):
    with pytest.raises(RunError, match=r"hint: .*partition-id="):
        flower_apps.client(recipe(**CALM), node)


def test_peers_are_refused_on_flower(tmp_path):
    peers = tmp_path / "peers.toml"
    peers.write_text(
        '[task]\nname = "digits"\n[program]\nname = "local_sgd"\nsteps = 3\n[optimizer]\nname = "sgd"\nlr = 0.1\n'
    )
    with pytest.raises(RunError, match="no program of a federation"):
        write_app(tmp_path / "app", load(peers), tmp_path)


@given(st.dictionaries(st.text(max_size=9), st.one_of(st.text(max_size=60), st.integers(-9, 9), st.binary(max_size=9))))
def test_garbled_records_are_refused_by_name(told):
    with pytest.raises(Garbled):
        read(RecordDict({"quorate": ConfigRecord(told)}), (Errand, Offer))


@given(st.integers(0, 2000), st.integers(0, 200))
def test_tensors_of_other_lengths_than_declared_are_refused(cut, more):
    blob = Blob({"update": (torch.arange(200.0),)}, 1 << 20)
    content = (blob.read(0, blob.bytes) + bytes(more))[: max(0, blob.bytes + more - cut)]
    limits = {"update": (torch.zeros(200),)}
    if len(content) == blob.bytes:
        require_fitting(blob.specs, blob.bytes, content, limits)
        assert len(tensors(blob.specs, content)["update"][0]) == 200
    else:
        with pytest.raises(Garbled):
            require_fitting(blob.specs, blob.bytes, content, limits)


def test_the_folder_holds_an_app_that_flower_takes(tmp_path):
    from flwr.common.config import validate_config

    (tmp_path / "mine.py").write_text(
        "from quorate.tasks.digits import digits\n\n\ndef own(*, hidden: int = 64):\n    return digits(hidden=hidden)\n"
    )
    chosen = tmp_path / "own.toml"
    chosen.write_text(recipe(**CALM).to_toml().replace('name = "digits"', 'name = "mine.py:own"'))
    write_app(tmp_path / "app", load(chosen), tmp_path / "out")
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())
    valid, errors, _ = validate_config(project, True, tmp_path / "app")
    assert valid, errors
    held = load(tmp_path / "app" / "federation_app" / "recipe.toml")
    assert held.tables["task"]["name"] == "mine.py:own"
    assert held.task(None).train
    with pytest.raises(RunError, match="not empty"):
        write_app(tmp_path / "app", load(chosen), tmp_path / "out")
