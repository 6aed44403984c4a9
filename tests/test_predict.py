"""What `quorate check` says of compressed messages."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from quorate import index_coding
from quorate.cluster import Cluster
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.int8 import Int8
from quorate.codecs.power_sgd import PowerSgd
from quorate.codecs.sampled_k import SampledK
from quorate.codecs.top_k import TopK
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.predict import SIZES, predicted, spoken
from quorate.rand import At, Rand
from quorate.report import units
from quorate.sparse_collectives.ring import ring
from quorate.spoken import require_meetings
from tests.commands import call, refusal, write_recipe
from tests.tiny import randn, simulate

SLOW = {"latency": "5 ms", "uplink": "10 Mbit/s", "downlink": "10 Mbit/s"}
REMEMBER = {"name": "error_feedback"}


@pytest.fixture
def checked(monkeypatch, capsys, tmp_path):
    """Check a recipe that passes; return the lines, spaces joined."""

    def check(**changes):
        assert call(monkeypatch, "check", write_recipe(tmp_path, changes)) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return check


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Check a recipe that does not pass; return what it is told."""
    return lambda ready="first_run", **changes: refusal(
        monkeypatch, capsys, "check", write_recipe(tmp_path, changes, ready)
    )


def test_says_how_many_bytes_and_seconds_a_sparse_meeting_takes(checked):
    lines = checked(codec=[REMEMBER, {"name": "top_k", "ratio": 0.01}], cluster=SLOW, workers=4)
    counts = [(round(size / 4), max(1, round(size / 400))) for size in SIZES]
    said = [4 * k + index_coding.size(k, d) for d, k in counts]
    assert " ".join(["a worker says", *map(units.size, said)]) in lines
    assert " ".join(["it remembers", *map(units.size, SIZES)]) in lines
    assert "4 workers fill 3.16 % 3.94 % 3.94 %" in lines
    assert "in a meeting updates are gathered, decoded and aggregated" in lines
    start = lines.index("a meeting should take 1.00 kB 100 kB 10.0 MB")
    gathered = [units.seconds(10e-3 + 3 * each / 1.25e6) for each in said]
    assert lines[start + 1] == " ".join(["gather (used)", *gathered])
    assert "auto, which takes gather gather gather" in lines
    assert {line.split(" ")[0] for line in lines[start + 4 :]} == {"dense", "ring", "tree", "uncompressed"}
    assert "uncompressed 61.2 ms 180 ms 12.1 s" in lines


@pytest.mark.parametrize(
    ("changes", "wanted", "hint"),
    [
        ({"codec": [{"name": "top_k", "ratio": 0.1}], "workers": 50}, "4.56 s instead of 1.67 s", "ring"),
        ({"codec": [REMEMBER, {"name": "top_k", "ratio": 0.1}], "workers": 50}, "4.56 s instead of 1.67 s", "tree"),
        ({"codec": [{"name": "int8"}], "workers": 20}, "3.82 s instead of 1.56 s", None),
    ],
)
def test_says_so_where_compression_makes_a_meeting_slower(changes, wanted, hint, checked):
    lines = checked(**changes)
    told = lines.index(f"an update of 10.0 MB takes longer than uncompressed: {wanted}")
    if hint is None:
        assert lines[told + 1] == 'hint: [[codec]] name = "fp16", which is summed on its way, or fewer workers'
    else:
        assert lines[told + 1] == f'hint: name = "{hint}" in [sparse_collective]'
        better = checked(**changes, sparse_collective={"name": hint})
        assert not [line for line in better if "update of 10.0 MB takes longer" in line]


def test_says_that_values_of_a_chain_are_decoded_before_they_are_merged(checked):
    chain = [REMEMBER, {"name": "top_k"}, {"name": "int8"}]
    said = {way: checked(codec=chain, sparse_collective={"name": way}) for way in ("gather", "ring", "tree")}
    assert "in a meeting updates are gathered, decoded and aggregated" in said["gather"]
    assert "in a meeting updates are combined by `ring`, as they are decoded" in said["ring"]
    assert "combined by `tree`, as they are decoded; the rest goes back to who said it" in " ".join(said["tree"])


def test_counts_messages_that_vary_on_a_bell_shaped_update(checked):
    said = spoken(Exchange(ErrorFeedback(SampledK(0.01))), 10e6, 4)
    assert not said.exact
    assert said.said == pytest.approx(4 * 25_000 + index_coding.size(25_000, 2_500_000), rel=1 / 3)
    assert any(line.startswith("a worker says, about") for line in checked(codec=[{"name": "sampled_k"}]))


def test_meetings_of_a_codec_s_own_are_all_counted(checked):
    lines = checked(codec=[{"name": "power_sgd"}], cluster=SLOW, workers=4)
    assert "in a meeting updates are summed on their way, in meetings of the codec's own" in lines
    told = lines.index("an update of 1.00 kB takes longer than uncompressed: 120 ms instead of 61.2 ms")
    assert lines[told + 1].startswith('hint: name = "')
    assert any(line.startswith("direct 20.") for line in lines)  # two meetings of 10 ms


def test_nothing_is_said_of_what_is_not_compressed(checked):
    lines = checked()
    assert not [line for line in lines if line.startswith(("a worker says", "uncompressed", "hint"))]
    assert "summed by backend" in lines


@pytest.mark.parametrize("way", ["gather", "ring"])
@pytest.mark.parametrize("codec", [TopK(0.01), SampledK(0.05), Chain((TopK(0.05), Int8()))])
def test_the_simulator_takes_the_seconds_that_were_predicted(way, codec):
    links, n, size = Cluster(seconds_per_sample=0.0, latency=0.01, uplink=1e5, downlink=1e5), 4, 100e3
    exchange = Exchange(codec, sparse_collective=ring) if way == "ring" else Exchange(codec)

    async def program(node):
        mine = randn(round(size / 4), seed=node.rank)
        await exchange(node, mine, exchange.init(mine), At(0, node.rank, n, Rand(0)))
        return node.now()

    took = max(simulate(program, n, links))
    tables, _ = predicted(exchange, way, links, n)
    row = [cells for cells in zip(*[column.cells for column in tables[1].columns], strict=True) if "(used)" in cells[0]]
    said = float(row[0][1 + SIZES.index(size)].split()[0]) / {"ms": 1e3, "s": 1}[row[0][2].split()[1]]
    assert took == pytest.approx(said, rel=0.15)


def test_recipes_that_ask_for_the_impossible_are_refused(refused):
    sparse = partial(refused, sparse_collective={"name": "tree"})
    assert sparse(codec=[{"name": "top_k"}]).endswith(
        'hint: put [[codec]] name = "error_feedback" first, or name = "ring" in [sparse_collective]'
    )
    assert "begins with no sparsifier" in sparse(codec=[{"name": "fp16"}])
    assert "hint: leave out [sparse_collective]" in sparse("gossip", codec=[REMEMBER, {"name": "top_k"}])
    assert "needs all workers to meet" in refused("gossip", codec=[{"name": "power_sgd"}])
    assert "did you mean `ring`?" in refused(codec=[REMEMBER, {"name": "top_k"}], sparse_collective={"name": "rings"})


@pytest.mark.parametrize(
    ("exchange", "says"),
    [
        (Exchange(PowerSgd()), "needs meetings of all workers, but in `pairs` a worker talks to single ones"),
        (Exchange(TopK(), sparse_collective=ring), "nothing is summed in meetings of `pairs`"),
    ],
)
def test_programs_in_pairs_have_no_use_for_meetings_of_all(exchange, says):
    with pytest.raises(RecipeError, match=says):
        require_meetings(exchange, "pairs")
    require_meetings(Exchange(TopK()), "pairs")


def test_an_update_that_is_encoded_for_the_prediction_is_not_drawn_from_the_run_s_chance():
    before = torch.get_rng_state()
    spoken(Exchange(SampledK(0.1)), 1e3, 2)
    assert torch.equal(torch.get_rng_state(), before)
